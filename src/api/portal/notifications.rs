//! Who is notified of a release's progress.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use super::{SecretKeyRef, yes};
use crate::api::ItemName;

/// A receiver of notifications about a release's progress.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Notification {
    /// Its name inside the Portal.
    pub name: ItemName,
    /// A Slack incoming webhook.
    pub slack: Slack,
    /// Notify when a release starts.
    #[serde(default = "yes")]
    pub start: bool,
    /// Notify when a phase is complete.
    #[serde(default = "yes")]
    pub phase_complete: bool,
    /// Notify of the progress of imports.
    #[serde(default = "yes")]
    pub import_progress: bool,
    /// Notify when a release is live.
    #[serde(default = "yes")]
    pub success: bool,
    /// Notify when a release failed or was aborted.
    #[serde(default = "yes")]
    pub failure: bool,
}

/// A Slack incoming webhook.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Slack {
    /// Secret key with the webhook's URL.
    pub url_secret_ref: SecretKeyRef,
}
