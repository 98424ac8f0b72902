//! A Kubernetes Job that succeeds.

use super::{Answer, Probe};
use crate::{
    api::{JobSource, JobTemplateRef},
    cluster::read_config_map_key,
    finding::Finding,
    jobs::{self, JobRequest, Outcome, Purpose},
    work::{Context, PhaseError, definition},
};

/// Evaluates a Job: waits for the one that runs already, or creates one.
///
/// # Errors
/// When the phase is cancelled or fenced.
pub(super) async fn ask(context: &Context, object: &str, item: &str, source: &JobSource, purpose: Purpose) -> Result<Answer, PhaseError> {
    let ended = async {
        let text = template(context, object, purpose, source).await?;
        jobs::run(context, &request(object, purpose, item, source, &text)).await
    };
    Ok(match ended.await {
        Ok(Outcome::Succeeded) => Answer::Passed("its Job succeeded".to_owned()),
        Ok(Outcome::Failed(report)) => {
            let next = format!("{}, correct the cause, then raise spec.retry", report.log_command());
            Answer::Failed(Finding::fail(object, format!("failed: {}{}", report.cause(), report.log()), next))
        }
        Ok(Outcome::Interrupted(text)) => Answer::Error(Finding::fail(object, format!("was interrupted: {text}"), "")),
        Err(PhaseError::Refused(text)) => Answer::Failed(Finding::fail("", text, "")),
        Err(PhaseError::Failed(text)) => Answer::Error(Finding::fail("", text, "")),
        Err(error) => return Err(error),
    })
}

/// Checks the templates of all gates and hooks by a Job: nothing should run for hours before one is found to be wrong. Returns what is
/// said of them and rejects nothing.
///
/// # Errors
/// When the cluster would not accept a Job, or the operator may not create it.
pub async fn check_templates(context: &Context) -> Result<Vec<String>, PhaseError> {
    let portal = &context.subject.portal;
    let gates = portal
        .gates
        .iter()
        .filter_map(|gate| Some((if gate.hard { "gate" } else { "soft gate" }, &gate.name, Probe::of_gate(gate, None)?)));
    let hooks = portal.post_swap.iter().filter_map(|hook| Some(("hook", &hook.name, Probe::of_hook(hook)?)));
    let mut said = Vec::new();
    for (kind, name, probe) in gates.chain(hooks) {
        let Probe::Job(source, purpose) = probe else { continue };
        let (object, item) = (format!("{kind} {name}"), name.as_str());
        let checked = async {
            let text = template(context, &object, purpose, source).await?;
            jobs::check(context, &request(&object, purpose, item, source, &text)).await
        };
        match checked.await {
            Ok(untried) => said.extend(untried),
            // A soft gate never ends a release.
            Err(PhaseError::Refused(text) | PhaseError::Failed(text)) if kind == "soft gate" => said.push(text),
            Err(error) => return Err(error),
        }
    }
    Ok(said)
}

/// A gate is pinned with the run's definition; a hook is read live, and its template with it.
async fn template(context: &Context, object: &str, purpose: Purpose, source: &JobSource) -> Result<String, PhaseError> {
    let place = &source.template_config_map_ref;
    if purpose != Purpose::PostSwap {
        return definition::template(&context.subject.sources, place, object);
    }
    let JobTemplateRef { name, key } = place;
    let read = read_config_map_key(&context.tools.client, &context.subject.namespace, name.as_str(), key.as_str()).await;
    read.map_err(|error| definition::unreadable(object, &error))
}

fn request<'a>(object: &str, purpose: Purpose, item: &'a str, source: &'a JobSource, text: &'a str) -> JobRequest<'a> {
    let variable = if purpose == Purpose::PostSwap { "PORTAL_HOOK" } else { "PORTAL_GATE" };
    JobRequest { purpose, item, what: object.to_owned(), source, text, variables: vec![(variable, item.to_owned())] }
}
