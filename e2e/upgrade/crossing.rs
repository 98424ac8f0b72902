//! From one version to another.

use std::{
    collections::HashMap,
    future::Future,
    path::{Path, PathBuf},
    process::{Command, Stdio},
    sync::OnceLock,
};

use portal_release_operator::api::ReleaseState;
use tokio::{
    sync::{OnceCell, RwLock, RwLockReadGuard, RwLockWriteGuard, Semaphore, SemaphorePermit},
    task::JoinSet,
};

use crate::support::{
    Operator, Stage,
    operator::present,
    settled::points,
    snapshot::{self, assert_same},
};

/// A killed leader leaves a Lease that others respect for a while.
pub const ALONE: &str = "--leader-election=false";
/// Every phase of the sample portal does something.
pub const EVERYTHING: &str = "views: {refresh: true}";

/// Stages at a time, whatever the number of tests.
static TURNS: Semaphore = Semaphore::const_new(3);
/// The CRDs belong to the cluster: who changes them is alone.
static CRDS: RwLock<()> = RwLock::const_new(());

/// From one version to another.
#[derive(Clone, Debug)]
pub struct Crossing {
    /// The operator that begins.
    pub from: PathBuf,
    /// The operator that ends it.
    pub to: PathBuf,
    name: String,
}

impl Crossing {
    /// From each released version to this tree.
    pub fn upgrades() -> Vec<Self> {
        let up = |(name, binary): &(String, PathBuf)| Self {
            from: binary.clone(),
            to: present().to_owned(),
            name: format!("from {name} to this tree"),
        };
        released().iter().map(up).collect()
    }

    /// From this tree back to each released version.
    pub fn downgrades() -> Vec<Self> {
        let down = |(name, binary): &(String, PathBuf)| Self {
            from: present().to_owned(),
            to: binary.clone(),
            name: format!("from this tree to {name}"),
        };
        released().iter().map(down).collect()
    }

    /// The first operator works until it halts at a point, and is killed there.
    pub async fn halt(&self, stage: &Stage, point: &str) {
        stage.halted_of(&self.from, point).await.kill().await;
    }

    /// Starts the first operator.
    pub async fn depart(&self, stage: &Stage) -> Operator {
        stage.operator_of(&self.from, "before", &[ALONE]).await
    }

    /// Starts the second operator.
    pub async fn arrive(&self, stage: &Stage) -> Operator {
        stage.operator_of(&self.to, "after", &[ALONE]).await
    }
}

/// Name and binary of each released version.
fn released() -> &'static [(String, PathBuf)] {
    static RELEASED: OnceLock<Vec<(String, PathBuf)>> = OnceLock::new();
    RELEASED.get_or_init(|| {
        let lines = include_str!("versions").lines().filter(|line| !line.starts_with('#'));
        let versions: Vec<(String, PathBuf)> = lines
            .filter_map(|line| line.split_once(char::is_whitespace))
            .map(|(commit, name)| (name.trim().to_owned(), binary(commit)))
            .collect();
        assert!(!versions.is_empty(), "e2e/upgrade/versions names a version");
        versions
    })
}

/// The binary of a version, which is built when it is not there yet.
fn binary(commit: &str) -> PathBuf {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("e2e/upgrade/version");
    let output = Command::new(script).arg(commit).stderr(Stdio::inherit()).output().expect("e2e/upgrade/version runs");
    assert!(output.status.success(), "e2e/upgrade/version {commit} fails: see above");
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

/// Waits until it may have a stage.
pub async fn turn() -> (SemaphorePermit<'static>, RwLockReadGuard<'static, ()>) {
    (TURNS.acquire().await.expect("never closed"), CRDS.read().await)
}

/// Waits until nobody else has a stage.
pub async fn alone() -> RwLockWriteGuard<'static, ()> {
    CRDS.write().await
}

/// Plays a scenario for each crossing and each point, as many at a time as there may be stages; tells at the end which have failed.
pub async fn each<F>(crossings: Vec<Crossing>, points: &[&str], scenario: fn(Crossing, String) -> F)
where
    F: Future<Output = ()> + Send + 'static,
{
    let (mut tasks, mut names) = (JoinSet::new(), HashMap::new());
    for crossing in crossings {
        for point in points {
            let name = format!("{point}, {}", crossing.name);
            let (crossing, point) = (crossing.clone(), (*point).to_owned());
            let task = tasks.spawn(async move {
                let _turn = turn().await;
                scenario(crossing, point).await;
            });
            names.insert(task.id(), name);
        }
    }
    let mut failed = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        if let Err(error) = ended {
            failed.extend(names.remove(&error.id()));
        }
    }
    assert!(failed.is_empty(), "{} failed, see above: {}", failed.len(), failed.join("; "));
}

/// A stage for a point.
pub async fn stage_for(what: &str, point: &str) -> Stage {
    Stage::new(&format!("{what}-{}", point.to_lowercase().replace(':', "-"))).await
}

/// What a release leaves that nobody disturbed.
pub struct Undisturbed {
    /// Everything in the portal's schema.
    snapshot: Vec<String>,
    /// What the ledger says of the imports.
    account: String,
    /// The begin and the end of each of its phases.
    pub points: Vec<String>,
}

impl Undisturbed {
    /// As the first released version made it.
    pub async fn get() -> &'static Self {
        static UNDISTURBED: OnceCell<Undisturbed> = OnceCell::const_new();
        UNDISTURBED
            .get_or_init(|| async {
                let _turn = turn().await;
                let stage = Stage::new("calm").await;
                let _operator = stage.operator_of(&released()[0].1, "operator", &[ALONE]).await;
                stage.make_release("jul2026", "Jul2026", EVERYTHING).await;
                let status = stage.wait_state("jul2026", ReleaseState::Live).await;
                Self { snapshot: snapshot::of(&stage).await, account: stage.account().await, points: points(&status) }
            })
            .await
    }

    /// The one release of the stage is live as if it had not been disturbed, and nothing is held or half done.
    pub async fn assert_live(&self, stage: &Stage, what: &str) {
        let status = stage.wait_state("jul2026", ReleaseState::Live).await;
        assert!(status.current, "{what}");
        assert_same(what, &snapshot::of(stage).await, &self.snapshot);
        assert_eq!(stage.account().await, self.account, "every import's rows count once: {what}");
        assert_eq!(stage.swaps().await, "1", "{what}");
        assert_eq!(stage.staging().await, "", "{what}");
        stage.assert_settled().await;
    }
}
