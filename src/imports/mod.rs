//! ImportCore and ImportRelated: set-based inserts into the staged tables, CSV files through COPY, Jobs with the user's own image.
//!
//! An import with a key is cut into ranges, every other one is one range. As many ranges as the Portal allows run at once, each in a
//! transaction of its own that also writes its checkpoint; so a killed import continues with the ranges that are missing. Imports that
//! do not touch each other's tables run side by side, the others in the Portal's order.

mod again;
pub(crate) mod file;
mod job;
pub(crate) mod order;
mod schedule;
pub(crate) mod snapshot;
mod task;

use futures::{StreamExt, stream::FuturesUnordered};
use tokio_util::sync::CancellationToken;

pub(crate) use job::JobImport;

use self::{
    schedule::{Schedule, Unit},
    task::ImportTask,
};
use crate::{
    api::{Import, PhaseName, RejectRule},
    database::{
        identifiers::Generation,
        import::{RelationRead, Rule, relations_read},
        ledger::{self, imports::Account},
        template::TemplateContext,
    },
    imports::order::in_order,
    jobs,
    work::{
        Context, Definition, Done, PhaseError, Work,
        definition::{ResolvedImport, templates},
        parallel::{self, cut_off},
    },
};

pub(crate) async fn core(context: &Context) -> Result<Done, PhaseError> {
    let definition = Definition::of(context)?;
    again::prepare(context, &definition, true).await?;
    run(context, &definition.core).await
}

pub(crate) async fn related(context: &Context) -> Result<Done, PhaseError> {
    let definition = Definition::of(context)?;
    again::prepare(context, &definition, false).await?;
    run(context, &definition.related).await
}

/// Takes the Jobs away, forgets the checkpoints and the rejected rows; the tables go with BuildStaging's undo.
pub(crate) async fn undo(context: &Context) -> Result<Done, PhaseError> {
    jobs::stop_writers(context).await?;
    let mut work = context.work().await?;
    ledger::imports::reset_imports(&mut work, context.subject.release_id).await?;
    work.complete("imported rows are dropped with the staged tables").await
}

async fn run(context: &Context, imports: &[ResolvedImport]) -> Result<Done, PhaseError> {
    let templates = templates(context);
    let ordered = in_order(imports)?;
    let needs = needs(context, &ordered, &templates).await?;
    let cut = CancellationToken::new();
    let one = |resolved| ImportTask::new(context, resolved, &templates, &cut);
    let ones: Vec<ImportTask<'_>> = ordered.into_iter().map(one).collect::<Result<_, _>>()?;
    load(context, &ones, Schedule::new(needs), &cut).await?;
    let mut work = context.work().await?;
    let names = imports.iter().map(|one| one.import.name.as_str());
    let (rows, rejected) = ledger::imports::imported_rows(&mut work, context.subject.release_id, names).await?;
    let rejected = if rejected == 0 { String::new() } else { format!(", {rejected} rejected: see portal_release.rejected_rows") };
    work.complete(&format!("{} imports, {rows} rows{rejected}", ones.len())).await
}

/// Runs every piece, as many at once as the Portal allows. The first error stops the others: their statements are ended, and it waits
/// until nothing of them runs any more. Jobs run on until the next attempt of the phase; there is none after a final error.
async fn load(context: &Context, ones: &[ImportTask<'_>], mut schedule: Schedule, cut: &CancellationToken) -> Result<(), PhaseError> {
    let mut running = FuturesUnordered::new();
    let mut stopped: Option<PhaseError> = None;
    loop {
        while stopped.is_none() && running.len() < parallel::limit(context) && !schedule.is_over() {
            if let Err(paused) = context.safe_point() {
                stopped = Some(paused);
                break;
            }
            let Some((index, unit)) = schedule.next() else { break };
            let Some(one) = ones.get(index) else { break };
            running.push(async move {
                let outcome = match unit {
                    Unit::Begin => one.begin().await,
                    Unit::Load(position, range) => one.load(position, &range).await,
                    Unit::Finish => one.finish().await,
                };
                (index, outcome)
            });
        }
        match running.next().await {
            None => break,
            Some((index, Ok(outcome))) => schedule.ended(index, outcome),
            Some((_, Err(error))) => {
                cut.cancel();
                cut_off(context, &mut running).await;
                if context.is_final(&error) {
                    let names: Vec<String> = ones.iter().map(|one| one.name().to_owned()).collect();
                    job::stop(context, &names, true).await.unwrap_or_else(|left| {
                        tracing::warn!(label = %context.label(), error = %left, "{}: Jobs keep running until the staging is rebuilt: {left}", context.label());
                    });
                }
                stopped = Some(error);
            }
        }
    }
    match stopped {
        Some(why) => Err(why),
        None => Ok(()),
    }
}

/// For each import the earlier ones that it waits for: those that it names in dependsOn, those that fill what it reads or fills, and
/// those that read what it fills. So a dependsOn that somebody forgot does no harm.
async fn needs(context: &Context, ordered: &[&ResolvedImport], templates: &TemplateContext) -> Result<Vec<Vec<usize>>, PhaseError> {
    let mut touched: Vec<(&Import, Vec<RelationRead>)> = Vec::new();
    let mut needs = Vec::new();
    let mut work = context.work().await?;
    for ResolvedImport { import, query, .. } in ordered {
        let reads = match query {
            Some(source) => read_by(&mut work, import, source, templates).await?,
            None => Vec::new(),
        };
        let waits_for = |(earlier, earlier_reads): &(&Import, Vec<RelationRead>)| {
            import.depends_on.contains(&earlier.name)
                || import.into == earlier.into
                || reads_table(&reads, context, earlier)
                || reads_table(earlier_reads, context, import)
        };
        needs.push(touched.iter().enumerate().filter(|(_, earlier)| waits_for(earlier)).map(|(index, _)| index).collect());
        touched.push((import, reads));
    }
    work.commit().await?;
    Ok(needs)
}

/// The imports that have not come to their end, although neither `imports` nor `phases.skip` of the release leaves them out.
pub(crate) async fn unfinished(context: &Context) -> Result<Vec<String>, PhaseError> {
    let definition = Definition::of(context)?;
    let mut work = context.work().await?;
    let mut names = ledger::imports::unfinished(&mut work, context.subject.release_id).await?;
    work.commit().await?;
    for (phase, imports) in [(PhaseName::ImportCore, &definition.core), (PhaseName::ImportRelated, &definition.related)] {
        if context.subject.spec.phases.skip.contains(&phase) {
            names.retain(|name| !imports.iter().any(|one| one.import.name.0 == *name));
        }
    }
    Ok(names)
}

/// More rows were rejected than the Portal allows.
fn is_over_limit(import: &Import, account: &Account) -> bool {
    #[allow(clippy::cast_precision_loss)]
    let (rejected, allowed) = (account.rejected as f64, import.max_rejected.fraction() * account.read as f64);
    rejected > allowed + 1e-9
}

/// The rules that turn rows of an import away.
pub(crate) fn rules(import: &Import, templates: &TemplateContext) -> Result<Vec<Rule>, PhaseError> {
    let rendered = |rule: &RejectRule| {
        let what = format!("import {}, reject '{}'", import.name, rule.reason);
        Ok(Rule { reason: rule.reason.clone(), when: templates.render(&what, rule.when.as_str(), None)?.sql })
    };
    import.reject.iter().map(rendered).collect()
}

/// The relations behind an import's query.
pub(crate) async fn read_by(
    work: &mut Work,
    import: &Import,
    source: &str,
    templates: &TemplateContext,
) -> Result<Vec<RelationRead>, PhaseError> {
    let sql = templates.render(&format!("import {}", import.name), source, None)?.sql;
    relations_read(work, import.name.as_str(), &sql).await.map_err(PhaseError::from)
}

/// Whether the staged table that `import` fills is among those relations.
pub(crate) fn reads_table(reads: &[RelationRead], context: &Context, import: &Import) -> bool {
    let staged = Generation::Staging.name(import.into.as_str());
    reads.iter().any(|relation| relation.schema == context.subject.portal.database.schema.as_str() && relation.name == staged)
}
