//! The PortalRelease operator's binary: wiring only.

use std::{process::ExitCode, sync::Arc, time::Duration};

use anyhow::Context as _;
use clap::Parser;
use futures::future::join_all;
use kube::Client;
use portal_release_operator::{
    api,
    cli::{Cli, Command, CrdArgs, DoctorArgs, Output, RunArgs},
    cluster::PortalEvents,
    controller, doctor,
    faults::Faults,
    http::HttpServer,
    leader,
    metrics::Metrics,
    notify::Notifier,
    portals::Portals,
    services::Services,
    storage::guard::{Outbound, STALL},
    telemetry,
    term::Term,
};
use tokio::{
    signal::unix::{SignalKind, signal},
    sync::watch,
};
use tokio_util::sync::CancellationToken;

/// How long notifications may take to leave at the end.
const FLUSH: Duration = Duration::from_secs(3);

fn main() -> ExitCode {
    let result = match Cli::parse().command {
        Command::Crd(args) => crd(&args),
        Command::Doctor(args) => match runtime().and_then(|runtime| runtime.block_on(doctor(&args))) {
            Ok(code) => return code,
            Err(error) => {
                eprintln!("portal-release-operator: {error:#}");
                return ExitCode::from(2);
            }
        },
        Command::Run(args) => runtime().and_then(|runtime| runtime.block_on(run(args))),
    };
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("portal-release-operator: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn runtime() -> anyhow::Result<tokio::runtime::Runtime> {
    // Kubernetes' types are nested deeply. Only what is used of a stack takes memory.
    tokio::runtime::Builder::new_multi_thread().enable_all().thread_stack_size(8 << 20).build().context("cannot start the runtime")
}

/// 0: ready to release; 1: a release would fail; 2: could not check.
#[expect(clippy::print_stdout, reason = "printing the report is what the command is for")]
async fn doctor(args: &DoctorArgs) -> anyhow::Result<ExitCode> {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let client = Client::try_default().await.context("cannot find the cluster: set KUBECONFIG, or run in a pod")?;
    let namespace = args.namespace.clone().unwrap_or_else(|| client.default_namespace().to_owned());
    let outbound = Outbound::new(args.allow_local_addresses, STALL).context("cannot read the system's CA certificates")?;
    let report = doctor::examine(&client, &namespace, &args.portal, args.label.as_deref(), &outbound).await?;
    match args.output {
        Output::Text => print!("{}", report.text()),
        Output::Json => println!("{}", report.json()?),
    }
    Ok(if report.is_good() { ExitCode::SUCCESS } else { ExitCode::from(1) })
}

#[expect(clippy::print_stdout, reason = "printing the CRDs is what the command is for")]
fn crd(args: &CrdArgs) -> anyhow::Result<()> {
    for (name, yaml) in api::crds_yaml()? {
        match &args.out {
            Some(directory) => {
                let path = directory.join(&name);
                std::fs::write(&path, yaml).with_context(|| format!("cannot write {}", path.display()))?;
            }
            None => println!("---\n{}", yaml.trim_end()),
        }
    }
    Ok(())
}

async fn run(args: RunArgs) -> anyhow::Result<()> {
    telemetry::init(args.log_format, args.log_level.as_deref())?;
    // One TLS provider for everything: libraries would otherwise bring their own.
    let _ = rustls::crypto::ring::default_provider().install_default();
    let faults = Faults::parse(&args.halt_at).map_err(anyhow::Error::msg)?;
    let instance = args.instance.clone().unwrap_or_else(|| format!("operator-{}", uuid::Uuid::new_v4().simple()));
    // The part that distinguishes processes must fit into Postgres' application_name.
    let short: String = instance.chars().rev().take(16).collect::<Vec<_>>().into_iter().rev().collect();

    let server = HttpServer::bind(&args.http_addr).await?;
    let public_url = args.public_url.clone().unwrap_or_else(|| format!("http://{}", server.address()));
    let client = Client::try_default().await.context("cannot find the cluster: set KUBECONFIG, or run in a pod")?;
    let metrics = Metrics::new();
    let term = if args.leader_election { Term::default() } else { Term::endless() };
    let portals = Arc::new(Portals::new(client.clone(), &args.namespaces, &short, term.clone(), args.leader_election));
    let services = Arc::new(Services {
        client: client.clone(),
        metrics: metrics.clone(),
        notifier: Notifier::spawn(metrics.clone())?,
        events: PortalEvents::new(client.clone(), &instance),
        outbound: Outbound::new(args.allow_local_addresses, STALL)
            .context("cannot make the HTTP client: check the system's CA certificates")?,
        public_url: public_url.trim_end_matches('/').to_owned(),
        instance: instance.clone(),
        term: term.clone(),
        faults,
    });

    let shutdown = CancellationToken::new();
    tokio::spawn(until_signalled(shutdown.clone()));
    // A standby is ready too: it is ready to take over.
    let (ready, readiness) = watch::channel(args.leader_election);
    tracing::info!(address = %server.address(), instance, "portal-release-operator {} serves HTTP on {}", env!("CARGO_PKG_VERSION"), server.address());
    let http = tokio::spawn(server.serve(metrics, readiness, portals.clone(), shutdown.clone()));

    let namespaces: Vec<Option<String>> =
        if args.namespaces.is_empty() { vec![None] } else { args.namespaces.iter().cloned().map(Some).collect() };
    let lease_namespace = args.lease_namespace.clone().or_else(|| args.namespaces.first().cloned()).unwrap_or_else(|| "default".to_owned());
    let work = {
        let (client, services, portals) = (client.clone(), services.clone(), portals.clone());
        move |stop: CancellationToken| async move {
            let controllers = namespaces.into_iter().map(|namespace| {
                controller::run(client.clone(), namespace, services.clone(), portals.clone(), ready.clone(), stop.clone())
            });
            join_all(controllers).await;
            portals.close().await;
        }
    };
    let led = if args.leader_election {
        leader::run_as_leader(client, &lease_namespace, &args.lease_name, &instance, shutdown.clone(), &term, work)
            .await
            .map_err(anyhow::Error::from)
    } else {
        work(shutdown.clone()).await;
        Ok(())
    };
    shutdown.cancel();
    services.notifier.flush(FLUSH).await;
    http.await.context("the HTTP server panicked")??;
    tracing::info!("stopped");
    led
}

/// SIGTERM and SIGINT end the process cleanly.
async fn until_signalled(shutdown: CancellationToken) {
    let terminated = async {
        match signal(SignalKind::terminate()) {
            Ok(mut signals) => {
                signals.recv().await;
            }
            Err(_) => std::future::pending().await,
        }
    };
    tokio::select! {
        () = terminated => {}
        _ = tokio::signal::ctrl_c() => {}
    }
    tracing::info!("stopping on a signal");
    shutdown.cancel();
}
