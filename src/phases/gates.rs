//! Gates: what a check's answer means for a release.

use std::time::{Duration, Instant};

use crate::{
    api::GatePhase,
    checks::{Answer, Check, Probe, ask},
    finding::Level,
    jobs,
    text::counted,
    work::{Context, Done, PhaseError, refuse},
};

/// Gates that could not be evaluated are asked again for this long in all before their phase fails, which repeats what came before.
const PATIENCE: Duration = Duration::from_secs(60);
/// The first pause between two attempts, and the longest.
const PAUSES: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(15));

/// Deletes the Jobs of gates that nothing waits for any more.
///
/// # Errors
/// When the database does not answer.
pub(super) async fn undo(context: &Context) -> Result<Done, PhaseError> {
    jobs::halt(context).await?;
    context.work().await?.complete("the Jobs of its gates are stopped").await
}

/// Evaluates the gates that must pass before a release stops the workers. A rollback evaluates none.
///
/// # Errors
/// As [`pass`].
pub(super) async fn before_freeze(context: &Context) -> Result<String, PhaseError> {
    let any = context.subject.portal.gates.iter().any(|gate| gate.phase == GatePhase::Freeze);
    if any && context.subject.run.builds() { pass(context, GatePhase::Freeze).await } else { Ok(String::new()) }
}

/// Evaluates the gates of a phase. A hard one that does not pass rejects the release; soft ones are part of the returned text.
///
/// # Errors
/// When a hard gate does not pass, or cannot be evaluated.
pub(super) async fn pass(context: &Context, phase: GatePhase) -> Result<String, PhaseError> {
    let portal = &context.subject.portal;
    let (mut count, mut found, mut patience) = (0, Vec::new(), PATIENCE);
    for gate in portal.gates.iter().filter(|gate| gate.phase == phase) {
        let Some(probe) = Probe::of_gate(gate, portal.contract.as_ref()) else { continue };
        count += 1;
        let check =
            Check { object: format!("{} gate {}", if gate.hard { "hard" } else { "soft" }, gate.name), name: gate.name.as_str(), probe };
        let level = if gate.hard { Level::Fail } else { Level::Warn };
        match evaluate(context, &check, &mut patience).await? {
            Answer::Passed(_) => {}
            // Nothing to judge is no pass.
            Answer::Failed(finding) | Answer::NoData(finding) | Answer::Refused(finding) => found.push(finding.at(level)),
            Answer::Error(finding) if gate.hard => {
                let is_final = context.is_final(&PhaseError::Failed(String::new()));
                let next = if is_final { "correct the cause, then raise spec.retry" } else { "it will be retried" };
                return Err(PhaseError::Failed(format!("{finding}; {next}")));
            }
            // A soft gate ends neither a phase nor a release: what is still unknown is reported.
            Answer::Error(finding) => found.push(finding.at(level)),
        }
    }
    let soft: String = found.iter().filter(|finding| !finding.is_failure()).map(|finding| format!("; {finding}")).collect();
    refuse(found)?;
    Ok(format!(", {}{soft}", counted(count, "gate")))
}

/// Evaluates a gate, again while it cannot be evaluated. Suspending the release and aborting it end the wait.
async fn evaluate(context: &Context, check: &Check<'_>, patience: &mut Duration) -> Result<Answer, PhaseError> {
    let mut length = PAUSES.0;
    let mut begun: Option<Instant> = None;
    loop {
        context.say(format!("evaluating {}", check.object));
        // On the heap: futures within futures fill a thread's stack.
        let answer = Box::pin(ask(check, context)).await?;
        // What comes before the first answer is not waiting: it may take hours until the pod of a Job is evicted.
        *patience = patience.saturating_sub(begun.map_or(Duration::ZERO, |begun| begun.elapsed()));
        let Answer::Error(finding) = &answer else { return Ok(answer) };
        if patience.is_zero() {
            return Ok(answer);
        }
        begun = Some(Instant::now());
        let pause = length.min(*patience);
        context.say(format!("{}; asking again in {}s", finding.statement(), pause.as_secs()));
        tokio::select! {
            () = context.control.cancel.cancelled() => return Err(PhaseError::Cancelled),
            () = context.control.pause.cancelled() => return Err(PhaseError::Paused),
            () = tokio::time::sleep(pause) => {}
        }
        length = (length * 2).min(PAUSES.1);
    }
}
