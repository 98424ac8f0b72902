//! A Kubernetes Job that completes.

use super::Answer;
use crate::{
    api::JobSource,
    cluster,
    finding::Finding,
    jobs::{self, JobRequest, Outcome, Purpose},
    work::{Context, PhaseError},
};

/// Runs a Job to its end, or waits for the one that runs already.
///
/// # Errors
/// When the phase is cancelled or fenced.
pub(super) async fn ask(
    context: &Context,
    object: &str,
    item: &str,
    source: &JobSource,
    purpose: Purpose,
) -> Result<Answer, PhaseError> {
    let (namespace, reference) = (context.subject.namespace.as_str(), &source.template_config_map_ref);
    let text = cluster::read_config_map_key(&context.tools.client, namespace, reference.name.as_str(), reference.key.as_str()).await;
    let text = match text {
        Ok(text) => text,
        Err(error) if error.is_missing() => return Ok(Answer::Failed(Finding::fail(object, format!("failed: {error}"), "then raise spec.retry"))),
        Err(error) => return Ok(Answer::error(object, &error.to_string())),
    };
    let request = JobRequest { purpose, item, what: object.to_owned(), source, text: &text, variables: Vec::new() };
    let ended = tokio::select! {
        ended = jobs::run(context, &request) => ended,
        // Wherever that is: what has been announced is found, or created, by the next attempt.
        () = context.control.cancel.cancelled() => return Err(PhaseError::Cancelled),
    };
    Ok(match ended {
        Ok(Outcome::Succeeded) => Answer::Passed("its Job succeeded".to_owned()),
        Ok(Outcome::Failed(report)) => Answer::Failed(Finding::fail(object, report.problem(), format!("{}{}", report.look(), report.log()))),
        Ok(Outcome::Interrupted(why)) => Answer::Error(Finding::fail(object, why, "")),
        // The sentence of the Job names the check already.
        Err(PhaseError::Refused(text)) => Answer::Failed(Finding::fail("", text, "")),
        Err(PhaseError::Failed(text)) => Answer::Error(Finding::fail("", text, "")),
        Err(error) => return Err(error),
    })
}
