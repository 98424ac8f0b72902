//! One import: planning it, loading a range of it, settling its account.

use std::{
    sync::{Mutex, OnceLock, PoisonError},
    time::{Duration, Instant},
};

use tokio_util::sync::CancellationToken;

use super::{JobImport, is_over_limit, rules, schedule::Outcome};
use crate::{
    api::{Csv, Import},
    database::{
        checks::one_number,
        identifiers::{Generation, qualified},
        import::{Counts, ENOUGH_REJECTED, KeyRange, Load, Origin, Rule, Source, Target, columns, load, plan_ranges},
        ledger::{self, imports::Account},
        run_sql,
        template::TemplateContext,
        views::OutputColumn,
    },
    imports::file,
    jobs,
    notify::Notice,
    work::{Context, PhaseError, Work, definition::ResolvedImport},
};

/// How often the progress of a long import is notified to people outside; its end is notified in any case.
const TELL_EVERY: Duration = Duration::from_secs(60);
/// How often progress is shown in the status.
const SHOW_EVERY: Duration = Duration::from_secs(3);

/// One import at work.
pub(crate) struct ImportTask<'a> {
    context: &'a Context,
    import: &'a Import,
    templates: &'a TemplateContext,
    source: Option<Source<'a>>,
    rules: Vec<Rule>,
    job: Option<JobImport<'a>>,
    cut: &'a CancellationToken,
    staged: String,
    columns: OnceLock<Vec<OutputColumn>>,
    notified: Mutex<(Instant, Instant)>,
}

impl<'a> ImportTask<'a> {
    /// An import with its query's template; one from a file or by a Job has none. Once `cut` is cancelled, it does not wait for a Job.
    pub(crate) fn new(
        context: &'a Context,
        resolved: &'a ResolvedImport,
        templates: &'a TemplateContext,
        cut: &'a CancellationToken,
    ) -> Result<Self, PhaseError> {
        let ResolvedImport { import, query, .. } = resolved;
        let sample = context.subject.spec.imports.sample;
        let is_lookup = context.subject.portal.tables.lookup.contains(&import.into);
        let rules = rules(import, templates)?;
        // A sample is the limit of one statement, and only one statement can decide what is new to a look-up table.
        let key = import.key.as_ref().filter(|_| sample.is_none() && !is_lookup);
        let source = query.as_ref().map(|template| {
            let origin = Origin::Query { templates, template };
            Source { origin, key: key.map(|key| key.as_str()), rules: rules.clone(), sample }
        });
        let now = Instant::now();
        let staged = Generation::Staging.name(import.into.as_str());
        let job = resolved.job().map(|(source, text)| JobImport::new(context, import, source, text));
        Ok(Self { context, import, templates, source, rules, job, cut, staged, columns: OnceLock::new(), notified: Mutex::new((now, now)) })
    }

    pub(crate) fn name(&self) -> &str {
        self.import.name.as_str()
    }

    fn target(&self) -> Target<'_> {
        Target { import: self.name(), schema: self.context.subject.portal.database.schema.as_str(), table: &self.staged }
    }

    /// The query's output columns, which are looked up once.
    async fn columns(&self, work: &mut Work, source: &Source<'_>) -> Result<&[OutputColumn], PhaseError> {
        if let Some(known) = self.columns.get() {
            return Ok(known);
        }
        let query = source.query(self.name(), None)?;
        let found = columns(work, self.target(), &query).await?;
        Ok(self.columns.get_or_init(|| found))
    }

    /// Notes the beginning, and plans the ranges unless an earlier process did.
    pub(crate) async fn begin(&self) -> Result<Outcome, PhaseError> {
        let release = self.context.subject.release_id;
        let mut work = self.context.work().await?;
        if ledger::imports::begin_import(&mut work, release, self.name()).await? {
            work.commit().await?;
            return Ok(Outcome::Over);
        }
        self.context.say(format!("import {}", self.name()));
        let open = match ledger::imports::open_ranges(&mut work, release, self.name()).await? {
            Some(open) => open,
            None => {
                self.plan(&mut work).await?;
                ledger::imports::open_ranges(&mut work, release, self.name()).await?.unwrap_or_default()
            }
        };
        work.commit().await?;
        Ok(Outcome::Open(open))
    }

    async fn plan(&self, work: &mut Work) -> Result<(), PhaseError> {
        let (mut ranges, mut total, mut read) = (vec![KeyRange::whole()], None, None);
        if let Some(job) = &self.job {
            job.plan(work).await?;
        }
        if let Some(source) = &self.source {
            self.columns(work, source).await?;
            if let Some(key) = source.key {
                let query = source.query(self.name(), None)?;
                let plan = plan_ranges(work, self.name(), &query, key, self.import.batch_rows).await?;
                (ranges, total) = (plan.ranges, Some(plan.rows));
            }
            // A sample reads what it returns.
            if let Some(reads) = self.import.reads.as_ref().filter(|_| source.sample.is_none()) {
                let what = format!("reads of import {}", self.name());
                let sql = self.templates.render(&what, reads.as_str(), None)?.sql;
                read = Some(one_number(work, &what, &sql).await?);
            }
        }
        Ok(ledger::imports::plan_ranges(work, self.context.subject.release_id, self.name(), &ranges, total, read).await?)
    }

    /// Loads one range; its rows and its checkpoint commit together.
    pub(crate) async fn load(&self, position: i32, range: &KeyRange) -> Result<Outcome, PhaseError> {
        let release = self.context.subject.release_id;
        // No transaction is open while a Job runs.
        let done = match &self.job {
            Some(job) => Some((job, job.finished(self.cut).await?)),
            None => None,
        };
        let mut work = self.context.work().await?;
        let counts = match (&self.source, &self.import.csv, &done) {
            (_, _, Some((job, name))) => job.counts(&mut work, name).await?,
            (Some(source), _, None) => {
                let columns = self.columns(&mut work, source).await?;
                let range = source.key.is_some().then_some(range);
                let is_lookup = self.context.subject.portal.tables.lookup.contains(&self.import.into);
                let load_range = Load { release, target: self.target(), columns, source, range, lookup: is_lookup };
                load(&mut work, &load_range).await?
            }
            (None, Some(file), None) => self.csv(&mut work, file).await?,
            (None, None, None) => Counts::default(),
        };
        let account = ledger::imports::complete_range(&mut work, release, self.name(), position, counts).await?;
        work.commit().await?;
        if let Some((_, name)) = done {
            jobs::tidy(self.context, &name).await?;
        }
        let metrics = &self.context.tools.services.metrics;
        metrics.rows_imported(self.name(), counts.imported, counts.rejected);
        metrics.progressed();
        self.show().await?;
        if account.rejected > ENOUGH_REJECTED {
            self.judge(&account).await?;
        }
        Ok(Outcome::Loaded)
    }

    async fn csv(&self, work: &mut Work, file: &Csv) -> Result<Counts, PhaseError> {
        let file = file::open(self.context.into(), self.templates, self.import, file).await?;
        file.load(self.context, work, &self.rules).await
    }

    /// Settles the account; the planner learns about the rows.
    pub(crate) async fn finish(&self) -> Result<Outcome, PhaseError> {
        let release = self.context.subject.release_id;
        let mut work = self.context.work().await?;
        let account = ledger::imports::account(&mut work, release, self.name()).await?;
        self.judge(&account).await?;
        if account.collapsed() < 0 {
            return Err(PhaseError::Refused(format!(
                "import {}: {} rows were imported and {} rejected, more than the {} that `reads` counts; correct `reads` in the Portal",
                self.name(),
                account.imported,
                account.rejected,
                account.read
            )));
        }
        run_sql(&mut work, format!("ANALYZE {}", qualified(self.context.subject.portal.database.schema.as_str(), &self.staged))).await?;
        ledger::imports::complete_import(&mut work, release, self.name(), &account).await?;
        work.commit().await?;
        self.context.control.progress.moved();
        self.notify_progress().await?;
        Ok(Outcome::Over)
    }

    /// Fails when more rows were rejected than the Portal allows.
    async fn judge(&self, account: &Account) -> Result<(), PhaseError> {
        if !is_over_limit(self.import, account) {
            return Ok(());
        }
        let mut work = self.context.work().await?;
        let reasons = ledger::imports::reasons(&mut work, self.context.subject.release_id, self.name()).await?;
        work.commit().await?;
        Err(PhaseError::Refused(format!(
            "import {name}: {rejected} of {read} rows were rejected, where {limit} are accepted: {reasons}; correct the source, or raise maxRejected of the import in the Portal (SELECT * FROM portal_release.rejected_rows WHERE release_id = {release} AND import = '{name}')",
            name = self.name(),
            rejected = account.rejected,
            read = account.read,
            limit = self.import.max_rejected,
            reasons = ledger::imports::describe(&reasons),
            release = self.context.subject.release_id,
        )))
    }

    /// Shows progress in the status and in notifications, each at its own interval.
    async fn show(&self) -> Result<(), PhaseError> {
        let (is_due, is_news) = {
            let mut times = self.notified.lock().unwrap_or_else(PoisonError::into_inner);
            let due = (times.0.elapsed() >= SHOW_EVERY, times.1.elapsed() >= TELL_EVERY);
            let now = Instant::now();
            *times = (if due.0 { now } else { times.0 }, if due.1 { now } else { times.1 });
            due
        };
        if is_due {
            self.context.control.progress.moved();
        }
        if is_news { self.notify_progress().await } else { Ok(()) }
    }

    async fn notify_progress(&self) -> Result<(), PhaseError> {
        let mut work = self.context.work().await?;
        let (rows, total) = ledger::imports::import_progress(&mut work, self.context.subject.release_id, self.name()).await?;
        work.commit().await?;
        self.context.tools.services.notify(self.context.audience(), Notice::ImportProgress { import: self.name().to_owned(), rows, total });
        Ok(())
    }
}
