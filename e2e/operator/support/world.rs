//! What a release must not touch, and the small changes that tests make around it.

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ConfigMap;
use kube::{Api, api::PostParams};
use portal_release_operator::api::{Import, PhaseName, PhaseState, PortalReleaseStatus, PortalSpec, ReleaseState, Sql};

use super::{
    Stage,
    stage::{condition, stalled},
    until,
};

/// Every relation that is not the release's own staging, with its identity and its content.
pub type World = BTreeMap<String, String>;

impl Stage {
    /// Reads all relations of the database but the ledger and the staged twins of live relations.
    pub async fn world(&self) -> World {
        let portal = self.portals().get("protected-planet").await.expect("the Portal").spec;
        let views = portal.materialized_views.iter().map(|view| view.name.to_string());
        let own: Vec<String> = portal.tables.swapped().into_iter().chain(portal.tables.lookups()).chain(views).collect();
        let parts: Vec<(String, String, Option<String>)> = sqlx::query_as(
            "SELECT format('%I.%I', nspname, relname), format('%s of kind %s', c.oid, relkind),
                    CASE WHEN relkind IN ('r', 'm', 'v') THEN
                       format('SELECT md5(coalesce(string_agg(h, '''' ORDER BY h), '''')) FROM (SELECT md5(t::text) AS h FROM %I.%I t) AS hashes', nspname, relname) END
             FROM pg_class c JOIN pg_namespace n ON n.oid = relnamespace
             WHERE nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'portal_release') AND relkind IN ('r', 'm', 'v', 'i', 'S', 'f')
               AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
               AND NOT (nspname = 'public' AND EXISTS (SELECT FROM unnest($1::text[]) AS own
                        WHERE starts_with(coalesce((SELECT t.relname FROM pg_index i JOIN pg_class t ON t.oid = i.indrelid WHERE i.indexrelid = c.oid), relname), 'staging_' || own)))",
        )
        .bind(own)
        .fetch_all(&self.database)
        .await
        .expect("the catalogue");
        let mut world = World::new();
        for (name, identity, query) in parts {
            let content = match query {
                Some(query) => self.text(&query).await,
                None => String::new(),
            };
            world.insert(name, format!("{identity} {content}"));
        }
        world
    }

    /// How many backends are in pg_sleep.
    pub async fn sleeping(&self) -> String {
        self.text("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event = 'PgSleep'").await
    }

    /// Runs of the ledger that have not ended.
    pub async fn open_runs(&self) -> String {
        self.text("SELECT count(*) FROM portal_release.runs WHERE closed_at IS NULL").await
    }

    /// Nothing of a release is left but what it may keep: workers are back, the lock is free, no run is open, and the rest of the
    /// world is as it was.
    pub async fn assert_untouched(&self, before: &World, after: &str) {
        assert_eq!(self.workers().await, Self::WORKERS, "workers are back after {after}");
        assert!(!self.is_locked().await, "the lock is free after {after}");
        assert_eq!(self.open_runs().await, "0", "no run is open after {after}");
        let now = self.world().await;
        let changed: Vec<&String> =
            before.iter().chain(&now).map(|(name, _)| name).filter(|name| before.get(*name) != now.get(*name)).collect();
        assert!(changed.is_empty(), "{after} changed {changed:?}");
    }

    /// Makes a release that must fail in `phase`, with all of `words` in its message, and leaves nothing behind but its staging.
    pub async fn must_fail(&self, label: &str, phase: PhaseName, words: &[&str]) -> PortalReleaseStatus {
        let before = self.world().await;
        let name = label.to_lowercase();
        self.make_release(&name, label, "").await;
        let status = self.wait_failed(&name, phase, words).await;
        self.assert_untouched(&before, &format!("the failure of {label}")).await;
        status
    }

    /// Waits until a release has failed for good in `phase`, with all of `words` in its message.
    pub async fn wait_failed(&self, name: &str, phase: PhaseName, words: &[&str]) -> PortalReleaseStatus {
        let over = |status: &PortalReleaseStatus| {
            stalled(status) || matches!(status.state, Some(ReleaseState::Live | ReleaseState::DryRunComplete | ReleaseState::Suspended))
        };
        let status = self.wait(name, "Failed and Stalled", over).await;
        assert_eq!(status.state, Some(ReleaseState::Failed), "{name} is to fail in {phase} with {words:?}; it is {}", status.message);
        for word in words {
            assert!(status.message.contains(word), "'{word}' is missing in the message of {name}: {}", status.message);
        }
        assert!(status.message.starts_with(&format!("{phase} failed: ")), "{name}: {}", status.message);
        // Freeze is undone whatever happens, and says so in place of its failure.
        let state = status.phases.iter().find(|one| one.name == phase).map(|one| one.state);
        let wanted = if phase == PhaseName::Freeze { PhaseState::Undone } else { PhaseState::Failed };
        assert_eq!(state, Some(wanted), "{name}: {phase}");
        assert_eq!(condition(&status, "Ready"), "False");
        assert_eq!(condition(&status, "Reconciling"), "False");
        status
    }

    /// Changes the Portal.
    pub async fn change_portal(&self, change: impl Fn(&mut PortalSpec)) {
        until("the Portal is changed", || async {
            let mut portal = self.portals().get("protected-planet").await.expect("the Portal");
            change(&mut portal.spec);
            match self.portals().replace("protected-planet", &PostParams::default(), &portal).await {
                Ok(_) => Some(()),
                // The operator writes its status meanwhile.
                Err(kube::Error::Api(status)) if status.is_conflict() => None,
                Err(error) => panic!("the changed Portal was not taken: {error}"),
            }
        })
        .await;
    }

    /// Replaces the query of an import.
    pub async fn change_import(&self, name: &str, query: impl Fn(String) -> String) {
        self.change_portal(|portal| {
            let import = import(portal, name);
            let now = import.query.take().expect("a query in the Portal").0;
            import.query = Some(Sql(query(now)));
        })
        .await;
    }

    /// Replaces a part of a query in the Portal's ConfigMap.
    pub async fn change_sql(&self, key: &str, from: &str, to: &str) {
        let api: Api<ConfigMap> = Api::namespaced(self.client.clone(), &self.namespace);
        let mut config_map = api.get("portal-sql").await.expect("the ConfigMap");
        let sql = config_map.data.as_mut().and_then(|data| data.get_mut(key)).expect("the query");
        assert!(sql.contains(from), "'{from}' is in {key}");
        *sql = sql.replace(from, to);
        api.replace("portal-sql", &PostParams::default(), &config_map).await.expect("the changed ConfigMap is taken");
    }

    /// Changes the source's database.
    pub async fn change_source(&self, sql: &str) {
        let source = self.source().await;
        sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned())).execute(&source).await.unwrap_or_else(|error| panic!("{error}: {sql}"));
        source.close().await;
    }
}

/// An import of the Portal, by name.
pub fn import<'a>(portal: &'a mut PortalSpec, name: &str) -> &'a mut Import {
    let imports = &mut portal.imports;
    imports.core.iter_mut().chain(&mut imports.related).find(|import| import.name.as_str() == name).expect("the import")
}
