//! Kubernetes Jobs with an image of the user's own.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{DataKey, ObjectName};

/// A Kubernetes Job with an image of the user's own.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct JobSource {
    /// The ConfigMap that holds the Job's manifest.
    pub template_config_map_ref: JobTemplateRef,
}

/// A key of a ConfigMap in the same namespace that holds the manifest of a `batch/v1` Job as YAML.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct JobTemplateRef {
    /// Name of the ConfigMap.
    pub name: ObjectName,
    /// Key inside it.
    #[serde(default = "default_key")]
    pub key: DataKey,
}

fn default_key() -> DataKey {
    "job.yaml".into()
}
