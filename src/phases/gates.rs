//! Gates: what a check's answer means for a release.

use crate::{
    api::GatePhase,
    checks::{Answer, Check, Probe, ask},
    finding::Level,
    jobs,
    text::counted,
    work::{Context, Done, PhaseError, refuse},
};

/// Stops the Jobs of gates that nobody waits for any more.
///
/// # Errors
/// When the database does not answer.
pub(super) async fn undo(context: &Context) -> Result<Done, PhaseError> {
    jobs::halt(context).await?;
    context.work().await?.complete("the Jobs of its gates are stopped").await
}

/// Evaluates the gates that stand before the workers are stopped for a release. A rollback needs no gate.
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
/// When a hard gate does not pass, or one cannot be evaluated.
pub(super) async fn pass(context: &Context, phase: GatePhase) -> Result<String, PhaseError> {
    let portal = &context.subject.portal;
    let (mut count, mut found) = (0, Vec::new());
    for gate in portal.gates.iter().filter(|gate| gate.phase == phase) {
        let Some(probe) = Probe::of_gate(gate, portal.contract.as_ref()) else { continue };
        count += 1;
        context.say(format!("evaluating gate {}", gate.name));
        let check =
            Check { object: format!("{} gate {}", if gate.hard { "hard" } else { "soft" }, gate.name), name: gate.name.as_str(), probe };
        let level = if gate.hard { Level::Fail } else { Level::Warn };
        match ask(&check, context).await? {
            Answer::Passed(_) => {}
            // Nothing to judge is no pass.
            Answer::Failed(finding) | Answer::NoData(finding) | Answer::Refused(finding) => found.push(finding.at(level)),
            Answer::Error(finding) => {
                let error = PhaseError::Failed(finding.to_string());
                // A soft gate never ends a release: what is still unknown at the last attempt is reported.
                if gate.hard || !context.is_final(&error) {
                    return Err(error);
                }
                found.push(finding.at(level));
            }
        }
    }
    let soft: String = found.iter().filter(|finding| !finding.is_failure()).map(|finding| format!("; {finding}")).collect();
    refuse(found)?;
    Ok(format!(", {}{soft}", counted(count, "gate")))
}
