//! An import by a Kubernetes Job, for the sample portal.

use k8s_openapi::api::batch::v1::Job;
use kube::{Api, ResourceExt, api::ListParams};
use serde_json::json;

use super::{Stage, world::import};

/// The evaluations of the source's month, from what the release has staged already.
pub const EVALUATIONS: &str = "INSERT INTO $STAGING_TABLE (asmt_id, site_id, protected_area_id, pame_source_id, methodology, asmt_year, submit_year, verification, restricted, info_url, release_month)
SELECT e.asmt_id, e.site_id, a.id, s.id, e.methodology, e.asmt_year, e.submit_year, e.verif, e.restricted, e.info_url, e.release_month
FROM $STAGING_OF_PORTAL_STANDARD_PAME e JOIN $STAGING_OF_PAME_SOURCES s ON s.metadataid = e.eff_metaid LEFT JOIN $STAGING_OF_PROTECTED_AREAS a ON a.site_id = e.site_id";
/// Waits at the tests' gate.
pub const GATE: &str = "SELECT pg_advisory_xact_lock_shared(4711)";
/// psql that stops at the first error.
pub const PSQL: &str = "psql \"$DATABASE_URL\" -v ON_ERROR_STOP=1 -qAt";

/// A Job that runs a shell script.
pub fn job(script: &str) -> String {
    let json = json!({
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"name": "pame-import", "labels": {"team": "data"}},
        "spec": {"template": {
            "metadata": {"annotations": {"e2e.local/run-delay": "24h"}},
            "spec": {"restartPolicy": "Never", "containers": [{
                "name": "importer",
                "image": "postgres:15",
                "command": ["sh", "-euc", script],
                "env": [{"name": "NOTE", "value": "$(PORTAL_RELEASE_LABEL) $$(PORTAL_NAME)"}],
            }]},
        }},
    });
    serde_json::to_string_pretty(&json).expect("JSON, which is YAML")
}

impl Stage {
    /// The evaluations come from a Job of this template from now on.
    pub async fn evaluations_by(&self, template: &str) {
        self.job_template(template).await;
        let source = serde_json::from_value(json!({"templateConfigMapRef": {"name": "portal-sql"}})).expect("a job section");
        self.change_portal(|portal| {
            let import = import(portal, "pame_evaluations");
            import.query = None;
            import.job = Some(Clone::clone(&source));
            import.max_rejected = "50%".into();
        })
        .await;
    }

    /// The ConfigMap holds this template.
    pub async fn job_template(&self, template: &str) {
        let patch = json!({"data": {"job.yaml": template}}).to_string();
        self.kubectl(&["patch", "configmap", "portal-sql", "--type", "merge", "-p", &patch], "").await.expect("the template is kept");
    }

    /// Names of the operator's Jobs that exist.
    pub async fn jobs(&self) -> Vec<String> {
        let jobs: Api<Job> = Api::namespaced(self.client.clone(), &self.namespace);
        let params = ListParams::default().labels("portalrelease.dev/portal=protected-planet");
        jobs.list(&params).await.expect("the Jobs").items.iter().map(ResourceExt::name_any).collect()
    }
}
