//! PostSwap: what is better done after readers have the new data.

use super::data_loss;
use crate::{
    api::Hook,
    checks::{Answer, Check, Probe, ask},
    cluster::EventType,
    database::{
        catalog,
        dependents::drop_replaced,
        identifiers::{Generation, qualified},
        ledger,
        swap::validate_constraints,
    },
    jobs::{self, Purpose},
    text::counted,
    work::{Context, Done, PhaseError},
};

/// VACUUM (ANALYZE) on the swapped tables, the functions that the swap replaced, the foreign keys that the swap added unchecked, and the hooks. One that
/// succeeded is not called again in this run, unless the operator is killed before that is written down.
pub(super) async fn run(context: &Context) -> Result<Done, PhaseError> {
    let relations = context.relations();
    for name in &relations.tables {
        context.say(format!("VACUUM {name}"));
        context.vacuum(&qualified(&relations.schema, name), "ANALYZE").await?;
    }
    context.say("validating foreign keys");
    let mut work = context.work().await?;
    drop_replaced(&mut work).await?;
    let broken = validate_constraints(&mut work, &relations).await?;
    work.commit().await?;
    for hook in &context.subject.portal.post_swap {
        call(context, hook).await?;
    }
    let changed = as_before(context).await?;
    let mut message = format!(
        "{} vacuumed, {} called",
        counted(relations.tables.len(), "table"),
        counted(context.subject.portal.post_swap.len(), "hook")
    );
    for sentence in broken.into_iter().chain(changed) {
        message.push_str("; ");
        message.push_str(&sentence);
    }
    let mut work = context.work().await?;
    data_loss::keep_count(context, &mut work).await?;
    work.complete(&message).await
}

/// Every detail of the relations that were live until the swap must exist in those that are live now. Returns a sentence when it
/// is not so: something has changed them since, or the swap has a defect.
async fn as_before(context: &Context) -> Result<Option<String>, PhaseError> {
    let backup = context.subject.backup.as_deref().and_then(|stamp| stamp.parse().ok()).map(Generation::Backup);
    let Some(backup) = backup.filter(|_| context.subject.run.builds()) else { return Ok(None) };
    let mut work = context.work().await?;
    let relations = ledger::staging::present(&mut work, context.all_relations(), &backup).await?;
    let differences = catalog::diff(&mut work, &relations, &backup).await?;
    work.commit().await?;
    let Some(first) = differences.first() else { return Ok(None) };
    let sentence = format!(
        "the live relations differ from those that they replaced in {}, the first: {first}; check whether they have been changed since the swap",
        counted(differences.len(), "detail")
    );
    tracing::warn!(label = %context.label(), "{}: {sentence}", context.label());
    context.tools.services.event(context.subject.object.clone(), EventType::Warning, "StructureDiffers", sentence.clone());
    Ok(Some(sentence))
}

/// A hook is called until it succeeds; only what is not called at all is final.
async fn call(context: &Context, hook: &Hook) -> Result<(), PhaseError> {
    let Some(probe) = Probe::of_hook(hook) else { return Ok(()) };
    let name = hook.name.as_str();
    if hook.http.is_some() && jobs::is_done(context, Purpose::PostSwap, name).await? {
        return Ok(());
    }
    context.say(format!("calling {name}"));
    let check = Check { object: format!("hook {}", hook.name), name, probe };
    match ask(&check, context).await? {
        Answer::Passed(_) if hook.http.is_some() => jobs::note_done(context, Purpose::PostSwap, name).await,
        Answer::Passed(_) => Ok(()),
        Answer::Refused(finding) => Err(PhaseError::Refused(format!("{finding}; the data is live"))),
        // Its template says how often a Job is tried.
        Answer::Failed(finding) if hook.job.is_some() => Err(PhaseError::Refused(format!("{finding}; the data is live"))),
        Answer::Failed(finding) | Answer::NoData(finding) | Answer::Error(finding) => {
            Err(PhaseError::Failed(format!("{}; the data is live; correct it, then raise spec.retry", finding.statement())))
        }
    }
}
