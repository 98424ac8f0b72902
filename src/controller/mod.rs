//! The controllers: observe, decide, do one step, project the status, and look again when something has changed.

mod act;
mod definition;
mod emergency_freeze;
mod finalizer;
mod observe;
mod portal;
mod portal_backups;
mod release;

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, channel::mpsc};
use kube::{
    Api, Client, ResourceExt,
    runtime::{
        controller::{Config, Controller},
        reflector::{ObjectRef, Store},
        watcher,
    },
};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    api::{Portal, PortalRelease},
    portals::Portals,
    runner::Runner,
    services::Services,
    work::Waker,
};

/// Reconciles that may run at the same time; phases are tasks of their own.
const CONCURRENCY: u16 = 8;
/// How often the stores are polled until they are filled.
const LOOK: Duration = Duration::from_millis(250);
/// How long running phases may take to stop with the process.
const STOP_LIMIT: Duration = Duration::from_secs(10);

/// What a reconcile works with.
pub(crate) struct Shared {
    client: Client,
    services: Arc<Services>,
    portals: Arc<Portals>,
    runner: Runner,
    waker: Waker,
    releases: Store<PortalRelease>,
    portal_objects: Store<Portal>,
    known: watch::Receiver<bool>,
}

impl Shared {
    /// Waits until all releases and portals are known: decisions need more than one object. `false`: the operator stops first.
    ///
    /// Reconciles must not wait for a [`Store`] themselves: of several that wait for one store, only the last is woken.
    async fn all_known(&self) -> bool {
        self.known.clone().wait_for(|known| *known).await.is_ok()
    }

    /// Wakes the releases of a portal: one that waits may go on.
    fn wake_siblings(&self, namespace: &str, portal: &str) {
        for release in self.releases.state() {
            if release.namespace().as_deref() == Some(namespace) && release.spec.portal_ref.name.as_str() == portal {
                let _ = self.waker.unbounded_send(ObjectRef::from_obj(release.as_ref()));
            }
        }
    }
}

/// Runs the controllers of one namespace, or of all of them, until `stop`; then stops what runs.
pub async fn run(
    client: Client,
    namespace: Option<String>,
    services: Arc<Services>,
    portals: Arc<Portals>,
    ready: watch::Sender<bool>,
    stop: CancellationToken,
) {
    let releases: Api<PortalRelease> = scoped(&client, namespace.as_deref());
    let portal_api: Api<Portal> = scoped(&client, namespace.as_deref());
    let (waker, woken) = mpsc::unbounded();
    let config = || Config::default().concurrency(CONCURRENCY);

    let controller = Controller::new(releases.clone(), watcher::Config::default()).with_config(config());
    let portal_controller = Controller::new(portal_api.clone(), watcher::Config::default()).with_config(config());
    let store = controller.store();
    let (knowing, known) = watch::channel(false);
    let shared = Arc::new(Shared {
        client,
        services,
        portals,
        runner: Runner::default(),
        waker,
        releases: store.clone(),
        portal_objects: portal_controller.store(),
        known,
    });

    // A Portal that changes concerns its releases; a release that changes concerns the Portal's status.
    let of_portal = store.clone();
    let release_loop = controller
        .watches(portal_api, watcher::Config::default(), move |portal| {
            let (namespace, name) = (portal.namespace(), portal.name_any());
            let concerned =
                move |release: &Arc<PortalRelease>| release.namespace() == namespace && release.spec.portal_ref.name.as_str() == name;
            of_portal.state().into_iter().filter(concerned).map(|release| ObjectRef::from_obj(release.as_ref())).collect::<Vec<_>>()
        })
        .reconcile_on(woken)
        .graceful_shutdown_on(stop.clone().cancelled_owned())
        .run(release::reconcile, release::failed, shared.clone())
        .for_each(async |_| {});
    let portal_loop = portal_controller
        .watches(releases, watcher::Config::default(), |release| {
            let portal = ObjectRef::new(release.spec.portal_ref.name.as_str());
            release.namespace().map(|namespace| portal.within(&namespace))
        })
        .graceful_shutdown_on(stop.clone().cancelled_owned())
        .run(portal::reconcile, portal::failed, shared.clone())
        .for_each(async |_| {});
    let readiness = async {
        let stores = async { in_time(&store).await && in_time(&shared.portal_objects).await };
        if stop.run_until_cancelled(stores).await == Some(true) {
            knowing.send_replace(true);
            ready.send_replace(true);
        }
        stop.cancelled().await;
        shared.runner.stop_all(STOP_LIMIT).await;
    };
    tokio::join!(release_loop, portal_loop, readiness);
}

/// Waits until a store is filled. `false`: it never will be, as its controller has ended.
///
/// Of several that wait for one store only the last is woken, and the controller itself is one of them: so this polls.
async fn in_time<K>(store: &Store<K>) -> bool
where
    K: kube::runtime::reflector::Lookup<DynamicType = ()> + Clone + 'static,
{
    loop {
        if let Ok(ready) = tokio::time::timeout(LOOK, store.wait_until_ready()).await {
            return ready.is_ok();
        }
    }
}

fn scoped<K>(client: &Client, namespace: Option<&str>) -> Api<K>
where
    K: kube::Resource<DynamicType = (), Scope = kube::core::NamespaceResourceScope>,
{
    match namespace {
        Some(namespace) => Api::namespaced(client.clone(), namespace),
        None => Api::all(client.clone()),
    }
}
