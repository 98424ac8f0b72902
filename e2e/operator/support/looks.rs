//! Observes a stage from all sides: the ledger, the workers, everything that readers can see.

use std::{
    path::Path,
    sync::atomic::{AtomicUsize, Ordering},
};

use k8s_openapi::api::{apps::v1::Deployment, core::v1::Pod};
use kube::{Api, api::ListParams};
use portal_release_operator::api::{PhaseName, PortalReleaseStatus};
use sqlx::AssertSqlSafe;

use super::{Operator, Stage, operator::present, until};

impl Stage {
    /// Starts an operator that halts at a point, and waits until it is halted there.
    pub async fn halted_at(&self, point: &str) -> Operator {
        self.halted_of(present(), point).await
    }

    /// The same with an operator of another version.
    pub async fn halted_of(&self, binary: &Path, point: &str) -> Operator {
        static COUNT: AtomicUsize = AtomicUsize::new(1);
        // A name, and so a log, of its own: an earlier operator may have halted at the same point.
        let name = format!("halted-{}-{}", point.replace(':', "-"), COUNT.fetch_add(1, Ordering::Relaxed));
        let operator = self.operator_of(binary, &name, &["--leader-election=false", "--halt-at", point]).await;
        operator.logs(&format!("halted at {point}")).await;
        operator
    }

    /// Starts an operator that leads at once, also when the one before was killed.
    pub async fn operator_alone(&self) -> Operator {
        self.operator_with("operator", &["--leader-election=false"]).await
    }

    /// How often phases of a label's latest run were begun, such as `BuildStaging=1 ImportCore=2`.
    pub async fn attempts(&self, label: &str, phases: &[PhaseName]) -> String {
        let list: Vec<String> = phases.iter().map(|phase| format!("'{phase}'")).collect();
        self.text(&format!(
            "SELECT string_agg(phase || '=' || attempts, ' ' ORDER BY position) FROM portal_release.phases WHERE phase IN ({})
             AND run_id = (SELECT max(u.id) FROM portal_release.runs u JOIN portal_release.releases r ON r.id = u.release_id WHERE r.label = '{label}')",
            list.join(", ")
        ))
        .await
    }

    /// The different numbers of attempts that a label's imports took, such as `1`.
    pub async fn import_attempts(&self, label: &str) -> String {
        self.text(&format!(
            "SELECT string_agg(DISTINCT attempts::text, ',') FROM portal_release.imports JOIN portal_release.releases r ON r.id = release_id WHERE r.label = '{label}'"
        ))
        .await
    }

    /// Messages of a label's events of one sort in the audit trail, one a line.
    pub async fn audit(&self, label: &str, event: &str) -> String {
        self.text(&format!(
            "SELECT string_agg(e.message, E'\\n' ORDER BY e.id) FROM portal_release.release_events e JOIN portal_release.releases r ON r.id = e.release_id
             WHERE r.label = '{label}' AND event = '{event}'"
        ))
        .await
    }

    /// Stopped workers as the ledger has them, such as `CronJob/nightly-exports=1 Deployment/importer-worker=3`.
    pub async fn recorded(&self) -> String {
        let now =
            "SELECT string_agg(kind || '/' || name || '=' || CASE field WHEN 'suspend' THEN (NOT value::boolean)::int ELSE value::int END,
                ' ' ORDER BY kind, name) FROM portal_release.former_states WHERE purpose = 'Freeze'";
        // An older operator reads this one.
        let before =
            "SELECT string_agg(kind || '/' || name || '=' || replicas, ' ' ORDER BY kind, name) FROM portal_release.frozen_workloads";
        let in_step = self.text(&format!("SELECT ({now}) IS NOT DISTINCT FROM ({before})")).await;
        assert_eq!(in_step, "true", "former_states and frozen_workloads say the same");
        self.text(now).await
    }

    /// Waits until the Portal says of its present spec whether the workers are frozen.
    pub async fn portal_frozen(&self, word: &str) {
        until(&format!("WorkersFrozen is {word}"), || async {
            let portal = self.portals().get("protected-planet").await.ok()?;
            let generation = portal.metadata.generation;
            let said = portal.status?.conditions.into_iter().find(|condition| condition.type_ == "WorkersFrozen")?;
            (said.observed_generation == generation && said.status == word).then_some(())
        })
        .await;
    }

    /// Everything that the release replaces, as readers see it: one line for each relation, index and sequence, with its OID, who may
    /// do what with it, and a hash of the rows.
    pub async fn live(&self) -> Vec<String> {
        let relations = "FROM pg_class c WHERE relnamespace = 'public'::regnamespace AND relowner = 'portal_owner'::regrole
             AND relname !~ '^(staging_|bk[0-9]{10}_)' AND relkind IN ('r', 'm', 'v', 'S', 'i')";
        // Look-up tables keep what a release added.
        let rows = "relkind IN ('r', 'm', 'v') AND relname NOT IN ('countries', 'designations', 'governances', 'iucn_categories', 'legal_statuses', 'realms', 'regions')";
        let looks = self
            .text(&format!(
                "SELECT string_agg(CASE WHEN {rows} THEN format('SELECT %L || md5(string_agg(t::text, '';'' ORDER BY t::text)) FROM public.%I t', line, relname)
                                        ELSE format('SELECT %L', line) END, ' UNION ALL ')
                 FROM (SELECT relname, relkind, format('%s %s oid %s, options %s, grants %s %s, view %s, rows ', relkind, relname, oid, reloptions, relacl,
                           (SELECT string_agg(attname || attacl::text, ',' ORDER BY attnum) FROM pg_attribute WHERE attrelid = c.oid AND attacl IS NOT NULL),
                           CASE WHEN relkind = 'v' THEN md5(pg_get_viewdef(oid)) END) AS line {relations}) AS looks"
            ))
            .await;
        let lines = self.text(&format!("SELECT string_agg(line, E'\n' ORDER BY line) FROM ({looks}) AS lines(line)")).await;
        lines.lines().map(str::to_owned).collect()
    }

    /// Inserts a row as the site would. Its id must be one that no row has, or the insert fails.
    pub async fn inserts_get_fresh_ids(&self) {
        for insert in [
            "INSERT INTO story_map_links (protected_area_id, link, release_month) SELECT min(id), 'https://site.example/' || random(), min(release_month) FROM protected_areas",
            "INSERT INTO no_take_statuses (name, area, release_month) SELECT 'by hand ' || random(), 0, min(release_month) FROM protected_areas",
        ] {
            let mut tx = self.database.begin().await.expect("a transaction");
            sqlx::query("SET LOCAL ROLE portal_owner").execute(&mut *tx).await.expect("the site's role");
            sqlx::raw_sql(AssertSqlSafe(insert)).execute(&mut *tx).await.unwrap_or_else(|error| panic!("{error}: {insert}"));
            tx.rollback().await.expect("rolled back");
        }
    }

    /// Deletes a release and waits until it is gone.
    pub async fn delete_and_wait(&self, name: &str) {
        self.kubectl(&["delete", "portalrelease", name, "--wait=false"], "").await.expect("deleted");
        self.wait_gone(name).await;
    }

    /// Pods of the workers, terminating ones too.
    pub async fn worker_pods(&self) -> usize {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), &self.namespace);
        let params = ListParams::default().labels("app in (importer-worker, tile-worker)");
        pods.list(&params).await.expect("the pods").items.len()
    }

    /// Waits until the workers have all their pods.
    pub async fn workers_run(&self) {
        until("5 pods of the workers", || async { (self.worker_pods().await == 5).then_some(()) }).await;
    }

    /// The workload that serves readers, as far as anybody could have changed it.
    pub async fn portal_api(&self) -> String {
        let deployments: Api<Deployment> = Api::namespaced(self.client.clone(), &self.namespace);
        let found = deployments.get("portal-api").await.expect("the Deployment");
        let managers: Vec<String> =
            found.metadata.managed_fields.unwrap_or_default().into_iter().filter_map(|entry| entry.manager).collect();
        format!(
            "generation {:?}, {:?} replicas, written by {managers:?}",
            found.metadata.generation,
            found.spec.and_then(|spec| spec.replicas)
        )
    }

    /// Notes of the Kubernetes events with a reason, about one object.
    pub async fn event_notes(&self, object: &str, reason: &str) -> Vec<String> {
        use k8s_openapi::api::events::v1::Event;
        let events: Api<Event> = Api::namespaced(self.client.clone(), &self.namespace);
        let all = events.list(&ListParams::default()).await.expect("the events");
        all.items
            .into_iter()
            .filter(|event| event.reason.as_deref() == Some(reason))
            .filter(|event| event.regarding.as_ref().and_then(|object| object.name.as_deref()) == Some(object))
            .filter_map(|event| event.note)
            .collect()
    }
}

/// The workers that a status says are stopped, such as `CronJob/nightly-exports=1`.
pub fn stopped(status: &PortalReleaseStatus) -> String {
    let list: Vec<String> = status
        .frozen_workloads
        .iter()
        .map(|workload| format!("{}/{}={}", workload.kind.as_str(), workload.name, workload.replicas))
        .collect();
    list.join(" ")
}

/// What is recorded of the sample's workers while they are stopped.
pub const RECORD: &str = "CronJob/nightly-exports=1 Deployment/importer-worker=3 StatefulSet/tile-worker=2";

/// Two snapshots of what is live must be the same; the lines that differ are shown.
pub fn assert_same(now: &[String], before: &[String], what: &str) {
    let lines = |these: &[String], others: &[String]| these.iter().filter(|line| !others.contains(line)).cloned().collect::<Vec<_>>();
    assert!(!before.is_empty(), "{what}: nothing was observed");
    assert_eq!(lines(now, before), lines(before, now), "{what}");
}
