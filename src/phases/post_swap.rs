//! PostSwap: what is better done after readers have the new data.

use super::data_loss;
use crate::{
    api::{Hook, HttpMethod},
    cluster::EventType,
    database::{
        catalog,
        dependents::drop_replaced,
        identifiers::{Generation, qualified},
        ledger,
        swap::validate_constraints,
    },
    storage::guard::Refusal,
    text::counted,
    work::{Context, Done, PhaseError},
};

/// How long a hook may take to answer.
const HOOK_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(30);

/// VACUUM (ANALYZE) on the swapped tables, the functions that the swap replaced, the foreign keys that the swap added unchecked, and the HTTP hooks. A hook may be called
/// more than once when the operator is killed in between.
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
        context.say(format!("calling {}", hook.name));
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

/// Every detail of the relations that were live until the swap has to be there in those that are live now. Gives a sentence when it
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

async fn call(context: &Context, hook: &Hook) -> Result<(), PhaseError> {
    let method = match hook.http.method {
        HttpMethod::GET => reqwest::Method::GET,
        HttpMethod::POST => reqwest::Method::POST,
        HttpMethod::PUT => reqwest::Method::PUT,
        HttpMethod::DELETE => reqwest::Method::DELETE,
    };
    // The answer's body is never read: it may hold anything.
    let refused = |refusal: &Refusal| {
        PhaseError::Refused(format!("hook {} was not called: {refusal}; the data is live; then raise retry", hook.name))
    };
    let request = context.tools.services.outbound.request(method, &hook.http.url).map_err(|refusal| refused(&refusal))?;
    let answer = request.timeout(HOOK_TIMEOUT).send().await;
    match answer {
        Ok(answer) if answer.status().is_success() => Ok(()),
        Ok(answer) => Err(PhaseError::Failed(format!(
            "hook {} answered {}; the data is live; correct it, then raise retry",
            hook.name,
            answer.status()
        ))),
        Err(error) => Err(match Refusal::among(&error) {
            Some(refusal) => refused(refusal),
            None => PhaseError::Failed(format!(
                "hook {} did not answer: {}; the data is live; correct it, then raise retry",
                hook.name,
                error.without_url()
            )),
        }),
    }
}
