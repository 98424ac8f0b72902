//! The downloads view: it changes with the swap, in one transaction, and a rollback restores its former query.

use crate::{
    database::{
        identifiers::{Generation, qualified},
        ledger::downloads,
        run_sql,
        views::{replace_view, view_query},
    },
    release::Incoming,
    work::{Context, Done, PhaseError, Work, definition::templates},
};

/// What an exchange does to the downloads view, and what the ledger keeps of it.
#[derive(Debug, Default)]
pub(super) struct Change {
    /// What to execute last, under the locks.
    pub(super) statements: Vec<String>,
    name: String,
    before: Option<String>,
    after: Option<String>,
}

/// Decides what becomes of the view when `incoming` becomes live.
///
/// # Errors
/// When the Portal's query is wrong, or the database does not answer.
pub(super) async fn change(work: &mut Work, context: &Context, incoming: &Generation) -> Result<Change, PhaseError> {
    let Some(view) = &context.subject.portal.downloads_view else { return Ok(Change::default()) };
    let (schema, name) = (context.subject.portal.database.schema.as_str(), view.name.as_str());
    let after = match (context.subject.run.incoming(), incoming) {
        (Incoming::Staging, _) if context.subject.run.changes_downloads_view() => Some(query(context)?),
        (Incoming::Staging, _) => None,
        (Incoming::Parked, _) => downloads::own(work, context.subject.release_id).await?,
        (Incoming::Backup, Generation::Backup(stamp)) => downloads::former(work, &context.key(), *stamp, name).await?,
        (Incoming::Backup, _) => None,
    };
    let before = view_query(work, schema, name).await?;
    // Without another query the view is only pointed to the new tables, like every other.
    let statements = match &after {
        Some(query) => replace_view(work, schema, name, query).await?,
        None => Vec::new(),
    };
    Ok(Change { statements, name: name.to_owned(), before, after })
}

/// Writes the queries down, in the exchange's transaction.
///
/// # Errors
/// When the database does not answer.
pub(super) async fn record(work: &mut Work, context: &Context, outgoing: &Generation, change: &Change) -> Result<(), PhaseError> {
    if let Some(query) = change.after.as_ref().filter(|_| context.subject.run.incoming() != Incoming::Backup) {
        downloads::keep_own(work, context.subject.release_id, query).await?;
    }
    if let (Generation::Backup(stamp), Some(query)) = (outgoing, &change.before) {
        downloads::keep_former(work, &context.key(), *stamp, &change.name, query).await?;
    }
    Ok(())
}

fn query(context: &Context) -> Result<String, PhaseError> {
    let Some(view) = &context.subject.portal.downloads_view else { return Ok(String::new()) };
    let what = format!("downloads view {}", view.name);
    Ok(templates(context).render(&what, view.query.as_str(), None)?.sql)
}

/// CreateDownloadsView: the swap has made the view already; a run without a swap makes it here.
pub(super) async fn run(context: &Context) -> Result<Done, PhaseError> {
    let Some(view) = &context.subject.portal.downloads_view else {
        return context.work().await?.complete("the Portal has no downloadsView").await;
    };
    let (schema, name) = (context.subject.portal.database.schema.as_str(), view.name.as_str());
    let mut work = context.work().await?;
    if context.subject.run.has_swapped() && view_query(&mut work, schema, name).await?.is_some() {
        return work.complete(&format!("{name} became live with the swap")).await;
    }
    let query = query(context)?;
    for statement in replace_view(&mut work, schema, name, &query).await? {
        run_sql(&mut work, statement).await.map_err(|error| {
            let view = qualified(schema, name);
            PhaseError::Refused(format!("downloads view {view}: {error}; correct downloadsView.query in the Portal, then raise spec.retry"))
        })?;
    }
    downloads::keep_own(&mut work, context.subject.release_id, &query).await?;
    work.complete(&format!("{name} reads the new tables")).await
}
