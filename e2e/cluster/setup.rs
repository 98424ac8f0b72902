//! A namespace per test, and in it the operator's service account with exactly the chart's rights.

use std::{
    io::Write,
    panic::AssertUnwindSafe,
    process::{Command, Stdio},
    time::Duration,
};

use futures::FutureExt;
use k8s_openapi::{NamespaceResourceScope, api::core::v1::Namespace};
use kube::{
    Api, Client, Config, Resource,
    api::{DeleteParams, Patch, PatchParams},
    config::{AuthInfo, KubeConfigOptions},
};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

pub struct Cluster {
    /// May do everything.
    pub admin: Client,
    /// May do what the chart allows.
    pub operator: Client,
    pub namespace: String,
}

/// Runs a test in a new namespace and deletes that in any case.
pub async fn in_namespace<F>(test: F)
where
    F: AsyncFnOnce(&Cluster),
{
    let _ = rustls::crypto::ring::default_provider().install_default();
    let admin = Client::try_default().await.expect("source the env file of `e2e/local/local up`: KUBECONFIG must name a cluster");
    let namespace = format!("cluster-{}", uuid::Uuid::new_v4().simple());
    let namespaces: Api<Namespace> = Api::all(admin.clone());
    let object = serde_json::from_value(json!({ "metadata": { "name": namespace } })).unwrap();
    namespaces.create(&Default::default(), &object).await.unwrap();
    let result = AssertUnwindSafe(async {
        let operator = operator(&namespace).await;
        test(&Cluster { admin, operator, namespace: namespace.clone() }).await;
    })
    .catch_unwind()
    .await;
    let _ = namespaces.delete(&namespace, &DeleteParams::default()).await;
    if let Err(panic) = result {
        std::panic::resume_unwind(panic);
    }
}

/// A client of the chart's service account.
async fn operator(namespace: &str) -> Client {
    let chart = concat!(env!("CARGO_MANIFEST_DIR"), "/charts/portal-release-operator");
    let watch = format!(r#"watch=[{{"namespace":"{namespace}","secrets":["listed","absent"],"configMaps":["listed"]}}]"#);
    let shown = ["serviceaccount", "rbac-watched", "rbac-lease"].map(|name| format!("--show-only=templates/{name}.yaml"));
    let mut helm = tool("helm");
    helm.args(["template", "operator", chart, "--namespace", namespace, "--set-json", &watch]).args(shown);
    let manifests = output(&mut helm, "");
    output(tool("kubectl").args(["apply", "-f", "-"]), &manifests);
    let name = "operator-portal-release-operator";
    let token = output(tool("kubectl").args(["create", "token", name, "-n", namespace]), "");
    let mut config = Config::from_kubeconfig(&KubeConfigOptions::default()).await.unwrap();
    config.auth_info = AuthInfo { token: Some(token.trim().to_owned().into()), ..AuthInfo::default() };
    Client::try_from(config).unwrap()
}

fn tool(name: &str) -> Command {
    Command::new(std::env::var("LOCAL_BIN").map_or(name.to_owned(), |bin| format!("{bin}/{name}")))
}

fn output(command: &mut Command, input: &str) -> String {
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    let output = child.wait_with_output().unwrap();
    assert!(output.status.success(), "{command:?}");
    String::from_utf8(output.stdout).unwrap()
}

impl Cluster {
    pub fn api<K>(&self) -> Api<K>
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope>,
    {
        Api::namespaced(self.admin.clone(), &self.namespace)
    }

    /// Creates or changes an object as its user would.
    pub async fn apply<K>(&self, name: &str, object: Value) -> K
    where
        K: Resource<DynamicType = (), Scope = NamespaceResourceScope> + Clone + DeserializeOwned + std::fmt::Debug,
    {
        let mut whole = json!({ "apiVersion": K::api_version(&()), "kind": K::kind(&()), "metadata": { "name": name } });
        merge(&mut whole, object);
        self.api::<K>().patch(name, &PatchParams::apply("user").force(), &Patch::Apply(&whole)).await.unwrap()
    }
}

fn merge(into: &mut Value, from: Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge(into.entry(key).or_insert(Value::Null), value);
            }
        }
        (into, from) => *into = from,
    }
}

/// Polls until `check` returns something, for at most `limit`.
pub async fn eventually<T>(what: &str, limit: Duration, check: impl AsyncFn() -> Option<T>) -> T {
    let mut ticks = tokio::time::interval(Duration::from_millis(50));
    let looks = async {
        loop {
            ticks.tick().await;
            if let Some(value) = check().await {
                return value;
            }
        }
    };
    tokio::time::timeout(limit, looks).await.unwrap_or_else(|_| panic!("not within {limit:?}: {what}"))
}
