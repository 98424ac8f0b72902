//! The command line.

use clap::{Args, Parser, Subcommand};

use crate::telemetry::LogFormat;

/// Takes data portals through their releases.
#[derive(Debug, Parser)]
#[command(name = "portal-release-operator", version, about)]
pub struct Cli {
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Run the operator.
    Run(RunArgs),
    /// Check a portal, read-only: connection, privileges, lock, names, leftovers, what a release would do.
    Doctor(DoctorArgs),
    /// Print the CRDs, the same text as crds/.
    Crd(CrdArgs),
}

/// Options of `crd`.
#[derive(Debug, Args)]
pub struct CrdArgs {
    /// Write one file for each kind into this directory instead of printing them.
    #[arg(long)]
    pub out: Option<std::path::PathBuf>,
}

/// Options of `doctor`.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Name of the Portal.
    pub portal: String,
    /// Its namespace [default: that of the kubeconfig's context].
    #[arg(long, short = 'n', value_name = "NS")]
    pub namespace: Option<String>,
    /// Label of the next release: also check the files that its imports will read.
    #[arg(long)]
    pub label: Option<String>,
    /// Allow file URLs on this host, as for `run`.
    #[arg(long)]
    pub allow_local_addresses: bool,
    /// Format of the report.
    #[arg(long, short = 'o', value_enum, default_value = "text")]
    pub output: Output,
}

/// How a report is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub enum Output {
    /// Aligned lines for people.
    Text,
    /// One JSON document.
    Json,
}

/// Options of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    /// A namespace to watch; repeat it for several [default: all namespaces].
    #[arg(long = "namespace", value_name = "NS")]
    pub namespaces: Vec<String>,
    /// Elect a leader with a Lease, so that several replicas can run.
    #[arg(long, default_value_t = true, action = clap::ArgAction::Set)]
    pub leader_election: bool,
    /// Namespace of the Lease [default: the first watched namespace, or `default`].
    #[arg(long, env = "POD_NAMESPACE", value_name = "NS")]
    pub lease_namespace: Option<String>,
    /// Name of the Lease.
    #[arg(long, default_value = "portal-release-operator")]
    pub lease_name: String,
    /// Address at which /healthz, /readyz, /metrics and /manifests are served.
    #[arg(long, default_value = "127.0.0.1:8080", value_name = "ADDRESS")]
    pub http_addr: String,
    /// URL of that port from outside, the base of `status.manifest.url` [default: http:// and the address].
    #[arg(long, value_name = "URL")]
    pub public_url: Option<String>,
    /// Allow gates, hooks, files and object stores at addresses of this host, at link-local addresses and at cloud metadata services. For
    /// tests, and for servers beside the operator: whoever may write a Portal can then reach what only this host can reach.
    #[arg(long)]
    pub allow_local_addresses: bool,
    /// Format of log lines: for people or for machines.
    #[arg(long, value_enum, default_value = "text")]
    pub log_format: LogFormat,
    /// What to log, such as `info` or `portal_release_operator=debug` [default: RUST_LOG, else `info`].
    #[arg(long)]
    pub log_level: Option<String>,
    /// Name of this process in the Lease, in events and in pg_stat_activity [default: generated].
    #[arg(long, env = "POD_NAME", value_name = "NAME")]
    pub instance: Option<String>,
    /// For tests: halt at `Phase:begin`, just before the phase commits (`:end`), and likewise for its undo (`:undo`, `:undone`).
    #[arg(long, hide = true, value_name = "POINT")]
    pub halt_at: Vec<String>,
}
