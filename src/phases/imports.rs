//! ImportCore and ImportRelated: set-based inserts into the staged tables, and CSV files through COPY.
//!
//! An import with a key goes range by range; each range and its checkpoint commit together, so a killed import goes on where it
//! was. Everything else is one transaction.

use std::time::{Duration, Instant};

use super::{Context, Definition, Done, PhaseError, definition::templates, files, of_database, order::in_order};
use crate::{
    api::Import,
    database::{
        identifiers::{Generation, qualified},
        import::{Target, columns, insert, insert_lookup, plan_ranges, total_rows},
        ledger, run_sql,
        template::TemplateContext,
    },
    metrics::ImporterKind,
    services::{Audience, Notice},
};

/// How often the progress of a long import is told to people outside; its end is told in any case.
const TELL_EVERY: Duration = Duration::from_secs(60);

pub(super) async fn core(context: &Context) -> Result<Done, PhaseError> {
    let definition = Definition::resolve(context).await?;
    run(context, ImporterKind::Core, &definition.core).await
}

pub(super) async fn related(context: &Context) -> Result<Done, PhaseError> {
    let definition = Definition::resolve(context).await?;
    run(context, ImporterKind::Related, &definition.related).await
}

/// Forgets the checkpoints; the tables go with BuildStaging's undo.
pub(super) async fn undo(context: &Context) -> Result<Done, PhaseError> {
    let mut work = context.work().await?;
    ledger::imports::reset_imports(&mut work, context.release).await?;
    work.complete_undo("imported rows are dropped with the staged tables").await
}

async fn run(context: &Context, kind: ImporterKind, imports: &[(Import, Option<String>)]) -> Result<Done, PhaseError> {
    let templates = templates(context);
    let mut total = 0;
    for (import, source) in in_order(imports)? {
        context.safe_point()?;
        let one = One { context, kind, import, templates: &templates };
        match source {
            Some(source) => one.query(source).await?,
            None => one.csv().await?,
        }
        total += 1;
    }
    let mut work = context.work().await?;
    let rows = ledger::imports::imported_rows(&mut work, context.release, imports.iter().map(|(import, _)| import.name.as_str())).await?;
    work.complete(&format!("{total} imports, {rows} rows")).await
}

/// One import at work.
struct One<'a> {
    context: &'a Context,
    kind: ImporterKind,
    import: &'a Import,
    templates: &'a TemplateContext,
}

impl One<'_> {
    fn name(&self) -> &str {
        self.import.name.as_str()
    }

    fn is_lookup(&self) -> bool {
        self.context.portal.tables.lookup.contains(&self.import.into)
    }

    /// Notes the beginning. `false`: the import is done or left out.
    async fn begins(&self) -> Result<bool, PhaseError> {
        let mut work = self.context.work().await?;
        let over = ledger::imports::begin_import(&mut work, self.context.release, self.name()).await?;
        work.commit().await?;
        self.context.say(format!("import {}", self.name()));
        Ok(!over)
    }

    async fn query(&self, source: &str) -> Result<(), PhaseError> {
        if !self.begins().await? {
            return Ok(());
        }
        let context = self.context;
        let what = format!("import {}", self.name());
        let staged = Generation::Staging.name(self.import.into.as_str());
        let schema = context.portal.database.schema.as_str();
        let target = Target { import: self.name(), schema, table: &staged };
        let whole = self.templates.render(&what, source, None).map_err(of_database)?;
        let sample = context.spec.imports.sample;

        let mut work = context.work().await?;
        let names = columns(&mut work, target, &whole.sql).await.map_err(of_database)?;
        let (Some(key), false, None) = (&self.import.key, self.is_lookup(), sample) else {
            let rows = if self.is_lookup() {
                insert_lookup(&mut work, target, &names, &whole.sql, sample).await
            } else {
                insert(&mut work, target, &names, &whole.sql, None, sample).await
            };
            return self.arrived(work, rows.map_err(of_database)?, None, true).await;
        };

        let ranges = match ledger::imports::open_ranges(&mut work, context.release, self.name()).await? {
            Some(ranges) => ranges,
            None => {
                let ranges =
                    plan_ranges(&mut work, self.name(), &whole.sql, key.as_str(), self.import.batch_rows).await.map_err(of_database)?;
                let total = total_rows(&mut work, self.name(), &whole.sql).await.map_err(of_database)?;
                ledger::imports::plan_ranges(&mut work, context.release, self.name(), &ranges).await?;
                ledger::imports::set_total(&mut work, context.release, self.name(), total).await?;
                ledger::imports::open_ranges(&mut work, context.release, self.name()).await?.unwrap_or_default()
            }
        };
        work.commit().await?;

        let mut told = Instant::now();
        let count = ranges.len();
        for (index, (position, range)) in ranges.into_iter().enumerate() {
            context.safe_point()?;
            let rendered = self.templates.render(&what, source, Some(&range)).map_err(of_database)?;
            let filter = (!rendered.used_range).then_some((&range, key.as_str()));
            let mut work = context.work().await?;
            let rows = insert(&mut work, target, &names, &rendered.sql, filter, None).await.map_err(of_database)?;
            self.arrived(work, rows, Some(position), index + 1 == count).await?;
            if told.elapsed() >= TELL_EVERY {
                told = Instant::now();
                self.tell().await?;
            }
        }
        if count == 0 {
            // Killed between the last range and the end of the import.
            self.arrived(context.work().await?, 0, None, true).await?;
        }
        Ok(())
    }

    async fn csv(&self) -> Result<(), PhaseError> {
        let Some(file) = &self.import.csv else { return Ok(()) };
        if !self.begins().await? {
            return Ok(());
        }
        let file = files::open(self.context, self.templates, self.import, file).await?;
        let mut work = self.context.work().await?;
        let rows = file.load(self.context, &mut work).await?;
        self.arrived(work, rows, None, true).await
    }

    /// Commits rows with their checkpoint; at the end of the import the planner learns about them.
    async fn arrived(&self, mut work: super::Work, rows: u64, range: Option<i32>, done: bool) -> Result<(), PhaseError> {
        let count = i64::try_from(rows).unwrap_or(i64::MAX);
        let release = self.context.release;
        if let Some(position) = range {
            ledger::imports::complete_range(&mut work, release, self.name(), position, count).await?;
        }
        ledger::imports::add_rows(&mut work, release, self.name(), count, done).await?;
        if done {
            let staged = qualified(self.context.portal.database.schema.as_str(), &Generation::Staging.name(self.import.into.as_str()));
            run_sql(&mut work, format!("ANALYZE {staged}")).await?;
        }
        work.commit().await?;
        self.context.services.metrics.rows_imported(self.kind, rows);
        self.context.services.metrics.progressed();
        self.context.progress.moved();
        if done { self.tell().await } else { Ok(()) }
    }

    async fn tell(&self) -> Result<(), PhaseError> {
        let mut work = self.context.work().await?;
        let (rows, total) = ledger::imports::import_progress(&mut work, self.context.release, self.name()).await?;
        work.commit().await?;
        self.context.services.tell(Audience::from(self.context), Notice::ImportProgress { import: self.name().to_owned(), rows, total });
        Ok(())
    }
}
