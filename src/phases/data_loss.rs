//! What a rollback, or a roll forward, would take from readers: rows that were written to the live tables since these became live.
//!
//! It is counted three times: before anything is stopped; with the workers at rest, just before the locks; and under the locks, unless
//! it is certain that nobody has written since. What it takes is not gone at once: it stays in the relations that live becomes.

use std::{collections::BTreeMap, time::Duration};

use crate::{
    database::{
        backups,
        checks::row_count,
        identifiers::{Generation, Relations},
        ledger,
        written::{Count, count, count_again, is_still_so, limit_statements},
    },
    release::{Incoming, Written, written::accepted},
    work::{Context, Done, PhaseError, Work},
};

/// The longest that one statement of the count may take while readers wait.
const LOCKED_LIMIT: Duration = Duration::from_millis(200);

/// Ends the preflight: counts before anything is stopped, and keeps how many rows the incoming tables have.
///
/// # Errors
/// [`PhaseError::Refused`] when something would be lost and that is not accepted.
pub(super) async fn preflight(
    context: &Context,
    relations: &Relations,
    incoming: &Generation,
    outgoing: &Generation,
) -> Result<Done, PhaseError> {
    let mut message = format!("{incoming} is complete");
    if let Some(Count { written, .. }) = count_writes(context, relations, outgoing).await? {
        message.push_str(&if written.is_nothing() {
            format!("; {}", written.sentence())
        } else {
            format!("; accepted: {}; these rows will be in {}", written.sentence(), described(outgoing))
        });
    }
    let mut work = context.work().await?;
    if let Generation::Backup(stamp) = incoming {
        let newer: Vec<String> = backups::list(&mut work, relations)
            .await?
            .iter()
            .filter(|kept| kept.stamp > *stamp)
            .map(|kept| kept.stamp.to_string())
            .collect();
        if !newer.is_empty() {
            message.push_str(&format!("; the newer backups are kept: {}", newer.join(", ")));
        }
    }
    let mut rows = BTreeMap::new();
    for table in &relations.tables {
        context.say(format!("counting {incoming} of {table}"));
        rows.insert(table.clone(), row_count(&mut work, &relations.schema, &incoming.name(table)).await?);
    }
    ledger::exchange::set_incoming_rows(&mut work, context.subject.run.id, &rows).await?;
    work.complete(&message).await
}

/// Counts what was written to the live tables. `None`: the run takes nothing from readers.
///
/// # Errors
/// As [`preflight`].
pub(super) async fn count_writes(context: &Context, relations: &Relations, outgoing: &Generation) -> Result<Option<Count>, PhaseError> {
    if context.subject.run.builds() {
        return Ok(None);
    }
    context.say("counting what was written to the live tables");
    // Nothing is committed: a transaction of ours would look like one that may have written.
    let mut work = context.work().await?;
    let count = count(&mut work, &context.key(), relations).await?;
    decide(context, &count.written, outgoing)?;
    Ok(Some(count))
}

/// Under the locks, with everything exchanged and nothing committed: makes sure that nothing was written since the last look.
///
/// # Errors
/// As [`preflight`]; [`PhaseError::Failed`] when counting takes longer than readers may wait.
pub(super) async fn recount(context: &Context, work: &mut Work, before: &Count, outgoing: &Generation) -> Result<(), PhaseError> {
    if accepted(context.subject.run.incoming(), &context.subject.spec) || is_still_so(work, before).await? {
        return Ok(());
    }
    limit_statements(work, LOCKED_LIMIT).await?;
    let schema = context.subject.portal.database.schema.as_str();
    let now = count_again(work, schema, before, outgoing).await.map_err(|error| match PhaseError::from(error) {
        PhaseError::Failed(cause) => PhaseError::Failed(format!(
            "other sessions write to this server, and the live tables are too large to be counted again while readers wait ({cause}); nothing was changed; \
             it is tried again; when they do not rest, set {} to continue without the count",
            accepting(context.subject.run.incoming())
        )),
        other => other,
    })?;
    limit_statements(work, context.subject.portal.database.statement_timeout.get()).await?;
    decide(context, &now.written, outgoing)
}

/// Runs a phase that may refuse for what was written, and then keeps the count, for the condition.
///
/// # Errors
/// Those of the phase.
pub(super) async fn remembering(context: &Context, phase: impl Future<Output = Result<Done, PhaseError>>) -> Result<Done, PhaseError> {
    let result = phase.await;
    if !context.subject.run.builds() && matches!(result, Err(PhaseError::Refused(_))) {
        let keep = async {
            let mut work = context.work().await?;
            keep_count(context, &mut work).await?;
            work.commit().await
        };
        if let Err(error) = keep.await {
            tracing::warn!(label = %context.label(), %error, "{}: the count of rows written to the live tables could not be saved: {error}", context.label());
        }
    }
    result
}

/// At the end of a run: keeps what was written to the live tables so far, for the condition.
///
/// # Errors
/// When the database does not answer.
pub(super) async fn keep_count(context: &Context, work: &mut Work) -> Result<(), PhaseError> {
    let count = count(work, &context.key(), &context.relations()).await?;
    Ok(ledger::exchange::set_written(work, &context.key(), &count.written).await?)
}

fn decide(context: &Context, written: &Written, outgoing: &Generation) -> Result<(), PhaseError> {
    if written.is_nothing() || accepted(context.subject.run.incoming(), &context.subject.spec) {
        return Ok(());
    }
    let (what, verb, instead) = match context.subject.run.incoming() {
        Incoming::Parked => ("a roll forward", "roll forward", "set spec.rollback again"),
        Incoming::Staging | Incoming::Backup if context.subject.run.is_automatic() => {
            ("a rollback", "roll back", "raise retry to run the release again")
        }
        Incoming::Staging | Incoming::Backup => ("a rollback", "roll back", "remove spec.rollback"),
    };
    let kept = match outgoing {
        Generation::Staging => "kept in staging_* until the next release builds its staging".to_owned(),
        other => format!("kept in {} until it is dropped", described(other)),
    };
    Err(PhaseError::Refused(format!(
        "{}; {what} would discard these rows ({kept}). Nothing was changed. Set {} to {verb} anyway, or {instead}",
        written.sentence(),
        accepting(context.subject.run.incoming())
    )))
}

fn accepting(incoming: Incoming) -> &'static str {
    match incoming {
        Incoming::Parked => "rollForward.acceptDataLoss: true",
        Incoming::Staging | Incoming::Backup => "rollback.acceptDataLoss: true",
    }
}

/// The names of a generation's relations.
pub(super) fn described(generation: &Generation) -> String {
    match generation {
        Generation::Backup(stamp) => format!("bk{stamp}_*"),
        Generation::Staging => "staging_*".to_owned(),
        Generation::Live => "live".to_owned(),
    }
}
