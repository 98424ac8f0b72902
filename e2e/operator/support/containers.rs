//! Runs what the pods of Jobs are to run.
//!
//! The Jobs, their controller, the scheduler and the pods are real; the node is kwok's, on which nothing runs. So the test takes the
//! container runtime's part, and no more: it starts the first container's command as a process with the container's environment, writes
//! its output where kwok finds the pod's log, and sets the pod's exit code to that of the process. A pod that is deleted loses its process.
//! Templates for it carry the annotation `e2e.local/run-delay`, so that kwok itself does not end their pods.

use std::{
    collections::{BTreeMap, HashMap},
    path::{Path, PathBuf},
    process::Stdio,
    sync::{Arc, Mutex},
    time::Duration,
};

use k8s_openapi::api::core::v1::{Container, Pod, Secret};
use kube::{
    Api, Client, ResourceExt,
    api::{ApiResource, DynamicObject, GroupVersionKind, ListParams, Patch, PatchParams, PostParams},
};
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncRead, BufReader},
    process::Command,
    task::{AbortHandle, JoinHandle},
    time::interval,
};

use super::Stage;

/// Every pod of a Job of the operator's.
const OF_JOBS: &str = "app.kubernetes.io/managed-by=portal-release-operator";

/// The running containers of a stage. Dropped, they end.
pub struct Containers {
    watching: JoinHandle<()>,
    started: Arc<Mutex<Vec<String>>>,
    running: Arc<Mutex<HashMap<String, AbortHandle>>>,
}

impl Containers {
    /// Runs what pods of the stage's Jobs are to run, from now on.
    pub fn of(stage: &Stage) -> Self {
        let (client, namespace, directory) = (stage.client.clone(), stage.namespace.clone(), stage.directory());
        let (started, running): (Arc<Mutex<Vec<String>>>, Arc<Mutex<HashMap<_, _>>>) = Default::default();
        let (begun, alive) = (started.clone(), running.clone());
        let watching = tokio::spawn(async move {
            let pods: Api<Pod> = Api::namespaced(client.clone(), &namespace);
            let mut ticks = interval(Duration::from_millis(100));
            loop {
                ticks.tick().await;
                // Some tests stop the API server.
                let Ok(found) = pods.list(&ListParams::default().labels(OF_JOBS)).await else { continue };
                let wanted = |pod: &&Pod| {
                    pod.metadata.deletion_timestamp.is_none() && pod.status.as_ref().and_then(|it| it.phase.as_deref()) == Some("Running")
                };
                let there: Vec<String> = found.items.iter().filter(wanted).map(ResourceExt::name_any).collect();
                alive.lock().unwrap().retain(|name, process: &mut AbortHandle| {
                    let stays = there.contains(name) || process.is_finished();
                    if !stays {
                        process.abort();
                    }
                    stays
                });
                for pod in found.items.iter().filter(wanted) {
                    let name = pod.name_any();
                    if !begun.lock().unwrap().contains(&name) {
                        begun.lock().unwrap().push(name.clone());
                        let process = tokio::spawn(run(client.clone(), namespace.clone(), directory.clone(), pod.clone()));
                        alive.lock().unwrap().insert(name, process.abort_handle());
                    }
                }
            }
        });
        Self { watching, started, running }
    }

    /// The pods whose containers were started so far.
    pub fn started(&self) -> Vec<String> {
        self.started.lock().unwrap().clone()
    }
}

impl Drop for Containers {
    fn drop(&mut self) {
        self.watching.abort();
        self.running.lock().unwrap().values().for_each(AbortHandle::abort);
    }
}

/// Runs a pod's first container to its end.
async fn run(client: Client, namespace: String, directory: PathBuf, pod: Pod) {
    let name = pod.name_any();
    let container = pod.spec.as_ref().expect("a spec").containers[0].clone();
    let log = directory.join(format!("{name}.log"));
    serve_log(&client, &namespace, &name, &log).await;
    let words: Vec<String> = container.command.iter().chain(&container.args).flatten().cloned().collect();
    let mut child = Command::new(&words[0])
        .args(&words[1..])
        .env_clear()
        .env("PATH", std::env::var("PATH").unwrap_or_default())
        .envs(environment(&client, &namespace, &container).await)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .expect("the container's command starts");
    let (out, err) = (child.stdout.take().expect("stdout"), child.stderr.take().expect("stderr"));
    tokio::join!(keep(out, "stdout", &log), keep(err, "stderr", &log));
    let code = child.wait().await.expect("the container's command ends").code().unwrap_or(137);
    let now = jiff::Timestamp::now();
    let reason = if code == 0 { "Completed" } else { "Error" };
    let ended =
        json!({"exitCode": code, "reason": reason, "finishedAt": now, "startedAt": pod.status.and_then(|status| status.start_time)});
    let container = json!({"name": container.name, "image": container.image, "imageID": "", "ready": false, "restartCount": 0, "state": {"terminated": ended}});
    let phase = if code == 0 { "Succeeded" } else { "Failed" };
    set_status(&client, &namespace, &name, json!({"phase": phase, "containerStatuses": [container]})).await;
}

/// Sets a pod's status, as its kubelet does.
pub async fn set_status(client: &Client, namespace: &str, pod: &str, status: serde_json::Value) {
    let pods: Api<Pod> = Api::namespaced(client.clone(), namespace);
    let patch = Patch::Merge(json!({ "status": status }));
    match pods.patch_status(pod, &PatchParams::default(), &patch).await {
        Err(kube::Error::Api(status)) if status.is_not_found() => {}
        result => drop(result.expect("the pod's status")),
    }
}

/// Configures kwok with the pod's log.
async fn serve_log(client: &Client, namespace: &str, pod: &str, log: &Path) {
    std::fs::write(log, "").expect("the log can be written");
    let kind = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk("kwok.x-k8s.io", "v1alpha1", "Logs"), "logs");
    let logs: Api<DynamicObject> = Api::namespaced_with(client.clone(), namespace, &kind);
    let object = DynamicObject::new(pod, &kind).data(json!({"spec": {"logs": [{"logsFile": log}]}}));
    logs.create(&PostParams::default(), &object).await.expect("kwok's Logs");
}

/// Writes lines as a container runtime does.
async fn keep(stream: impl AsyncRead + Unpin, name: &str, log: &Path) {
    use std::io::Write;
    let mut lines = BufReader::new(stream).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        let mut file = std::fs::File::options().append(true).open(log).expect("the log");
        writeln!(file, "{:.9} {name} F {line}", jiff::Timestamp::now()).expect("the log can be written");
    }
}

/// A container's variables with their values, as a kubelet finds them: `$(NAME)` is an earlier variable, `$$` is `$`.
async fn environment(client: &Client, namespace: &str, container: &Container) -> BTreeMap<String, String> {
    let mut known = BTreeMap::new();
    for variable in container.env.iter().flatten() {
        let key = variable.value_from.as_ref().and_then(|from| from.secret_key_ref.as_ref());
        let value = match key {
            Some(key) => {
                let secrets: Api<Secret> = Api::namespaced(client.clone(), namespace);
                let secret = secrets.get(&key.name).await.expect("the Secret");
                String::from_utf8(secret.data.expect("its data")[&key.key].0.clone()).expect("UTF-8")
            }
            None => expanded(variable.value.as_deref().unwrap_or_default(), &known),
        };
        known.insert(variable.name.clone(), value);
    }
    known
}

fn expanded(text: &str, known: &BTreeMap<String, String>) -> String {
    let (mut done, mut rest) = (String::new(), text);
    while let Some(at) = rest.find('$') {
        done.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let name = rest.strip_prefix('(').and_then(|rest| rest.split_once(')')).map(|(name, _)| name);
        if let Some(more) = rest.strip_prefix('$') {
            done.push('$');
            rest = more;
        } else if let Some((name, value)) = name.and_then(|name| Some((name, known.get(name)?))) {
            done.push_str(value);
            rest = &rest[name.len() + 2..];
        } else {
            done.push('$');
        }
    }
    done + rest
}
