//! Several pieces of a phase at once, each over a connection of its own.

use std::time::Duration;

use futures::{Stream, StreamExt, future::BoxFuture, stream::FuturesUnordered};

use crate::work::{Context, PhaseError};

/// How long pieces that are being stopped may take before they are stopped again.
const TELL_AGAIN: Duration = Duration::from_secs(1);

/// How many pieces the Portal allows at once.
pub(crate) fn limit(context: &Context) -> usize {
    usize::from(context.subject.portal.imports.parallel.max(1))
}

/// Runs all pieces and returns their results, in no order. The first error stops the others; a suspension lets those that have begun
/// finish.
///
/// # Errors
/// The first error of a piece, or [`PhaseError::Paused`].
pub(crate) async fn all<T>(context: &Context, pieces: Vec<BoxFuture<'_, Result<T, PhaseError>>>) -> Result<Vec<T>, PhaseError> {
    let (mut pieces, mut running, mut given) = (pieces.into_iter(), FuturesUnordered::new(), Vec::new());
    let mut stopped = None;
    loop {
        while stopped.is_none() && running.len() < limit(context) {
            let Some(piece) = pieces.next() else { break };
            match context.safe_point() {
                Ok(()) => running.push(piece),
                Err(paused) => stopped = Some(paused),
            }
        }
        match running.next().await {
            None => break,
            Some(Ok(one)) => given.push(one),
            Some(Err(error)) => {
                cut_off(context, &mut running).await;
                stopped = Some(error);
            }
        }
    }
    match stopped {
        Some(why) => Err(why),
        None => Ok(given),
    }
}

/// Ends what runs, and waits until nothing of it runs any more. How it ended does not matter: a piece that has committed is done, and
/// any other one changes nothing.
pub(crate) async fn cut_off(context: &Context, running: &mut (impl Stream + Unpin)) {
    loop {
        // Again and again: a piece may just have been between two statements, or before its first one.
        context.end_backends().await;
        if let Ok(None) = tokio::time::timeout(TELL_AGAIN, running.next()).await {
            return;
        }
    }
}
