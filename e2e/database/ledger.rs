//! Swaps that are written down in the ledger, as the operator writes them.

use portal_release_operator::database::commit;
use portal_release_operator::database::connection::connect;
use portal_release_operator::database::identifiers::Generation;
use portal_release_operator::database::ledger::exchange::{Exchange, record_exchange, set_incoming_rows};
use portal_release_operator::database::swap;
use portal_release_operator::release::RunKind;
use tokio_util::sync::CancellationToken;

use crate::harness::{Portal, order};

/// The portal's name in the ledger.
pub(crate) const KEY: &str = "test/portal";

impl Portal {
    /// Brings the ledger's schema up to date, as the operator does when it connects.
    pub(crate) async fn with_ledger(&self) {
        let options = self.pool.connect_options();
        let (host, port, database) = (options.get_host(), options.get_port(), options.get_database().unwrap());
        let url = format!("postgres://{}:test@{host}:{port}/{database}", self.owner);
        let (pool, _) = connect(&url, "public", "test").await.unwrap();
        pool.close().await;
        self.run(&format!("INSERT INTO portal_release.portals (portal) VALUES ('{KEY}')")).await;
    }

    /// A release of the ledger that is about to swap, with the rows of its staging in its manifest. Returns its id.
    pub(crate) async fn release_row(&self, label: &str) -> i64 {
        let rows: String = self
            .get(
                "SELECT jsonb_build_object('tables', jsonb_build_object(
                    'sources', jsonb_build_object('rows', (SELECT count(*) FROM staging_sources)),
                    'protected_areas', jsonb_build_object('rows', (SELECT count(*) FROM staging_protected_areas)),
                    'countries_pas', jsonb_build_object('rows', (SELECT count(*) FROM staging_countries_pas))))::text",
            )
            .await;
        self.get(&format!(
            "INSERT INTO portal_release.releases (portal, label, name, uid, state, manifest) VALUES ('{KEY}', '{label}', '{label}', '{label}', 'Running', '{rows}') RETURNING id"
        ))
        .await
    }

    /// An open run of a release.
    pub(crate) async fn open_run(&self, release: i64, kind: RunKind) -> i64 {
        self.get(&format!(
            "INSERT INTO portal_release.runs (portal, release_id, kind) VALUES ('{KEY}', {release}, '{}') RETURNING id",
            kind.as_str()
        ))
        .await
    }

    /// A swap and its rows in the ledger, in one transaction, in a run of its own.
    pub(crate) async fn recorded_exchange(&self, release: i64, kind: RunKind, incoming: &Generation, outgoing: &Generation) {
        let run = self.open_run(release, kind).await;
        let mut conn = self.pool.acquire().await.unwrap();
        let mut rows = std::collections::BTreeMap::new();
        for table in &self.relations.tables {
            rows.insert(table.clone(), self.get::<i64>(&format!("SELECT count(*) FROM {}", incoming.name(table))).await);
        }
        set_incoming_rows(&mut conn, run, &rows).await.unwrap();
        let order = order(&self.relations, incoming, outgoing);
        let (mut tx, exchanged) = swap::exchange(&self.pool, &order, &self.pool, &CancellationToken::new()).await.unwrap();
        let exchange = Exchange {
            portal: KEY.to_owned(),
            release,
            source: kind.incoming(),
            phase: "FinaliseSwap",
            incoming,
            outgoing,
            moved: &exchanged.moved,
        };
        record_exchange(&mut tx, &exchange).await.unwrap();
        commit(tx).await.unwrap();
        self.run(&format!("UPDATE portal_release.runs SET closed_at = now() WHERE id = {run}")).await;
    }
}

/// What a role or a database is set to does not reach the operator's sessions.
#[test]
fn a_session_has_its_own_settings() {
    crate::harness::with_portal(async |portal: std::sync::Arc<Portal>| {
        let settings = [
            ("lock_timeout", "1ms", "0"),
            ("default_transaction_read_only", "on", "off"),
            ("statement_timeout", "1ms", "0"),
            ("idle_in_transaction_session_timeout", "1ms", "0"),
            ("default_transaction_isolation", "serializable", "read committed"),
            ("timezone", "Asia/Kolkata", "UTC"),
        ];
        for (name, value, _) in settings {
            let sql = format!("ALTER ROLE {} SET {name} = '{value}'", portal.owner);
            sqlx::raw_sql(sqlx::AssertSqlSafe(sql)).execute(&portal.admin).await.unwrap();
        }
        let options = portal.pool.connect_options();
        let (host, port, database) = (options.get_host(), options.get_port(), options.get_database().unwrap());
        let url = format!("postgres://{}:test@{host}:{port}/{database}", portal.owner);
        let (pool, _) = connect(&url, "public", "test").await.unwrap();
        for (name, _, ours) in settings {
            let value: String = sqlx::query_scalar("SELECT current_setting($1)").bind(name).fetch_one(&pool).await.unwrap();
            assert_eq!(value, ours, "{name}");
        }
        pool.close().await;
    });
}

/// An operator of before reopens a run and does not know that its definition is to be resolved again.
#[test]
fn the_definition_of_a_reopened_run_is_stale() {
    crate::harness::with_portal(async |portal: std::sync::Arc<Portal>| {
        portal.with_ledger().await;
        let release = format!(
            "INSERT INTO portal_release.releases (portal, label, name, uid, state) VALUES ('{KEY}', 'Jul2026', 'jul', 'u', 'Running') RETURNING id"
        );
        let run = portal.open_run(portal.get(&release).await, RunKind::Release).await;
        portal
            .run(&format!(
                "INSERT INTO portal_release.definitions (run_id, portal, release, sources, spec_hash, hash) VALUES ({run}, '{{}}', '{{}}', '{{}}', '', '')"
            ))
            .await;
        let stale = "SELECT stale FROM portal_release.definitions";
        portal.run(&format!("UPDATE portal_release.runs SET closed_at = now() WHERE id = {run}")).await;
        assert!(!portal.get::<bool>(stale).await, "closing it changes nothing");
        portal.run(&format!("UPDATE portal_release.runs SET closed_at = NULL WHERE id = {run}")).await;
        assert!(portal.get::<bool>(stale).await);
    });
}
