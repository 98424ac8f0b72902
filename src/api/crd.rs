//! The CRDs, as generated from the types, with what the derive cannot say.

use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::{CustomResourceDefinition, JSON, JSONSchemaProps};
use kube::CustomResourceExt;
use serde_json::json;

use super::{Portal, PortalRelease};

/// The CRDs of every kind.
pub fn crds() -> Vec<CustomResourceDefinition> {
    [Portal::crd(), PortalRelease::crd()].into_iter().map(never_healthy_unseen).collect()
}

/// The CRDs with their file names under `crds/`, each as one YAML document.
///
/// # Errors
/// When a CRD cannot be written as YAML, which no input can cause.
pub fn crds_yaml() -> Result<Vec<(String, String)>, serde_json::Error> {
    crds()
        .into_iter()
        .map(|crd| {
            // Through JSON first: its maps are ordered, so the text is stable.
            let value = serde_json::to_value(&crd)?;
            let yaml = serde_saphyr::to_string(&value).map_err(<serde_json::Error as serde::ser::Error>::custom)?;
            Ok((format!("{}.yaml", crd.spec.names.plural), yaml))
        })
        .collect()
}

/// Defaults `status`, so that tools which judge health by `observedGeneration` never take a new object for a healthy one.
fn never_healthy_unseen(mut crd: CustomResourceDefinition) -> CustomResourceDefinition {
    for version in &mut crd.spec.versions {
        let schema = version.schema.as_mut().and_then(|validation| validation.open_api_v3_schema.as_mut());
        let status: Option<&mut JSONSchemaProps> =
            schema.and_then(|root| root.properties.as_mut()).and_then(|properties| properties.get_mut("status"));
        if let Some(status) = status {
            status.default = Some(JSON(json!({ "observedGeneration": -1 })));
            status.nullable = None;
        }
    }
    crd
}
