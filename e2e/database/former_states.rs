//! The record of stopped workers, which an older operator keeps in another table.

use std::path::Path;

use portal_release_operator::{
    api::{FrozenWorkload, WorkerKind},
    database::ledger::former_states::{Purpose, forget, frozen, remember_frozen},
};
use sqlx::migrate::Migrator;

use crate::{
    harness::{Portal, with_portal},
    ledger::KEY,
};

/// The schema as the last version had it that keeps its record in `frozen_workloads`.
const BEFORE: i64 = 5;

impl Portal {
    async fn with_the_older_ledger(&self) {
        let mut migrator = Migrator::new(Path::new("migrations")).await.unwrap();
        migrator.migrations.to_mut().retain(|migration| migration.version <= BEFORE);
        migrator.create_schema("portal_release");
        migrator.dangerous_set_table_name("portal_release._sqlx_migrations");
        migrator.run(&self.pool).await.unwrap();
        self.run(&format!("INSERT INTO portal_release.portals (portal) VALUES ('{KEY}')")).await;
    }

    /// As the last version wrote it.
    async fn record_as_before(&self, kind: &str, name: &str, replicas: i32, release: i64) {
        self.run(&format!(
            "INSERT INTO portal_release.frozen_workloads (portal, kind, name, replicas, release_id) VALUES ('{KEY}', '{kind}', '{name}', {replicas}, {release})
             ON CONFLICT (portal, kind, name) DO UPDATE SET release_id = {release}"
        ))
        .await;
    }

    /// As the last version read it.
    async fn recorded_as_before(&self) -> String {
        let list = "SELECT coalesce(string_agg(format('%s/%s=%s of %s', kind, name, replicas, release_id), ' ' ORDER BY kind, name), '') FROM portal_release.frozen_workloads";
        self.get(list).await
    }

    async fn frozen(&self) -> Vec<FrozenWorkload> {
        frozen(&mut self.pool.acquire().await.unwrap(), KEY).await.unwrap()
    }
}

fn workload(kind: WorkerKind, name: &str, replicas: i32) -> FrozenWorkload {
    FrozenWorkload { kind, name: name.to_owned(), replicas }
}

#[test]
fn an_older_operator_and_this_one_see_each_others_record() {
    with_portal(async |portal| {
        portal.with_the_older_ledger().await;
        portal.stage("second").await;
        let (first, second) = (portal.release_row("Jul2026").await, portal.release_row("Aug2026").await);
        portal.record_as_before("Deployment", "importer", 3, first).await;
        portal.record_as_before("CronJob", "exports", 1, first).await;

        // The upgrade, while workers are stopped.
        let options = portal.pool.connect_options();
        let (host, port, database) = (options.get_host(), options.get_port(), options.get_database().unwrap());
        let url = format!("postgres://{}:test@{host}:{port}/{database}", portal.owner);
        portal_release_operator::database::connection::connect(&url, "public", "test").await.unwrap().0.close().await;
        let both = [workload(WorkerKind::CronJob, "exports", 1), workload(WorkerKind::Deployment, "importer", 3)];
        assert_eq!(portal.frozen().await, both);

        // The former one records beside it; what is recorded stays, whoever sees a zero.
        portal.record_as_before("StatefulSet", "tiles", 2, second).await;
        let mut tx = portal.pool.begin().await.unwrap();
        let seen = [workload(WorkerKind::Deployment, "importer", 0), workload(WorkerKind::CronJob, "resting", 0)];
        remember_frozen(&mut tx, KEY, second, &seen).await.unwrap();
        tx.commit().await.unwrap();
        portal.record_as_before("StatefulSet", "tiles", 0, first).await;
        assert_eq!(
            portal.recorded_as_before().await,
            format!(
                "CronJob/exports=1 of {first} CronJob/resting=0 of {second} Deployment/importer=3 of {second} StatefulSet/tiles=2 of {first}"
            )
        );
        assert_eq!(portal.frozen().await.len(), 4);

        // Whoever brings the workers back, the other one does not stop or start them again.
        portal.run(&format!("DELETE FROM portal_release.frozen_workloads WHERE portal = '{KEY}'")).await;
        assert_eq!(portal.frozen().await, []);
        portal.record_as_before("Deployment", "importer", 3, first).await;
        forget(&mut portal.pool.acquire().await.unwrap(), KEY, Purpose::Freeze).await.unwrap();
        assert_eq!(portal.recorded_as_before().await, "");
    });
}
