//! The controllers: observe, decide, do one step, project the status, and observe again when something has changed.

mod act;
mod definition;
mod emergency_freeze;
mod finalizer;
mod observe;
mod orphan;
mod portal;
mod portal_backups;
mod release;
mod settled;

use std::{sync::Arc, time::Duration};

use futures::{StreamExt, channel::mpsc};
use kube::{
    Api, Client, ResourceExt,
    runtime::{
        WatchStreamExt,
        controller::{Config, Controller},
        reflector::{ObjectRef, Store, store::Writer},
        watcher::{self, watcher},
    },
};
use settled::{Settled, portal_of};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::{
    api::{Portal, PortalRelease},
    portals::Portals,
    runner::Runner,
    services::Services,
    work::Waker,
};

/// Reconciles that may run at the same time; phases are tasks of their own. Those of a portal whose database hangs must leave some.
const CONCURRENCY: u16 = 16;
/// Objects per page when all are listed. They are large until they are slimmed.
const PAGE: u32 = 100;
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
    portal_waker: mpsc::UnboundedSender<ObjectRef<Portal>>,
    releases: Store<PortalRelease>,
    portal_objects: Store<Portal>,
    settled: Settled,
    known: watch::Receiver<bool>,
}

impl Shared {
    /// Waits until all releases and portals are known: decisions need more than one object. `false`: the operator stops first.
    ///
    /// Reconciles must not wait for a [`Store`] themselves: of several that wait for one store, only the last is woken.
    async fn all_known(&self) -> bool {
        self.known.clone().wait_for(|known| *known).await.is_ok()
    }

    fn wake(&self, release: &PortalRelease) {
        let _ = self.waker.unbounded_send(ObjectRef::from_obj(release));
    }

    fn wake_portal(&self, portal: ObjectRef<Portal>) {
        let _ = self.portal_waker.unbounded_send(portal);
    }

    /// Wakes the releases of a portal: one that waits may continue. Finished ones are woken by the Portal's reconcile.
    fn wake_siblings(&self, namespace: &str, portal: &str) {
        let portal = ObjectRef::new(portal).within(namespace);
        for release in self.releases_of(&portal).filter(|release| !self.settled.rests(release)) {
            self.wake(&release);
        }
    }

    fn releases_of(&self, portal: &ObjectRef<Portal>) -> impl Iterator<Item = Arc<PortalRelease>> {
        self.releases.state().into_iter().filter(move |release| portal_of(release) == *portal)
    }

    /// A Portal that changes concerns its releases.
    fn portal_event(&self, event: &watcher::Event<Portal>) {
        match event {
            watcher::Event::Apply(portal) | watcher::Event::InitApply(portal) => {
                self.wake_siblings(&portal.namespace().unwrap_or_default(), &portal.name_any());
            }
            watcher::Event::Delete(portal) => {
                let portal = ObjectRef::from_obj(portal);
                self.releases_of(&portal).for_each(|release| self.wake(&release));
                self.forget_if_gone(portal);
            }
            watcher::Event::Init | watcher::Event::InitDone => {}
        }
    }

    /// A release that changes concerns the status of its Portal.
    fn release_event(&self, event: &watcher::Event<PortalRelease>) {
        match event {
            watcher::Event::Apply(release) => self.wake_portal(portal_of(release)),
            watcher::Event::Delete(release) => {
                self.settled.forget(release);
                self.wake_portal(portal_of(release));
                // It may have gone without a finalizer, and so without a word to those who wait for it.
                self.wake_siblings(&release.namespace().unwrap_or_default(), release.spec.portal_ref.name.as_str());
                self.forget_if_gone(portal_of(release));
            }
            // Some may have been deleted while no operator watched.
            watcher::Event::InitDone => {
                self.settled.retain(&self.releases.state());
                self.portal_objects.state().iter().for_each(|portal| self.wake_portal(ObjectRef::from_obj(portal.as_ref())));
            }
            watcher::Event::Init | watcher::Event::InitApply(_) => {}
        }
    }

    /// Closes the database of a deleted Portal once none of its releases is left: the last ones are cleaned up there.
    fn forget_if_gone(&self, portal: ObjectRef<Portal>) {
        if self.portal_objects.get(&portal).is_some() || self.releases_of(&portal).next().is_some() {
            return;
        }
        let portals = self.portals.clone();
        tokio::spawn(async move { portals.forget(portal.namespace.as_deref().unwrap_or_default(), &portal.name).await });
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
    let (portal_waker, woken_portals) = mpsc::unbounded();
    let (writer, portal_writer) = (Writer::default(), Writer::default());
    let store = writer.as_reader();
    let (knowing, known) = watch::channel(false);
    let shared = Arc::new(Shared {
        client,
        services,
        portals,
        runner: Runner::default(),
        waker,
        portal_waker,
        releases: store.clone(),
        portal_objects: portal_writer.as_reader(),
        settled: Settled::default(),
        known,
    });

    let watching = || watcher::Config::default().page_size(PAGE);
    let config = || Config::default().concurrency(CONCURRENCY);
    let (receiving, seeing, seeing_portals) = (shared.clone(), shared.clone(), shared.clone());
    let release_stream = watcher(releases, watching())
        .modify(move |release| receiving.settled.receive(release))
        .reflect(writer)
        .inspect(move |event| event.iter().for_each(|event| seeing.release_event(event)))
        .applied_objects();
    let portal_stream = watcher(portal_api, watching())
        .modify(|portal: &mut Portal| settled::slim(&mut portal.metadata))
        .reflect(portal_writer)
        .inspect(move |event| event.iter().for_each(|event| seeing_portals.portal_event(event)))
        .applied_objects();
    let release_loop = Controller::for_stream(release_stream, store.clone())
        .with_config(config())
        .reconcile_on(woken)
        .graceful_shutdown_on(stop.clone().cancelled_owned())
        .run(release::reconcile, release::failed, shared.clone())
        .for_each(async |_| {});
    let portal_loop = Controller::for_stream(portal_stream, shared.portal_objects.clone())
        .with_config(config())
        .reconcile_on(woken_portals)
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
