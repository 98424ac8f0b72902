//! One working operator at a time, by a Lease.
//!
//! kube-lease-manager takes, renews and releases the Lease. It reports a loss to its holder only once the API server
//! answers again, so [`guard`] watches the time: a leader that cannot prove that its Lease was renewed stops before the
//! Lease runs out. A lease is not a fence: changes to a portal's database check the ledger's epoch besides.

use std::{
    pin::pin,
    time::{Duration, SystemTime},
};

use futures::future::{Either, select};
use k8s_openapi::api::coordination::v1::Lease;
use kube::{Api, Client};
use kube_lease_manager::{LeaseManager, LeaseManagerBuilder, LeaseManagerError};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::{
    cluster::{FIELD_MANAGER, describe, is_not_found},
    term::Term,
    text::truncate,
};

/// For how long the Lease is valid after a renewal, in seconds. Another operator may take over after that.
const LEASE_SECONDS: u64 = 15;
/// How long before its end the Lease is renewed, in seconds.
const GRACE_SECONDS: u64 = 5;
/// How long before its end the guard begins to look whether the Lease was renewed.
const LOOK_BEFORE_END: Duration = Duration::from_secs(3);
/// How long before its end a Lease that was not renewed counts as lost.
const LOST_BEFORE_END: Duration = Duration::from_secs(1);
/// How long the API server may take to answer one read of the Lease.
const ANSWER: Duration = Duration::from_secs(1);
/// How often a standby process checks whether the Lease was released.
const STANDBY_PAUSE: Duration = Duration::from_secs(2);
/// Pause between two tries while the API server does not answer.
const PAUSE: Duration = Duration::from_millis(500);
/// How long the leader's work may take to end once the Lease is lost, and the release of the Lease at a clean stop.
const WIND_DOWN: Duration = Duration::from_secs(2);

/// Why this process does not lead.
#[derive(Debug, thiserror::Error)]
pub enum LeaderError {
    /// The Lease was lost; another operator may lead now.
    #[error("lost the Lease {lease}: {cause}; this process must exit; restarted, it becomes a candidate again")]
    Lost {
        /// Namespace and name.
        lease: String,
        /// What happened.
        cause: String,
    },
    /// The Lease cannot be used.
    #[error("cannot use the Lease {lease}: {cause}; the service account needs create on leases, and get and patch on this one")]
    Lease {
        /// Namespace and name.
        lease: String,
        /// Why.
        cause: LeaseManagerError,
    },
}

/// Waits until this process leads, then runs `lead`. Its token is cancelled at `shutdown` or when the Lease is lost. `term` is over
/// until then, and again when the Lease has run out without a renewal.
///
/// At `shutdown` the work may take its time to end (the Lease is renewed meanwhile); then the Lease is given back, so that
/// another operator can start at once. `identity` must differ between processes.
///
/// # Errors
/// When the Lease cannot be used at the start, and when it is lost: then the work gets two seconds to end and is dropped,
/// and the process should exit.
pub async fn run_as_leader<F, Fut>(
    client: Client,
    namespace: &str,
    lease_name: &str,
    identity: &str,
    shutdown: CancellationToken,
    term: &Term,
    lead: F,
) -> Result<(), LeaderError>
where
    F: FnOnce(CancellationToken) -> Fut,
    Fut: Future<Output = ()>,
{
    let lease = format!("{namespace}/{lease_name}");
    let api: Api<Lease> = Api::namespaced(client.clone(), namespace);
    tracing::info!(lease, identity, "waiting to become the leader");
    let manager = tokio::select! {
        biased;
        () = shutdown.cancelled() => return Ok(()),
        elected = elected(&client, &api, namespace, lease_name, identity) => {
            elected.map_err(|cause| LeaderError::Lease { lease: lease.clone(), cause })?
        }
    };
    tracing::info!(lease, identity, "this process is the leader");
    // The Lease was taken a moment ago; the guard reads when exactly.
    let end = SystemTime::now() + Duration::from_secs(LEASE_SECONDS);
    term.lasts_until(end);

    let stop = shutdown.child_token();
    let mut work = pin!(lead(stop.clone()));
    let loss = Box::pin(async {
        tokio::select! {
            cause = keep(&manager) => cause,
            cause = guard(&api, lease_name, identity, end, term) => cause,
        }
    });
    match select(work.as_mut(), loss).await {
        Either::Left(((), renewal)) => {
            // A renewal under way holds the manager's lock.
            drop(renewal);
            release(&manager, &lease).await;
            Ok(())
        }
        Either::Right((cause, _)) => {
            stop.cancel();
            if timeout(WIND_DOWN, work).await.is_err() {
                tracing::warn!(lease, "the leader's work did not end within {}s of losing the Lease", WIND_DOWN.as_secs());
            }
            Err(LeaderError::Lost { lease, cause })
        }
    }
}

/// Ends once this process holds the Lease. A manager sleeps until the end of the Lease that it knows of, so a Lease that
/// is given back earlier, or was deleted, is tried at once with a new manager.
async fn elected(
    client: &Client,
    api: &Api<Lease>,
    namespace: &str,
    lease_name: &str,
    identity: &str,
) -> Result<LeaseManager, LeaseManagerError> {
    loop {
        let manager = LeaseManagerBuilder::new(client.clone(), lease_name)
            .with_namespace(namespace)
            .with_identity(identity)
            .with_duration(LEASE_SECONDS)
            .with_grace(GRACE_SECONDS)
            // A name of its own: two first claims at a time are then a conflict, not a quiet overwrite.
            .with_field_manager(truncate(&format!("{FIELD_MANAGER}-{identity}"), 128))
            .build()
            .await?;
        tokio::select! {
            biased;
            changed = manager.changed() => match changed {
                Ok(true) => return Ok(manager),
                Ok(false) => {}
                Err(error) => {
                    tracing::warn!(lease_name, %error, "cannot reach the Lease; retrying");
                    sleep(PAUSE).await;
                }
            },
            () = vacant(api, lease_name) => {}
        }
    }
}

/// Ends once no process holds the Lease.
async fn vacant(api: &Api<Lease>, lease_name: &str) {
    loop {
        sleep(STANDBY_PAUSE).await;
        match timeout(ANSWER, api.get(lease_name)).await {
            Ok(Ok(lease)) if lease.spec.as_ref().is_some_and(|spec| spec.holder_identity.is_some()) => {}
            Ok(Err(error)) if !is_not_found(&error) => tracing::debug!(error = describe(&error), "the Lease cannot be read"),
            Err(_) => tracing::debug!("reading the Lease timed out"),
            Ok(_) => return,
        }
    }
}

/// Renews the Lease; ends, with the reason, once someone else holds it.
async fn keep(manager: &LeaseManager) -> String {
    loop {
        match manager.changed().await {
            Ok(true) => {}
            Ok(false) => return "another operator holds it".to_owned(),
            Err(error) => {
                tracing::warn!(%error, "the Lease could not be renewed; retrying");
                sleep(PAUSE).await;
            }
        }
    }
}

/// Ends, with the reason, shortly before the Lease runs out without having been renewed. Costs one read in ten seconds.
async fn guard(api: &Api<Lease>, lease_name: &str, identity: &str, mut end: SystemTime, term: &Term) -> String {
    loop {
        sleep(until(end, LOOK_BEFORE_END)).await;
        let known = end;
        while end <= known {
            if until(known, LOST_BEFORE_END).is_zero() {
                return format!("it was not renewed within {LEASE_SECONDS}s");
            }
            match timeout(ANSWER, api.get(lease_name)).await {
                Ok(Ok(lease)) => match renewed_until(&lease, identity) {
                    Some(renewed) => {
                        end = renewed;
                        term.lasts_until(end);
                    }
                    None => return "another operator holds it, or its holder was removed".to_owned(),
                },
                Ok(Err(error)) if is_not_found(&error) => return "it was deleted".to_owned(),
                Ok(Err(error)) => tracing::debug!(error = describe(&error), "the Lease cannot be read"),
                Err(_) => tracing::debug!("reading the Lease timed out"),
            }
            if end <= known {
                sleep(PAUSE).await;
            }
        }
    }
}

/// Until when the Lease is valid, if `identity` holds it.
fn renewed_until(lease: &Lease, identity: &str) -> Option<SystemTime> {
    let spec = lease.spec.as_ref()?;
    let renewed: SystemTime = spec.renew_time.as_ref()?.0.into();
    (spec.holder_identity.as_deref() == Some(identity)).then(|| renewed + Duration::from_secs(LEASE_SECONDS))
}

/// How long it is to a moment that lies `before` the `end`.
fn until(end: SystemTime, before: Duration) -> Duration {
    end.duration_since(SystemTime::now()).unwrap_or_default().saturating_sub(before)
}

/// Releases the Lease, if this process holds it.
async fn release(manager: &LeaseManager, lease: &str) {
    match timeout(WIND_DOWN, manager.release()).await {
        Ok(Ok(())) => tracing::info!(lease, "the Lease was released"),
        Ok(Err(error)) => tracing::warn!(lease, %error, "the Lease could not be released; it will expire"),
        Err(_) => tracing::warn!(lease, "the Lease could not be released in time; it will expire"),
    }
}

#[cfg(test)]
mod tests {
    use k8s_openapi::{api::coordination::v1::LeaseSpec, apimachinery::pkg::apis::meta::v1::MicroTime, jiff::Timestamp};

    use super::*;

    #[test]
    fn only_the_holder_has_time() {
        let now = Timestamp::from_second(1_800_000_000).unwrap();
        let spec = LeaseSpec { holder_identity: Some("me".into()), renew_time: Some(MicroTime(now)), ..LeaseSpec::default() };
        let lease = Lease { spec: Some(spec), ..Lease::default() };
        assert_eq!(renewed_until(&lease, "me"), Some(SystemTime::from(now) + Duration::from_secs(15)));
        assert_eq!(renewed_until(&lease, "you"), None);
        assert_eq!(renewed_until(&Lease::default(), "me"), None);
    }

    #[test]
    fn a_term_ends_by_itself() {
        let term = Term::default();
        assert!(term.is_over(), "it has not begun");
        term.lasts_until(SystemTime::now() + Duration::from_secs(60));
        assert!(!term.is_over() && !term.clone().is_over());
        term.lasts_until(SystemTime::now());
        assert!(term.is_over());
        assert!(!Term::endless().is_over());
    }

    #[test]
    fn time_that_is_over_is_zero() {
        assert!(until(SystemTime::now() + Duration::from_millis(900), LOST_BEFORE_END).is_zero());
        assert!(!until(SystemTime::now() + Duration::from_secs(3), LOST_BEFORE_END).is_zero());
    }
}
