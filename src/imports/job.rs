//! One import by a Kubernetes Job: what it may find and leave in the staged table, and counting what it brought. The Job itself is run by
//! [`jobs`].

use tokio_util::sync::CancellationToken;

use crate::{
    api::{Import, JobSource},
    database::{
        checks::row_count,
        identifiers::{Generation, qualified},
        import::Counts,
        ledger::{
            self,
            import_jobs::ImportJob,
            jobs::{JobKey, JobState},
        },
        run_sql,
    },
    jobs::{self, JobRequest, Outcome, Prepare, Prepared, Purpose},
    work::{Context, PhaseError, Work},
};

/// How long transactions that still write to the staged table are waited for.
const WRITERS: &str = "SET LOCAL lock_timeout = '10s'";

/// An import by a Job.
pub(crate) struct JobImport<'a> {
    context: &'a Context,
    import: &'a Import,
    request: JobRequest<'a>,
    staged: String,
}

impl<'a> JobImport<'a> {
    /// An import with the text of its Job's template.
    pub(crate) fn new(context: &'a Context, import: &'a Import, source: &'a JobSource, text: &'a str) -> Self {
        let staged = Generation::Staging.name(import.into.as_str());
        let table = qualified(context.subject.portal.database.schema.as_str(), &staged);
        let item = import.name.as_str();
        let variables = vec![("PORTAL_IMPORT", item.to_owned()), ("STAGING_TABLE", table)];
        let request = JobRequest { purpose: Purpose::Import, item, what: format!("import {item}"), source, text, variables };
        Self { context, import, request, staged }
    }

    fn name(&self) -> &str {
        self.import.name.as_str()
    }

    fn schema(&self) -> &str {
        self.context.subject.portal.database.schema.as_str()
    }

    /// Checks whether the cluster would accept the Job, and whether the operator may create it. Nothing remains of it. Returns a sentence
    /// when the cluster could not be asked.
    pub(crate) async fn check(&self) -> Result<Option<String>, PhaseError> {
        let tables = self.context.relations();
        if !tables.tables.iter().chain(&tables.lookups).any(|table| *table == self.import.into.0) {
            let next = "name one of the Portal's tables in `into`, or add it to the Portal's tables";
            return Err(PhaseError::Refused(format!("import {}: {} is not a table of the Portal; {next}", self.name(), self.import.into)));
        }
        jobs::check(self.context, &self.request).await
    }

    /// Notes how many rows there are before the first Job writes.
    pub(crate) async fn plan(&self, work: &mut Work) -> Result<(), PhaseError> {
        let rows = row_count(work, self.schema(), &self.staged).await?;
        Ok(ledger::import_jobs::plan(work, self.context.subject.release_id, self.name(), rows).await?)
    }

    /// Runs the Job until it has succeeded and nothing of it is left at work. Returns its name.
    pub(crate) async fn finished(&self, cut: &CancellationToken) -> Result<String, PhaseError> {
        let (job, outcome) = tokio::select! {
            ended = jobs::attempt(self.context, &self.request, self) => ended?,
            // Wherever that is: what has been announced is found, or created, by the next attempt.
            () = cut.cancelled() => return Err(PhaseError::Cancelled),
        };
        match outcome {
            Outcome::Succeeded => {}
            Outcome::Interrupted(text) => return Err(PhaseError::Failed(format!("import {}: {text}", self.name()))),
            Outcome::Failed(report) => {
                return Err(PhaseError::Refused(format!(
                    "import {}: {}; {}, correct the image, its template or the source, then raise spec.retry{}",
                    self.name(),
                    report.problem(),
                    report.log_command(),
                    report.log()
                )));
            }
        }
        let mut work = self.context.work().await?;
        ledger::jobs::end_sessions(&mut work, std::slice::from_ref(&job)).await?;
        work.commit().await?;
        Ok(job)
    }

    /// A Job without a checkpoint starts from the beginning: what an earlier one has written is deleted. Returns whether there was something.
    async fn clear(&self, work: &mut Work, known: &ImportJob) -> Result<bool, PhaseError> {
        if known.checkpoint.is_some() {
            return Ok(false);
        }
        self.keep_writers_out(work, "SHARE ROW EXCLUSIVE").await?;
        let rows = row_count(work, self.schema(), &self.staged).await?;
        let rejected = ledger::import_jobs::rejected(work, self.context.subject.release_id, self.name()).await?;
        if rows == known.rows_before && rejected == 0 {
            return Ok(false);
        }
        if rows != known.rows_before && known.rows_before > 0 {
            return Err(PhaseError::Refused(format!(
                "import {}: an earlier Job has failed and changed {} from {} to {rows} rows, without a checkpoint; other rows are in that table, so the Job cannot start over; let it write in one transaction, or store checkpoints; then abort the release and raise spec.retry",
                self.name(),
                self.staged,
                known.rows_before
            )));
        }
        run_sql(work, format!("DELETE FROM {}", qualified(self.schema(), &self.staged))).await?;
        ledger::import_jobs::forget_rejected(work, self.context.subject.release_id, self.name()).await?;
        Ok(true)
    }

    /// Waits until no transaction has written to the staged table without an end, and lets none begin until this one ends.
    async fn keep_writers_out(&self, work: &mut Work, mode: &str) -> Result<(), PhaseError> {
        let table = qualified(self.schema(), &self.staged);
        run_sql(work, format!("{WRITERS}; LOCK TABLE {table} IN {mode} MODE")).await.map_err(|error| match PhaseError::from(error) {
            PhaseError::Failed(cause) => PhaseError::Failed(format!(
                "import {}: another session still writes to {table}: {cause}; end sessions that the Job has left behind (see pg_stat_activity)",
                self.name()
            )),
            error => error,
        })
    }

    /// Counts what the Job has brought. From then on it may not write.
    pub(crate) async fn counts(&self, work: &mut Work, job: &str) -> Result<Counts, PhaseError> {
        let release = self.context.subject.release_id;
        let key = JobKey { release, purpose: Purpose::Import, item: self.name() };
        if ledger::jobs::lock(work, key).await?.job.as_deref() != Some(job) {
            return Err(PhaseError::Failed(format!("import {}: Job {job} has been replaced", self.name())));
        }
        let known = ledger::import_jobs::lock(work, release, self.name()).await?;
        self.keep_writers_out(work, "SHARE").await?;
        let imported = row_count(work, self.schema(), &self.staged).await? - known.rows_before;
        if imported < 0 {
            return Err(PhaseError::Refused(format!(
                "import {}: Job {}/{job} removed {} rows from {}; an import Job may only add rows; correct it, then abort the release and raise spec.retry",
                self.name(),
                self.context.subject.namespace,
                -imported,
                self.staged
            )));
        }
        let rejected = ledger::import_jobs::rejected(work, release, self.name()).await?;
        ledger::jobs::end(work, job, JobState::Succeeded).await?;
        Ok(Counts { read: imported + rejected, imported, rejected })
    }
}

impl Prepare for JobImport<'_> {
    /// What a Job without a checkpoint has left is deleted, and no transaction of an earlier Job is still about to write.
    async fn prepare(&self, work: &mut Work) -> Result<Prepared, PhaseError> {
        let known = ledger::import_jobs::lock(work, self.context.subject.release_id, self.name()).await?;
        let traces = self.clear(work, &known).await?;
        Ok(Prepared { variables: vec![("PORTAL_CHECKPOINT", known.checkpoint.unwrap_or_default())], traces })
    }
}

/// Deletes the Jobs of these imports: all, or only those that may still write.
pub(crate) async fn stop(context: &Context, imports: &[String], running: bool) -> Result<(), PhaseError> {
    let mut work = context.work().await?;
    let names = ledger::jobs::of_imports(&mut work, context.subject.release_id, imports, running).await?;
    work.commit().await?;
    jobs::stop(context, &names).await
}
