//! One workload in the cluster: its size, and what there is of it.

use std::fmt;

use k8s_openapi::{
    NamespaceResourceScope,
    api::{
        apps::v1::{Deployment, StatefulSet},
        autoscaling::v1::Scale,
        batch::v1::{CronJob, Job},
        core::v1::Pod,
    },
};
use kube::{
    Api, Client, Resource, ResourceExt,
    api::{ListParams, Patch, PatchParams},
};
use serde_json::json;

use super::WorkerError;
use crate::{
    api::{FrozenWorkload, Worker, WorkerKind},
    cluster::{CallError, FIELD_MANAGER, call, jobs::JOB_NAME_LABEL},
};

/// How many pods or Jobs a sentence names.
const NAMED: usize = 5;

/// One workload in the cluster.
pub(super) struct Workload<'a> {
    client: &'a Client,
    namespace: &'a str,
    kind: WorkerKind,
    name: &'a str,
}

/// What a workload is set to.
pub(super) struct Size {
    /// Replicas; for a CronJob 1 when it is active.
    pub(super) wanted: i32,
    /// Selector of its pods; unused for a CronJob.
    selector: String,
    /// Its uid.
    uid: String,
}

/// What there is of a workload.
pub(super) struct Observation {
    wanted: i32,
    unfinished_jobs: Vec<String>,
    pods: Vec<Pod>,
}

impl fmt::Display for Workload<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.as_str(), self.namespace, self.name)
    }
}

impl<'a> Workload<'a> {
    pub(super) fn of(client: &'a Client, namespace: &'a str, worker: &'a Worker) -> Self {
        Self { client, namespace, kind: worker.kind, name: worker.name.as_str() }
    }

    pub(super) fn of_frozen(client: &'a Client, namespace: &'a str, before: &'a FrozenWorkload) -> Self {
        Self { client, namespace, kind: before.kind, name: &before.name }
    }

    pub(super) async fn size(&self) -> Result<Size, WorkerError> {
        let scale = match self.kind {
            WorkerKind::Deployment => call(|| async { self.api::<Deployment>().get_scale(self.name).await }).await,
            WorkerKind::StatefulSet => call(|| async { self.api::<StatefulSet>().get_scale(self.name).await }).await,
            WorkerKind::CronJob => {
                let cron_job = call(|| async { self.api::<CronJob>().get(self.name).await }).await;
                let cron_job = cron_job.map_err(|cause| self.failed("read", cause))?;
                let suspended = cron_job.spec.suspend.unwrap_or(false);
                return Ok(Size { wanted: i32::from(!suspended), selector: String::new(), uid: cron_job.uid().unwrap_or_default() });
            }
        };
        let scale: Scale = scale.map_err(|cause| self.failed("read the scale of", cause))?;
        let wanted = scale.spec.and_then(|spec| spec.replicas).unwrap_or(0);
        let selector = scale.status.and_then(|status| status.selector).unwrap_or_default();
        Ok(Size { wanted, selector, uid: scale.metadata.uid.unwrap_or_default() })
    }

    pub(super) async fn set(&self, replicas: i32) -> Result<(), WorkerError> {
        let params = PatchParams::apply(FIELD_MANAGER);
        let scale = Patch::Merge(json!({ "spec": { "replicas": replicas } }));
        let suspend = Patch::Merge(json!({ "spec": { "suspend": replicas == 0 } }));
        let done = match self.kind {
            WorkerKind::Deployment => {
                call(|| async { self.api::<Deployment>().patch_scale(self.name, &params, &scale).await }).await.map(drop)
            }
            WorkerKind::StatefulSet => {
                call(|| async { self.api::<StatefulSet>().patch_scale(self.name, &params, &scale).await }).await.map(drop)
            }
            WorkerKind::CronJob => call(|| async { self.api::<CronJob>().patch(self.name, &params, &suspend).await }).await.map(drop),
        };
        done.map_err(|cause| self.failed(if self.kind == WorkerKind::CronJob { "suspend or resume" } else { "scale" }, cause))
    }

    pub(super) async fn observe(&self) -> Result<Observation, WorkerError> {
        let size = self.size().await?;
        let mut unfinished_jobs = Vec::new();
        let mut owners = Vec::new();
        let selector = if self.kind == WorkerKind::CronJob {
            let jobs = call(|| async { self.api::<Job>().list(&ListParams::default()).await }).await;
            for job in jobs.map_err(|cause| self.failed("list the Jobs of", cause))? {
                if job.owner_references().iter().any(|owner| owner.uid == size.uid) {
                    owners.extend(job.uid());
                    unfinished_jobs.extend((!is_finished(&job)).then(|| job.name_any()));
                }
            }
            JOB_NAME_LABEL.to_owned()
        } else {
            size.selector
        };
        let params = ListParams::default().labels(&selector);
        let pods = call(|| async { self.api::<Pod>().list(&params).await }).await;
        let mut pods = pods.map_err(|cause| self.failed("list the pods of", cause))?.items;
        pods.retain(|pod| self.owns(pod, &size.uid, &owners) && !is_over(pod));
        Ok(Observation { wanted: size.wanted, unfinished_jobs, pods })
    }

    /// A pod that matches the selector may belong to something else when selectors overlap. One without a controller
    /// counts as ours.
    fn owns(&self, pod: &Pod, uid: &str, jobs: &[String]) -> bool {
        let controller = pod.owner_references().iter().find(|owner| owner.controller == Some(true));
        match (self.kind, controller) {
            (WorkerKind::CronJob, controller) => controller.is_some_and(|owner| jobs.contains(&owner.uid)),
            (_, None) => true,
            (WorkerKind::Deployment, Some(owner)) => owner.kind == "ReplicaSet",
            (WorkerKind::StatefulSet, Some(owner)) => owner.uid == uid,
        }
    }

    fn failed(&self, action: &'static str, cause: CallError) -> WorkerError {
        let workload = self.to_string();
        if cause.is_not_found() { WorkerError::Missing { workload } } else { WorkerError::Call { action, workload, cause } }
    }

    fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.client.clone(), self.namespace)
    }
}

impl Observation {
    pub(super) fn remaining(&self, workload: &Workload<'_>) -> Vec<String> {
        let mut sentences = Vec::new();
        match (self.wanted, workload.kind) {
            (0, _) => {}
            (_, WorkerKind::CronJob) => sentences.push(format!("{workload} is not suspended")),
            (wanted, _) => sentences.push(format!("{workload} is set to {wanted} replicas")),
        }
        if !self.unfinished_jobs.is_empty() {
            sentences.push(format!("{workload} has unfinished Jobs: {}", named(&self.unfinished_jobs)));
        }
        if !self.pods.is_empty() {
            let pods: Vec<String> = self.pods.iter().map(|pod| format!("{} ({})", pod.name_any(), state(pod))).collect();
            sentences.push(format!("{workload} still has pods: {}", named(&pods)));
        }
        sentences
    }

    pub(super) fn missing(&self, workload: &Workload<'_>, recorded: i32) -> Option<String> {
        if workload.kind == WorkerKind::CronJob {
            return (self.wanted == 0).then(|| format!("{workload} is suspended"));
        }
        let wanted = if self.wanted == 0 { recorded } else { recorded.min(self.wanted) };
        let ready = self.pods.iter().filter(|pod| is_ready(pod)).count();
        let enough = self.wanted > 0 && i32::try_from(ready).is_ok_and(|ready| ready >= wanted);
        (!enough).then(|| format!("{workload} has {ready} of {wanted} pods ready and is set to {} replicas", self.wanted))
    }
}

/// At most five of the names, and how many more there are.
fn named(names: &[String]) -> String {
    let shown = names.iter().take(NAMED).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn state(pod: &Pod) -> &str {
    if pod.metadata.deletion_timestamp.is_some() {
        return "terminating";
    }
    pod.status.as_ref().and_then(|status| status.phase.as_deref()).unwrap_or("no phase yet")
}

fn is_over(pod: &Pod) -> bool {
    matches!(pod.status.as_ref().and_then(|status| status.phase.as_deref()), Some("Succeeded" | "Failed"))
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.iter().flat_map(|status| status.conditions.iter().flatten());
    pod.metadata.deletion_timestamp.is_none() && conditions.into_iter().any(|c| c.type_ == "Ready" && c.status == "True")
}

fn is_finished(job: &Job) -> bool {
    let mut conditions = job.status.iter().flat_map(|status| status.conditions.iter().flatten());
    conditions.any(|condition| matches!(condition.type_.as_str(), "Complete" | "Failed") && condition.status == "True")
}
