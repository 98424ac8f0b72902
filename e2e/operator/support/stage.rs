//! The sample portal in a namespace of its own.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Command as Blocking,
};

use kube::{Api, Client};
use portal_release_operator::api::{Portal, PortalRelease, PortalReleaseStatus, ReleaseState};
use sqlx::{AssertSqlSafe, PgPool, postgres::PgPoolOptions};
use tokio::process::Command;

use super::{Operator, look_for, operator::present, receiver::Receiver, until};

/// The variable with a superuser's URL of the Postgres that a stage is on.
const SERVER: &str = "LOCAL_PG_URL";
/// Sites of the sample portal: every import has rows, and a release takes seconds.
const SITES: &str = "400";

/// The sample portal in a namespace of its own, with its databases. Dropped, it is taken down.
pub struct Stage {
    /// The namespace of the portal.
    pub namespace: String,
    /// An administrator's client, for looking and for playing other people.
    pub client: Client,
    /// A superuser's connections to the portal's database.
    pub database: PgPool,
    /// Who gets Slack messages and hooks.
    pub receiver: Receiver,
    /// The variables of the stage's env file.
    pub env: HashMap<String, String>,
}

impl Stage {
    /// Sets everything up. `name` becomes the namespace.
    pub async fn new(name: &str) -> Self {
        Self::on(name, &std::env::var(SERVER).expect("LOCAL_PG_URL of e2e/local/local up")).await
    }

    /// The same on another Postgres than the one that all tests share.
    pub async fn on(name: &str, server: &str) -> Self {
        // One TLS provider for the test process too.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let receiver = Receiver::start().await;
        let namespace = format!("{name}-{}", &uuid::Uuid::new_v4().simple().to_string()[..6]);
        let output = Command::new(script())
            .args(["up", &namespace, SITES])
            .env(SERVER, server)
            .env("STAGE_HOOK_URL", receiver.url("/cache"))
            .env("STAGE_SLACK_URL", receiver.url("/slack"))
            .output()
            .await
            .expect("e2e/stage runs");
        assert!(output.status.success(), "e2e/stage up {namespace}: {}", String::from_utf8_lossy(&output.stderr));
        let path = String::from_utf8_lossy(&output.stdout).lines().last().expect("the env file's path").to_owned();
        let mut env = read_env(Path::new(&path));
        env.insert(SERVER.to_owned(), server.to_owned());
        let database =
            PgPoolOptions::new().max_connections(8).connect(&env["STAGE_ADMIN_DATABASE_URL"]).await.expect("the portal's database");
        let client = Client::try_default().await.expect("KUBECONFIG of e2e/local/local up");
        Self { namespace, client, database, receiver, env }
    }

    /// Where logs and kubeconfigs of this stage are.
    pub fn directory(&self) -> PathBuf {
        PathBuf::from(&self.env["STAGE_DIR"])
    }

    /// Starts an operator with the chart's rights.
    pub async fn operator(&self) -> Operator {
        self.operator_with("operator", &[]).await
    }

    /// Starts an operator with more arguments.
    pub async fn operator_with(&self, name: &str, more: &[&str]) -> Operator {
        self.operator_of(present(), name, more).await
    }

    /// Starts an operator of another version, with more arguments.
    pub async fn operator_of(&self, binary: &Path, name: &str, more: &[&str]) -> Operator {
        let lease = format!("{}-portal-release-operator", self.env["STAGE_OPERATOR_NAMESPACE"]);
        let mut arguments: Vec<String> =
            ["--namespace", &self.namespace, "--lease-namespace", &self.env["STAGE_OPERATOR_NAMESPACE"], "--lease-name", &lease]
                .map(str::to_owned)
                .to_vec();
        arguments.extend(more.iter().map(|&argument| argument.to_owned()));
        Operator::start(binary, name, &self.directory(), &self.env["STAGE_OPERATOR_KUBECONFIG"], &arguments).await
    }

    /// kubectl in the stage's namespace, with `input` as its standard input. `Err` has what it printed as an error.
    pub async fn kubectl(&self, arguments: &[&str], input: &str) -> Result<String, String> {
        let kubectl = Path::new(&std::env::var("LOCAL_BIN").expect("LOCAL_BIN of e2e/local/local up")).join("kubectl");
        let mut child = Command::new(kubectl)
            .args(["--namespace", &self.namespace])
            .args(arguments)
            .stdin(std::process::Stdio::piped())
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()
            .expect("kubectl starts");
        let mut stdin = child.stdin.take().expect("its standard input");
        tokio::io::AsyncWriteExt::write_all(&mut stdin, input.as_bytes()).await.expect("kubectl reads");
        drop(stdin);
        let output = child.wait_with_output().await.expect("kubectl ends");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        if output.status.success() { Ok(text(&output.stdout)) } else { Err(text(&output.stderr)) }
    }

    /// Applies YAML as a user does, and expects it to be taken.
    pub async fn apply(&self, yaml: &str) {
        if let Err(error) = self.kubectl(&["apply", "-f", "-"], yaml).await {
            panic!("kubectl apply: {error}\n{yaml}");
        }
    }

    /// Makes a release: `more` is YAML of further fields of its spec, each on a line of its own.
    pub async fn make_release(&self, name: &str, label: &str, more: &str) {
        self.apply(&release_yaml(name, label, more)).await;
    }

    /// Merges JSON into a release's spec.
    pub async fn edit(&self, name: &str, spec: &str) {
        let patch = format!("{{\"spec\":{spec}}}");
        if let Err(error) = self.kubectl(&["patch", "portalrelease", name, "--type", "merge", "-p", &patch], "").await {
            panic!("kubectl patch {name} {patch}: {error}");
        }
    }

    /// Merges JSON into the Portal's spec.
    pub async fn edit_portal(&self, spec: &str) {
        let patch = format!("{{\"spec\":{spec}}}");
        if let Err(error) = self.kubectl(&["patch", "portal", "protected-planet", "--type", "merge", "-p", &patch], "").await {
            panic!("kubectl patch portal {patch}: {error}");
        }
    }

    /// The releases of the namespace.
    pub fn releases(&self) -> Api<PortalRelease> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The portals of the namespace.
    pub fn portals(&self) -> Api<Portal> {
        Api::namespaced(self.client.clone(), &self.namespace)
    }

    /// The status of a release.
    pub async fn status(&self, name: &str) -> PortalReleaseStatus {
        self.releases().get(name).await.expect("the release").status.unwrap_or_default()
    }

    /// Waits until a release's status describes the present spec and is as `wanted`.
    pub async fn wait(&self, name: &str, what: &str, wanted: impl Fn(&PortalReleaseStatus) -> bool) -> PortalReleaseStatus {
        let look = || async {
            let release = self.releases().get_opt(name).await.ok()??;
            let generation = release.metadata.generation;
            release.status.filter(|status| Some(status.observed_generation) == generation && wanted(status))
        };
        match look_for(look).await {
            Some(status) => status,
            None => {
                let status = self.releases().get_opt(name).await;
                panic!("release {name} did not become {what}; it is {status:#?}");
            }
        }
    }

    /// Waits until a release is in a state; another final state fails at once.
    pub async fn wait_state(&self, name: &str, state: ReleaseState) -> PortalReleaseStatus {
        let status = self
            .wait(name, state.as_str(), |status| {
                status.state == Some(state) || (status.state == Some(ReleaseState::Failed) && stalled(status))
            })
            .await;
        assert_eq!(status.state, Some(state), "release {name}: {}", status.message);
        status
    }

    /// Waits until an object is gone.
    pub async fn wait_gone(&self, name: &str) {
        until(&format!("release {name} is gone"), || async { self.releases().get_opt(name).await.ok()?.is_none().then_some(()) }).await;
    }

    /// The source moves to another month.
    pub async fn month(&self, month: u8) {
        let month = month.to_string();
        let script = Command::new(script()).args(["month", &self.namespace, &month]).env(SERVER, &self.env[SERVER]).output().await;
        let output = script.expect("e2e/stage runs");
        assert!(output.status.success(), "e2e/stage month: {}", String::from_utf8_lossy(&output.stderr));
    }

    /// One value from the portal's database, as text; empty where there is no row.
    pub async fn text(&self, sql: &str) -> String {
        let wrapped = format!("SELECT (SELECT row::text FROM ({sql}) AS q(row) LIMIT 1)");
        let value: Option<String> = sqlx::query_scalar(AssertSqlSafe(wrapped.clone()))
            .fetch_one(&self.database)
            .await
            .unwrap_or_else(|error| panic!("{error}: {sql}"));
        value.unwrap_or_default()
    }

    /// Changes the portal's database, or its source's, as another tool would.
    pub async fn execute(&self, sql: &str) {
        sqlx::raw_sql(AssertSqlSafe(sql.to_owned())).execute(&self.database).await.unwrap_or_else(|error| panic!("{error}: {sql}"));
    }

    /// A superuser's connections to the source's database.
    pub async fn source(&self) -> PgPool {
        let url = format!("{}_source", self.env["STAGE_ADMIN_DATABASE_URL"]);
        PgPoolOptions::new().max_connections(2).connect(&url).await.expect("the source's database")
    }

    /// Which month readers see, in every relation that the release replaces: `1`, or `1,2` when they see a mix.
    pub async fn live_month(&self) -> String {
        let relations = self
            .text(
                "SELECT string_agg(format('SELECT release_month::text FROM public.%I', relname), ' UNION ') FROM pg_class
             JOIN pg_attribute ON attrelid = pg_class.oid AND attname = 'release_month'
             WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'm', 'v') AND relname !~ '^(staging_|bk[0-9]{10}_)'",
            )
            .await;
        self.text(&format!("SELECT string_agg(m, ',' ORDER BY m) FROM ({}) AS months(m)", relations)).await
    }

    /// Replicas of the workers as they are set now, such as `importer-worker=3 tile-worker=2 nightly-exports=active`.
    pub async fn workers(&self) -> String {
        use k8s_openapi::api::{
            apps::v1::{Deployment, StatefulSet},
            batch::v1::CronJob,
        };
        let deployment: Deployment =
            Api::namespaced(self.client.clone(), &self.namespace).get("importer-worker").await.expect("the Deployment");
        let stateful_set: StatefulSet =
            Api::namespaced(self.client.clone(), &self.namespace).get("tile-worker").await.expect("the StatefulSet");
        let cron_job: CronJob = Api::namespaced(self.client.clone(), &self.namespace).get("nightly-exports").await.expect("the CronJob");
        let replicas = |set: Option<i32>| set.unwrap_or(1);
        format!(
            "importer-worker={} tile-worker={} nightly-exports={}",
            replicas(deployment.spec.and_then(|spec| spec.replicas)),
            replicas(stateful_set.spec.and_then(|spec| spec.replicas)),
            if cron_job.spec.suspend.unwrap_or(false) { "suspended" } else { "active" }
        )
    }

    /// How the workers are before anything happens.
    pub const WORKERS: &'static str = "importer-worker=3 tile-worker=2 nightly-exports=active";
    /// How they are while they are frozen.
    pub const FROZEN: &'static str = "importer-worker=0 tile-worker=0 nightly-exports=suspended";

    /// Whether anybody holds the portal's advisory lock.
    pub async fn is_locked(&self) -> bool {
        self.text("SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND objid = 42000001 AND database = (SELECT oid FROM pg_database WHERE datname = current_database())")
            .await
            == "true"
    }

    /// Names of staging relations that are left.
    pub async fn staging(&self) -> String {
        self.text("SELECT string_agg(relname::text, ' ' ORDER BY relname) FROM pg_class WHERE relkind IN ('r', 'm', 'v', 'S') AND relname LIKE 'staging\\_%'").await
    }
}

/// YAML of a release.
pub fn release_yaml(name: &str, label: &str, more: &str) -> String {
    let more: String = more.lines().map(|line| format!("  {line}\n")).collect();
    format!(
        "apiVersion: portalrelease.dev/v1alpha1\nkind: PortalRelease\nmetadata:\n  name: {name}\nspec:\n  portalRef: {{name: protected-planet}}\n  label: {label}\n{more}"
    )
}

/// It has stopped for good.
pub fn stalled(status: &PortalReleaseStatus) -> bool {
    condition(status, "Stalled") == "True"
}

/// The status of a condition; empty when there is none.
pub fn condition(status: &PortalReleaseStatus, type_: &str) -> String {
    status.conditions.iter().find(|condition| condition.type_ == type_).map(|condition| condition.status.clone()).unwrap_or_default()
}

fn script() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/stage")
}

fn read_env(path: &Path) -> HashMap<String, String> {
    let text = std::fs::read_to_string(path).expect("the stage's env file");
    text.lines()
        .filter_map(|line| line.strip_prefix("export ")?.split_once('='))
        .map(|(key, value)| (key.to_owned(), value.trim_matches('\'').to_owned()))
        .collect()
}

impl Drop for Stage {
    fn drop(&mut self) {
        if std::thread::panicking() {
            // A person wants to see what happened: the operator's log, the events, the ledger.
            let directory = self.directory();
            for entry in std::fs::read_dir(&directory)
                .into_iter()
                .flatten()
                .flatten()
                .filter(|entry| entry.path().extension().is_some_and(|kind| kind == "log"))
            {
                let text = std::fs::read_to_string(entry.path()).unwrap_or_default();
                let lines: Vec<&str> = text.lines().filter(|line| !line.contains("DEBUG")).collect();
                let last = lines.len().saturating_sub(40);
                eprintln!("--- the end of {}\n{}", entry.path().display(), lines.get(last..).unwrap_or_default().join("\n"));
            }
            let kubectl = Path::new(&std::env::var("LOCAL_BIN").unwrap_or_default()).join("kubectl");
            for what in [
                ["get", "portalreleases", "-o", "wide"].as_slice(),
                &["get", "events.events.k8s.io", "--field-selector", "reason!=Scheduled"],
            ] {
                let shown = Blocking::new(&kubectl).args(["--namespace", &self.namespace]).args(what).output();
                eprintln!(
                    "--- kubectl {}\n{}",
                    what.join(" "),
                    shown.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default()
                );
            }
            let ledger = Blocking::new("psql")
                .args([&self.env["STAGE_ADMIN_DATABASE_URL"], "-c", "SELECT at::time, event, phase, left(message, 120) AS message FROM portal_release.release_events ORDER BY id DESC LIMIT 30"])
                .output();
            eprintln!("--- the ledger\n{}", ledger.map(|output| String::from_utf8_lossy(&output.stdout).into_owned()).unwrap_or_default());
        }
        let down = Blocking::new(script()).args(["down", &self.namespace]).env(SERVER, &self.env[SERVER]).output();
        if down.is_err() {
            eprintln!("namespace {} was not taken down", self.namespace);
        }
    }
}
