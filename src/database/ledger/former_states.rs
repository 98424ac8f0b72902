//! Fields of cluster objects as they were before a release changed them: written before the first change, read to change them back,
//! forgotten once that is done.
//!
//! An operator older than `former_states` keeps its record in `frozen_workloads`; triggers keep the two in step.

use serde::{Deserialize, Deserializer, Serialize, de::Error};
use serde_json::Value;
use sqlx::{PgConnection, types::Json};

use crate::api::{FrozenWorkload, WorkerKind, named_enum};

named_enum! {
    /// What a field is changed for.
    pub enum Purpose {
        /// Workers are stopped while the data is swapped.
        Freeze,
    }
}

/// One field of one object, as it was.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct FormerState {
    /// Kind of the object.
    pub kind: String,
    /// Its name.
    pub name: String,
    /// The field.
    pub field: String,
    /// What was in it.
    pub value: Value,
}

const REPLICAS: &str = "replicas";
const SUSPEND: &str = "suspend";

impl From<&FrozenWorkload> for FormerState {
    fn from(workload: &FrozenWorkload) -> Self {
        let (field, value) = match workload.kind {
            WorkerKind::CronJob => (SUSPEND, Value::Bool(workload.replicas == 0)),
            WorkerKind::Deployment | WorkerKind::StatefulSet => (REPLICAS, Value::from(workload.replicas)),
        };
        Self { kind: workload.kind.as_str().to_owned(), name: workload.name.clone(), field: field.to_owned(), value }
    }
}

impl FormerState {
    /// The workload of a record of the freeze; `None` for one that this version cannot read.
    fn workload(&self) -> Option<FrozenWorkload> {
        let replicas = match (self.field.as_str(), &self.value) {
            (SUSPEND, Value::Bool(suspended)) => i32::from(!suspended),
            (REPLICAS, value) => i32::try_from(value.as_i64()?).ok()?,
            _ => return None,
        };
        Some(FrozenWorkload { kind: WorkerKind::parse(&self.kind)?, name: self.name.clone(), replicas })
    }
}

/// The workloads of records of the freeze. What cannot be read is an error: its workers would stay stopped without a word.
pub(super) fn workloads<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Vec<FrozenWorkload>, D::Error> {
    let states = Vec::<FormerState>::deserialize(deserializer)?;
    let read = |state: &FormerState| {
        let FormerState { kind, name, field, value } = state;
        state.workload().ok_or_else(|| D::Error::custom(format!("this version cannot restore {field} = {value} of {kind} {name}")))
    };
    states.iter().map(read).collect()
}

#[derive(Deserialize)]
struct Workloads(#[serde(deserialize_with = "workloads")] Vec<FrozenWorkload>);

/// Records fields before they are changed. What is recorded already stays: never a zero that we caused.
///
/// # Errors
/// When the database does not answer.
pub async fn remember(
    tx: &mut PgConnection,
    portal: &str,
    release: i64,
    purpose: Purpose,
    states: &[FormerState],
) -> Result<(), sqlx::Error> {
    sqlx::query(
        "INSERT INTO portal_release.former_states (portal, purpose, kind, name, field, value, release_id)
         SELECT $1, $2, s.kind, s.name, s.field, s.value, $3 FROM jsonb_to_recordset($4) AS s(kind text, name text, field text, value jsonb)
         ON CONFLICT (portal, purpose, kind, name, field) DO UPDATE SET release_id = excluded.release_id",
    )
    .bind(portal)
    .bind(purpose.as_str())
    .bind(release)
    .bind(Json(states))
    .execute(tx)
    .await?;
    Ok(())
}

/// Records the workloads that are about to be stopped.
///
/// # Errors
/// As [`remember`].
pub async fn remember_frozen(tx: &mut PgConnection, portal: &str, release: i64, workloads: &[FrozenWorkload]) -> Result<(), sqlx::Error> {
    let states: Vec<FormerState> = workloads.iter().map(FormerState::from).collect();
    remember(tx, portal, release, Purpose::Freeze, &states).await
}

/// The workloads of a portal that are stopped, as they were before.
///
/// # Errors
/// When the database does not answer, or holds a record that this version cannot read.
pub async fn frozen(connection: &mut PgConnection, portal: &str) -> Result<Vec<FrozenWorkload>, sqlx::Error> {
    let Json(Workloads(workloads)) = sqlx::query_scalar(
        "SELECT coalesce(jsonb_agg(to_jsonb(f) ORDER BY kind, name), '[]') FROM portal_release.former_states f WHERE portal = $1 AND purpose = $2",
    )
    .bind(portal)
    .bind(Purpose::Freeze.as_str())
    .fetch_one(connection)
    .await?;
    Ok(workloads)
}

/// Forgets what was recorded for a purpose, once everything is as it was.
///
/// # Errors
/// When the database does not answer.
pub async fn forget(tx: &mut PgConnection, portal: &str, purpose: Purpose) -> Result<(), sqlx::Error> {
    sqlx::query("DELETE FROM portal_release.former_states WHERE portal = $1 AND purpose = $2")
        .bind(portal)
        .bind(purpose.as_str())
        .execute(tx)
        .await?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_workload_is_read_back_as_it_was_recorded() {
        for (kind, replicas) in
            [(WorkerKind::Deployment, 3), (WorkerKind::StatefulSet, 0), (WorkerKind::CronJob, 1), (WorkerKind::CronJob, 0)]
        {
            let workload = FrozenWorkload { kind, name: "importer".to_owned(), replicas };
            let row = serde_json::to_value([FormerState::from(&workload)]).unwrap();
            assert_eq!(serde_json::from_value::<Workloads>(row).unwrap().0, [workload]);
        }
        let newer = serde_json::json!([{"kind": "ScaledObject", "name": "importer", "field": "paused", "value": true}]);
        let error = serde_json::from_value::<Workloads>(newer).err().unwrap().to_string();
        assert!(error.contains("cannot restore paused = true of ScaledObject importer"), "{error}");
    }
}
