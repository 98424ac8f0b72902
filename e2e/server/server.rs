//! A PostgreSQL server of one test's own, which the test may crash, stop, fill up or let another one follow.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use sqlx::postgres::{PgConnectOptions, PgPoolOptions, PgSslMode};
use sqlx::{ConnectOptions, Connection, PgConnection, PgPool};

/// Where Debian keeps the version that e2e/local runs.
const PG_BIN: &str = "/usr/lib/postgresql/15/bin";
/// The start of the directories' names; the process id of the test and a number follow.
const DIRECTORIES: &str = "portal-release-server";
/// How long a server may take to come up: recovery after a crash can be slow on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A running server. Dropped, it is killed and its data is deleted.
pub(crate) struct Server {
    postmaster: Child,
    port: u16,
    directory: Directory,
}

/// Settings of `postgresql.conf`, as `name=value`.
pub(crate) type Settings<'a> = &'a [&'a str];

impl Server {
    /// A fresh server.
    pub(crate) async fn start(settings: Settings<'_>) -> Self {
        let directory = Directory::new();
        directory.initdb();
        Self::run(directory, settings, None).await
    }

    /// A fresh server that has a file system of `mib` MiB at [`Server::small_disk`]. Only it and its children see that, and it is
    /// gone with them. Mounting needs root.
    pub(crate) async fn start_with_small_disk(mib: u32, settings: Settings<'_>) -> Self {
        let directory = Directory::new();
        directory.initdb();
        directory.command("mkdir").arg(small_disk(&directory.path)).run();
        Self::run(directory, settings, Some(mib)).await
    }

    /// A hot standby that follows this server, through a replication slot if one is named. Its name there is `name`.
    pub(crate) async fn standby(&self, name: &str, slot: Option<&str>, settings: Settings<'_>) -> Self {
        let directory = Directory::with_password(self.directory.password.clone());
        let mut backup = directory.command(pg_bin().join("pg_basebackup"));
        backup.args(["--checkpoint=fast", "--no-sync", "--write-recovery-conf", "-D"]).arg(directory.data());
        backup.arg("-d").arg(self.url("postgres", "postgres"));
        if let Some(slot) = slot {
            backup.args(["--create-slot", "--slot", slot]);
        }
        backup.run();
        let name = format!("cluster_name={name}");
        Self::run(directory, &[settings, &[name.as_str()]].concat(), None).await
    }

    async fn run(directory: Directory, settings: Settings<'_>, disk: Option<u32>) -> Self {
        let port = free_port();
        let mut server = Self { postmaster: directory.postgres(port, settings, disk), port, directory };
        for _ in 0..3 {
            if server.is_up().await {
                return server;
            }
            // Another process may have taken the port meanwhile.
            server.kill();
            server.port = free_port();
            server.postmaster = server.directory.postgres(server.port, settings, disk);
        }
        panic!("the server did not start on any of 3 ports");
    }

    /// Waits until it answers; not when it has ended.
    async fn is_up(&mut self) -> bool {
        let started = Instant::now();
        let mut ticks = tokio::time::interval(Duration::from_millis(50));
        while started.elapsed() < PATIENCE && self.postmaster.try_wait().unwrap().is_none() {
            if self.answers().await {
                return true;
            }
            ticks.tick().await;
        }
        false
    }

    /// Is it up, and ours?
    pub(crate) async fn answers(&self) -> bool {
        match PgConnection::connect_with(&self.options("postgres", "postgres")).await {
            Ok(conn) => conn.close().await.is_ok(),
            Err(_) => false,
        }
    }

    /// How to connect as a role; every role has the same password.
    pub(crate) fn options(&self, role: &str, database: &str) -> PgConnectOptions {
        PgConnectOptions::new_without_pgpass()
            .host("127.0.0.1")
            .port(self.port)
            .username(role)
            .password(&self.directory.password)
            .database(database)
            .ssl_mode(PgSslMode::Disable)
            .disable_statement_logging()
    }

    /// The same as a URL.
    pub(crate) fn url(&self, role: &str, database: &str) -> String {
        format!("postgresql://{role}:{}@127.0.0.1:{}/{database}", self.directory.password, self.port)
    }

    /// The password of every role.
    pub(crate) fn password(&self) -> &str {
        &self.directory.password
    }

    /// Connections as a role.
    pub(crate) async fn pool(&self, role: &str, database: &str) -> PgPool {
        PgPoolOptions::new().max_connections(8).connect_with(self.options(role, database)).await.unwrap()
    }

    /// Kills a backend with SIGKILL. The postmaster then ends all the others, and recovers from the WAL.
    pub(crate) fn crash_backend(&self, pid: i32) {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).expect("the backend runs");
        let parent = stat.rsplit(')').next().and_then(|rest| rest.split_whitespace().nth(1)).expect("its parent");
        assert_eq!(parent, self.postmaster.id().to_string(), "process {pid} is no backend of this server");
        signal("KILL", &pid.to_string());
    }

    /// Starts a program of PostgreSQL that connects to this server, such as `pg_receivewal`, with an empty directory for its output.
    pub(crate) fn program(&self, name: &str, arguments: &[&str]) -> Program {
        let directory = Directory::with_password(self.directory.password.clone());
        let mut command = directory.command(pg_bin().join(name));
        command.args(arguments).arg("-D").arg(&directory.path).arg("-d").arg(self.url("postgres", "postgres"));
        command.stdout(Stdio::null()).stderr(Stdio::null());
        Program { child: command.spawn().unwrap(), _directory: directory }
    }

    /// Where the small file system of [`Server::start_with_small_disk`] is.
    pub(crate) fn small_disk(&self) -> String {
        small_disk(&self.directory.path).display().to_string()
    }

    /// Everything that it has logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(self.directory.path.join("log")).unwrap_or_default()
    }

    fn kill(&mut self) {
        // Immediate shutdown: the postmaster ends its children and goes, without a checkpoint.
        if self.postmaster.try_wait().is_ok_and(|ended| ended.is_none()) {
            signal("QUIT", &self.postmaster.id().to_string());
        }
        let started = Instant::now();
        while self.postmaster.try_wait().is_ok_and(|ended| ended.is_none()) {
            if started.elapsed() > Duration::from_secs(10) {
                let _ = self.postmaster.kill();
            }
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let lines: Vec<&str> = log.lines().collect();
            eprintln!("--- the end of the server's log\n{}", lines[lines.len().saturating_sub(30)..].join("\n"));
        }
        self.kill();
    }
}

/// A program that runs until it is dropped.
pub(crate) struct Program {
    child: Child,
    _directory: Directory,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A throw-away directory, in the hands of the user that the server runs as. Dropped, it is deleted.
struct Directory {
    path: PathBuf,
    password: String,
}

impl Directory {
    fn new() -> Self {
        Self::with_password(uuid::Uuid::new_v4().simple().to_string())
    }

    fn with_password(password: String) -> Self {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        if count == 0 {
            sweep();
        }
        // Not below a home directory: the server does not run as root, and must reach its data.
        let path = Path::new("/var/tmp").join(format!("{DIRECTORIES}.{}.{count}", std::process::id()));
        std::fs::create_dir(&path).unwrap();
        if is_root() {
            Command::new("chown").arg("postgres:").arg(&path).run();
        }
        Self { path, password }
    }

    fn data(&self) -> PathBuf {
        self.path.join("data")
    }

    /// A command as the user of the server, which gets SIGQUIT when the thread of the test ends.
    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new("setpriv");
        command.arg("--pdeathsig=QUIT").args(is_root().then_some(AS_POSTGRES).into_iter().flatten()).arg("--").arg(program);
        command.current_dir(&self.path).stdin(Stdio::null());
        command
    }

    fn initdb(&self) {
        let file = self.path.join("password");
        std::fs::write(&file, &self.password).unwrap();
        let mut initdb = self.command(pg_bin().join("initdb"));
        initdb.args(["--no-sync", "--username=postgres", "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8"]);
        initdb.arg("--pwfile").arg(&file).arg("-D").arg(self.data()).run();
        std::fs::remove_file(&file).unwrap();
    }

    fn postgres(&self, port: u16, settings: Settings<'_>, disk: Option<u32>) -> Child {
        let mut command = match disk {
            None => self.command(pg_bin().join("postgres")),
            // Only this process and its children see the mount, and it ends with them.
            Some(mib) => {
                let mut command = Command::new("unshare");
                command.args(["--mount", "sh", "-c", MOUNT, "sh"]);
                command.arg(mib.to_string()).arg(small_disk(&self.path));
                let inner = self.command(pg_bin().join("postgres"));
                command.arg(inner.get_program()).args(inner.get_args()).current_dir(&self.path).stdin(Stdio::null());
                command
            }
        };
        let (data, port) = (self.data(), port.to_string());
        command.arg("-D").arg(&data).args(["-p", &port, "-k"]).arg(&self.path);
        let fixed = ["listen_addresses=127.0.0.1", "max_connections=60", "shared_buffers=32MB", "fsync=on", "log_line_prefix=%m [%p] %u "];
        for setting in fixed.iter().chain(settings) {
            command.args(["-c", setting]);
        }
        let log = std::fs::File::options().create(true).append(true).open(self.path.join("log")).unwrap();
        command.stdout(log.try_clone().unwrap()).stderr(log).spawn().unwrap()
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        delete(&self.path);
    }
}

/// Mounts `$1` MiB at `$2`, in the hands of the user that the server runs as, and becomes the command that follows.
const MOUNT: &str = r#"mount -t tmpfs -o "size=$1m,mode=700,uid=$(id -u postgres)" small "$2" && shift 2 && exec "$@""#;

/// The server refuses to run as root.
const AS_POSTGRES: [&str; 4] = ["--reuid=postgres", "--regid=postgres", "--init-groups", "--reset-env"];

/// May this process mount and become another user?
pub(crate) fn is_root() -> bool {
    use std::os::unix::fs::MetadataExt;
    std::fs::metadata("/proc/self").is_ok_and(|it| it.uid() == 0)
}

fn pg_bin() -> PathBuf {
    std::env::var_os("PG_BIN").map_or_else(|| PG_BIN.into(), PathBuf::from)
}

fn small_disk(directory: &Path) -> PathBuf {
    directory.join("small")
}

fn free_port() -> u16 {
    std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port()
}

fn signal(name: &str, pid: &str) {
    Command::new("kill").args(["-s", name, pid]).run();
}

/// Deletes what tests have left that were killed.
fn sweep() {
    for entry in std::fs::read_dir("/var/tmp").unwrap().flatten() {
        let name = entry.file_name().to_string_lossy().into_owned();
        let owner = name.strip_prefix(DIRECTORIES).and_then(|rest| rest.split('.').nth(1)).map(str::to_owned);
        if owner.is_some_and(|pid| !Path::new("/proc").join(pid).exists()) {
            delete(&entry.path());
        }
    }
}

fn delete(directory: &Path) {
    if let Err(error) = std::fs::remove_dir_all(directory) {
        eprintln!("{} is not deleted: {error}", directory.display());
    }
}

/// Runs a command that must succeed.
trait Run {
    fn run(&mut self);
}

impl Run for Command {
    fn run(&mut self) {
        let output = self.output().unwrap_or_else(|error| panic!("{self:?}: {error}"));
        assert!(output.status.success(), "{self:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}
