//! What a Portal names: Secrets, ConfigMaps and object stores of its own namespace.

use kube::KubeSchema;
use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::api::{DataKey, ItemName, ObjectName};

/// A key of a Secret in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretKeyRef {
    /// Name of the Secret.
    pub name: ObjectName,
    /// Key inside it.
    pub key: DataKey,
}

/// A Secret in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct SecretRef {
    /// Name of the Secret.
    pub name: ObjectName,
}

/// A query that is kept in a ConfigMap.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct QuerySource {
    /// A key of a ConfigMap in the same namespace that holds the query's template.
    pub config_map_key_ref: ConfigMapKeyRef,
}

/// A key of a ConfigMap in the same namespace.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
pub struct ConfigMapKeyRef {
    /// Name of the ConfigMap.
    pub name: ObjectName,
    /// Key inside it.
    pub key: DataKey,
}

/// An object store that speaks S3.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, KubeSchema)]
#[serde(rename_all = "camelCase")]
#[x_kube(validation = Rule::new("self.url.matches('^s3://[a-z0-9][a-z0-9.-]{1,61}[a-z0-9](/[^/]+)*/?$') && !self.url.contains('/../')").message("objectStores[].url must look like s3://bucket/prefix"))]
pub struct ObjectStore {
    /// Its name inside the Portal.
    pub name: ItemName,
    /// Where its objects are: `s3://bucket/prefix`.
    #[schemars(length(min = 8, max = 512))]
    pub url: String,
    /// Secret with `AWS_ACCESS_KEY_ID`, `AWS_SECRET_ACCESS_KEY` and, where it applies, `AWS_REGION` and `AWS_ENDPOINT_URL`.
    pub secret_ref: SecretRef,
}
