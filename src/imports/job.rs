//! One import by a Kubernetes Job: starting it once, waiting for it, counting what it brought.
//!
//! The ledger knows of a Job before the Job exists. A process that finds its row waits for the Job that is there, or makes the one that
//! was never made.

use k8s_openapi::api::batch::v1::Job;
use tokio_util::sync::CancellationToken;

use crate::{
    api::{Import, JobSource},
    cluster::jobs::{Ended, Failure, create, delete, exists, name, wait, wait_gone},
    database::{
        checks::row_count,
        identifiers::{Generation, qualified},
        import::Counts,
        ledger::{self, jobs::ImportJob},
        run_sql,
        template::TemplateContext,
    },
    jobs::{self, JobTemplate, identity, told},
    work::{Context, PhaseError, Work},
};

/// How long transactions that still write to the staged table are waited for.
const WRITERS: &str = "SET LOCAL lock_timeout = '10s'";

/// An import by a Job.
pub(crate) struct JobImport<'a> {
    context: &'a Context,
    import: &'a Import,
    templates: &'a TemplateContext,
    plan: JobTemplate<'a>,
    staged: String,
}

impl<'a> JobImport<'a> {
    /// An import with the text of its Job's template.
    pub(crate) fn new(
        context: &'a Context,
        import: &'a Import,
        templates: &'a TemplateContext,
        source: &'a JobSource,
        text: &'a str,
    ) -> Self {
        let what = format!("import {}", import.name);
        let plan = JobTemplate { identity: identity(context, "import", import.name.as_str()), what, source, text };
        Self { context, import, templates, plan, staged: Generation::Staging.name(import.into.as_str()) }
    }

    fn name(&self) -> &str {
        self.import.name.as_str()
    }

    fn schema(&self) -> &str {
        self.context.subject.portal.database.schema.as_str()
    }

    fn job(&self, name: &str, checkpoint: Option<&str>) -> Result<Job, PhaseError> {
        let more = [
            ("PORTAL_IMPORT", self.name().to_owned()),
            ("PORTAL_CHECKPOINT", checkpoint.unwrap_or_default().to_owned()),
            ("STAGING_TABLE", qualified(self.schema(), &self.staged)),
        ];
        self.plan.job(self.context, name, self.templates, &more)
    }

    /// Looks whether the cluster would take the Job, and whether the operator may make it. Nothing stays of it.
    pub(crate) async fn check(&self) -> Result<(), PhaseError> {
        let tables = self.context.relations();
        if !tables.tables.iter().chain(&tables.lookups).any(|table| *table == self.import.into.0) {
            let next = "name one of the Portal's tables in `into`, or add it to the Portal's tables";
            return Err(PhaseError::Refused(format!("import {}: {} is no table of the Portal; {next}", self.name(), self.import.into)));
        }
        let job = self.job(&name(&self.plan.identity, 0), None)?;
        let made = create(&self.context.tools.client, &self.context.subject.namespace, &job, true).await;
        made.map_err(|error| self.plan.error(self.context, &error))
    }

    /// Notes how many rows there are before the first Job writes.
    pub(crate) async fn plan(&self, work: &mut Work) -> Result<(), PhaseError> {
        let rows = row_count(work, self.schema(), &self.staged).await?;
        Ok(ledger::jobs::plan(work, self.context.subject.release_id, self.name(), rows).await?)
    }

    /// Runs the Job until it has succeeded and nothing of it is left at work. Gives its name.
    pub(crate) async fn finished(&self, cut: &CancellationToken) -> Result<String, PhaseError> {
        let job = tokio::select! {
            ended = self.run() => ended?,
            // Wherever that is: what has been announced is found, or made, by the next attempt.
            () = cut.cancelled() => return Err(PhaseError::Cancelled),
        };
        let mut work = self.context.work().await?;
        ledger::jobs::end_sessions(&mut work, std::slice::from_ref(&job)).await?;
        work.commit().await?;
        Ok(job)
    }

    /// Runs the Job to its end, or waits for the one that runs already.
    async fn run(&self) -> Result<String, PhaseError> {
        let (client, namespace) = (&self.context.tools.client, self.context.subject.namespace.as_str());
        let job = self.start().await?;
        let what = format!("import {}: Job {job} runs", self.name());
        self.context.say(&what);
        let waiting = |obstacle: Option<String>| match obstacle {
            Some(obstacle) => self.context.say(format!("import {}: Job {job} waits: {obstacle}", self.name())),
            None => self.context.say(&what),
        };
        let ended = wait(client, namespace, &job, waiting).await.map_err(|error| self.plan.error(self.context, &error))?;
        match ended {
            Ended::Succeeded => Ok(job),
            Ended::Failed(failure) => {
                let failure = told(self.context, failure).await;
                self.ended(&job).await?;
                Err(self.failed(&job, &failure))
            }
            Ended::Gone => {
                self.ended(&job).await?;
                let text = "was deleted while it ran; it is made again. To stop an import, abort or suspend the release";
                Err(PhaseError::Failed(format!("import {}: Job {namespace}/{job} {text}", self.name())))
            }
        }
    }

    fn failed(&self, job: &str, failure: &Failure) -> PhaseError {
        let namespace = &self.context.subject.namespace;
        let log = if failure.log.is_empty() { String::new() } else { format!(". Its log ends with: {}", failure.log) };
        let what = format!("import {}: Job {namespace}/{job} failed: {failure}", self.name());
        if failure.disrupted {
            return PhaseError::Failed(format!("{what}; its pod was sent away, so it is tried again{log}"));
        }
        let next =
            format!("see kubectl logs --namespace {namespace} job/{job}, correct the image, its template or the source, then raise retry");
        PhaseError::Refused(format!("{what}; {next}{log}"))
    }

    async fn ended(&self, job: &str) -> Result<(), PhaseError> {
        let mut work = self.context.work().await?;
        ledger::jobs::end(&mut work, job).await?;
        work.commit().await
    }

    /// Finds the Job that runs, or makes one. Gives its name.
    async fn start(&self) -> Result<String, PhaseError> {
        let (client, namespace) = (&self.context.tools.client, self.context.subject.namespace.as_str());
        let failed = |error| self.plan.error(self.context, &error);
        let mut work = self.context.work().await?;
        let known = ledger::jobs::read(&mut work, self.context.subject.release_id, self.name()).await?;
        work.commit().await?;
        if let Some(job) = &known.job {
            if known.running && exists(client, namespace, job).await.map_err(failed)? {
                return Ok(job.clone());
            }
            // One that failed was kept to be looked at until now.
            delete(client, namespace, job).await.map_err(failed)?;
            wait_gone(client, namespace, job).await.map_err(failed)?;
        }
        let mut work = self.context.work().await?;
        if let Some(job) = &known.job {
            ledger::jobs::end_sessions(&mut work, std::slice::from_ref(job)).await?;
        }
        let now = ledger::jobs::lock(&mut work, self.context.subject.release_id, self.name()).await?;
        let fresh = self.clear(&mut work, &now).await?;
        // The number of a Job that was announced and has left no trace is its own still: a request to create it may be on its way.
        let attempt = if now.running && !fresh { now.attempt } else { now.attempt + 1 };
        let job = name(&self.plan.identity, attempt);
        let made = self.job(&job, now.checkpoint.as_deref())?;
        ledger::jobs::start(&mut work, self.context.subject.release_id, self.name(), &job, attempt).await?;
        work.commit().await?;
        self.context.tools.services.faults.reach(self.context.subject.attempt.phase, "job").await;
        if self.context.tools.services.term.is_over() {
            return Err(PhaseError::Cancelled);
        }
        create(client, namespace, &made, false).await.map_err(failed)?;
        Ok(job)
    }

    /// A Job without a checkpoint begins anew: what an earlier one has written goes. Gives whether there was something.
    async fn clear(&self, work: &mut Work, known: &ImportJob) -> Result<bool, PhaseError> {
        if known.checkpoint.is_some() {
            return Ok(false);
        }
        self.keep_writers_out(work, "SHARE ROW EXCLUSIVE").await?;
        let rows = row_count(work, self.schema(), &self.staged).await?;
        let rejected = ledger::jobs::rejected(work, self.context.subject.release_id, self.name()).await?;
        if rows == known.rows_before && rejected == 0 {
            return Ok(false);
        }
        if rows != known.rows_before && known.rows_before > 0 {
            return Err(PhaseError::Refused(format!(
                "import {}: an earlier Job has failed and changed {} from {} to {rows} rows, without a checkpoint; other rows are in that table, so the Job cannot begin anew; let it write in one transaction, or store checkpoints; then abort the release and raise retry",
                self.name(),
                self.staged,
                known.rows_before
            )));
        }
        run_sql(work, format!("DELETE FROM {}", qualified(self.schema(), &self.staged))).await?;
        ledger::jobs::forget_rejected(work, self.context.subject.release_id, self.name()).await?;
        Ok(true)
    }

    /// Waits until no transaction has written to the staged table without an end, and lets none begin until this one ends.
    async fn keep_writers_out(&self, work: &mut Work, mode: &str) -> Result<(), PhaseError> {
        let table = qualified(self.schema(), &self.staged);
        run_sql(work, format!("{WRITERS}; LOCK TABLE {table} IN {mode} MODE")).await.map_err(|error| match PhaseError::from(error) {
            PhaseError::Failed(cause) => PhaseError::Failed(format!(
                "import {}: somebody still writes to {table}: {cause}; end sessions that the Job has left behind (see pg_stat_activity)",
                self.name()
            )),
            error => error,
        })
    }

    /// Counts what the Job has brought. From then on it may not write.
    pub(crate) async fn counts(&self, work: &mut Work, job: &str) -> Result<Counts, PhaseError> {
        let known = ledger::jobs::lock(work, self.context.subject.release_id, self.name()).await?;
        if known.job.as_deref() != Some(job) {
            return Err(PhaseError::Failed(format!("import {}: Job {job} was given up meanwhile", self.name())));
        }
        self.keep_writers_out(work, "SHARE").await?;
        let imported = row_count(work, self.schema(), &self.staged).await? - known.rows_before;
        if imported < 0 {
            return Err(PhaseError::Refused(format!(
                "import {}: Job {}/{job} has left {} rows less in {} than it found; a Job only adds rows; correct it, then abort the release and raise retry",
                self.name(),
                self.context.subject.namespace,
                -imported,
                self.staged
            )));
        }
        let rejected = ledger::jobs::rejected(work, self.context.subject.release_id, self.name()).await?;
        ledger::jobs::end(work, job).await?;
        Ok(Counts { read: imported + rejected, imported, rejected })
    }

    /// Takes away a Job whose rows are counted. What cannot be taken away now goes at the end of the release, or with its object.
    pub(crate) async fn tidy(&self, job: &str) -> Result<(), PhaseError> {
        if let Err(error) = delete(&self.context.tools.client, &self.context.subject.namespace, job).await {
            tracing::warn!(job, %error, "Job {job} is done and not deleted yet: {error}");
            return Ok(());
        }
        let mut work = self.context.work().await?;
        ledger::jobs::forget(&mut work, job).await?;
        work.commit().await
    }
}

/// Takes away the Jobs of these imports: all, or only those that may still write.
pub(crate) async fn stop(context: &Context, imports: &[String], running: bool) -> Result<(), PhaseError> {
    let mut work = context.work().await?;
    let names = ledger::jobs::of_imports(&mut work, context.subject.release_id, imports, running).await?;
    work.commit().await?;
    jobs::stop(context, &names).await
}
