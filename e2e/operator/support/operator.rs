//! One operator process.

use std::{
    fs::File,
    path::{Path, PathBuf},
    process::Stdio,
};

use tokio::process::{Child, Command};

use super::until;

/// Among the arguments of an operator: it is not to call local addresses, as in a real installation.
pub const REFUSE_LOCAL: &str = "refuse-local-addresses";

/// The operator of this very tree.
pub fn present() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_portal-release-operator"))
}

/// A running operator. It is killed when it is dropped; its log stays.
pub struct Operator {
    child: Child,
    log: PathBuf,
    /// Where its part of the log begins: one of the same name may have written before.
    from: usize,
    address: String,
}

impl Operator {
    /// Starts a binary of the operator. `name` distinguishes the operators of one test.
    pub async fn start(binary: &Path, name: &str, directory: &Path, kubeconfig: &str, arguments: &[String]) -> Self {
        let log = directory.join(format!("{name}.log"));
        let file = File::options().create(true).append(true).open(&log).expect("the operator's log can be written");
        let before = std::fs::metadata(&log).map(|metadata| metadata.len()).unwrap_or_default();
        let child = Command::new(binary)
            .args(["run", "--http-addr", "127.0.0.1:0", "--instance", name])
            // Everything here is on one host: Slack's and the hooks' receiver, the object store.
            .args(["--allow-local-addresses"].iter().filter(|_| !arguments.iter().any(|it| it == REFUSE_LOCAL)))
            .args(["--log-level", "portal_release_operator=debug,info"].iter().filter(|_| !arguments.iter().any(|it| it == "--log-level")))
            .args(arguments.iter().filter(|it| *it != REFUSE_LOCAL))
            .env("KUBECONFIG", kubeconfig)
            .env("NO_COLOR", "1")
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("a second handle"))
            .stderr(file)
            .kill_on_drop(true)
            .spawn()
            .expect("the operator starts");
        let mut operator = Self { child, log, from: usize::try_from(before).unwrap_or_default(), address: String::new() };
        operator.address = until("the operator's HTTP address in its log", || {
            let text = operator.log();
            async move {
                let line = text.lines().find(|line| line.contains("serves HTTP on"))?.to_owned();
                let rest = line.split("serves HTTP on ").nth(1)?.to_owned();
                Some(rest.split_whitespace().next()?.to_owned())
            }
        })
        .await;
        operator
    }

    /// `host:port` of its HTTP server.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Everything that it has logged.
    pub fn log(&self) -> String {
        let bytes = std::fs::read(&self.log).unwrap_or_default();
        String::from_utf8_lossy(bytes.get(self.from..).unwrap_or_default()).into_owned()
    }

    /// Waits until a line holds `text`.
    pub async fn logs(&self, text: &str) {
        until(&format!("'{text}' in the operator's log"), || {
            let found = self.log().contains(text);
            async move { found.then_some(()) }
        })
        .await;
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.child.id().expect("the operator runs")
    }

    /// SIGKILL, and waits until it is gone.
    pub async fn kill(mut self) {
        self.child.kill().await.expect("the operator can be killed");
    }

    /// SIGTERM, and waits until it has ended by itself. Returns whether it ended well.
    pub async fn terminate(mut self) -> bool {
        signal(self.pid(), "TERM");
        self.child.wait().await.expect("the operator ends").success()
    }
}

impl Operator {
    /// Waits until it has ended by itself; returns what it logged.
    pub async fn ended(mut self) -> String {
        let status = self.child.wait().await.expect("the operator ends");
        assert!(!status.success(), "it has something to complain about");
        self.log()
    }
}

/// Sends a signal to one process.
pub fn signal(pid: u32, signal: &str) {
    let sent = std::process::Command::new("kill").args([format!("-{signal}"), pid.to_string()]).status();
    assert!(sent.is_ok_and(|status| status.success()), "SIG{signal} to {pid}");
}
