//! A Job from its announcement to its end.

use std::future::Future;

use sha2::{Digest, Sha256};

use super::JobRequest;
use crate::{
    cluster::{
        self,
        jobs::{Ended, Failure, create, delete, exists, wait, wait_gone},
    },
    database::{
        connection,
        ledger::{
            self,
            jobs::{JobKey, JobRecord, JobState, Purpose},
        },
    },
    text::hex,
    work::{Context, PhaseError, Work},
};

/// What happens before a Job is announced, in the same transaction.
pub(crate) trait Prepare: Sync {
    /// Prepares what the Job will work on.
    fn prepare(&self, work: &mut Work) -> impl Future<Output = Result<Prepared, PhaseError>> + Send;
}

/// Nothing has to be prepared.
impl Prepare for () {
    async fn prepare(&self, _: &mut Work) -> Result<Prepared, PhaseError> {
        Ok(Prepared::default())
    }
}

/// What was prepared.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    /// Variables that only this attempt has.
    pub variables: Vec<(&'static str, String)>,
    /// An earlier Job has left something, so it did run.
    pub traces: bool,
}

/// How a Job ended.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It succeeded.
    Succeeded,
    /// It failed: nothing changes by trying again.
    Failed(Report),
    /// Its pod was evicted, rejected or lost its node, or somebody has deleted it. What happened.
    Interrupted(String),
}

/// A Job that failed, and why, without the database's secrets.
#[derive(Debug)]
pub(crate) struct Report {
    namespace: String,
    job: String,
    failure: Failure,
}

impl Report {
    /// What happened.
    pub(crate) fn problem(&self) -> String {
        format!("Job {}/{} failed: {}", self.namespace, self.job, self.failure)
    }

    /// Which Job, and why it failed.
    pub(crate) fn cause(&self) -> String {
        format!("Job {}/{}: {}", self.namespace, self.job, self.failure)
    }

    /// How to see the whole log.
    pub(crate) fn log_command(&self) -> String {
        format!("see kubectl logs --namespace {} job/{}", self.namespace, self.job)
    }

    /// The end of the log, as a sentence after another one; empty where there is none.
    pub(crate) fn log(&self) -> String {
        if self.failure.log.is_empty() { String::new() } else { format!(". Its log ends with: {}", self.failure.log) }
    }
}

/// Runs a Job to its end, or waits for the one that runs already. One that succeeded is deleted.
///
/// A hook whose Job has succeeded in this run is not run again, nor is a gate's that has succeeded in an earlier attempt of the phase.
///
/// # Errors
/// When the template is wrong, a call fails or the fence is gone.
pub(crate) async fn run(context: &Context, request: &JobRequest<'_>) -> Result<Outcome, PhaseError> {
    let known = read(context, request.key(context)).await?;
    // A gate's answer counts for the attempts that follow it without a break; a phase that is done again asks again.
    let answer = (request.purpose == Purpose::Gate).then(|| answer(context, request));
    if is_succeeded(context, &known) && (request.purpose == Purpose::PostSwap || (answer.is_some() && known.answer == answer)) {
        return Ok(Outcome::Succeeded);
    }
    let (job, outcome) = attempt(context, request, &()).await?;
    if matches!(outcome, Outcome::Succeeded) {
        if let Some(answer) = answer {
            let mut work = context.work().await?;
            ledger::jobs::answer(&mut work, &job, &answer).await?;
            work.commit().await?;
        }
        tidy(context, &job).await?;
    }
    Ok(outcome)
}

/// What a gate's answer answers: the template, for a series of attempts of which each one but the last has failed.
fn answer(context: &Context, request: &JobRequest<'_>) -> String {
    let attempt = context.subject.attempt;
    let failures = context.subject.run.record(attempt.phase).map_or(0, |record| record.failures);
    let template = hex(&Sha256::digest(request.text.as_bytes()));
    format!("{} from attempt {}, template {template}", attempt.phase, attempt.number.saturating_sub(failures))
}

/// Whether a hook without a Job has succeeded in this run.
///
/// # Errors
/// When the database does not answer or the fence is gone.
pub(crate) async fn is_done(context: &Context, purpose: Purpose, item: &str) -> Result<bool, PhaseError> {
    let known = read(context, JobKey { release: context.subject.release_id, purpose, item }).await?;
    Ok(is_succeeded(context, &known))
}

/// Notes that a hook without a Job has succeeded in this run.
///
/// # Errors
/// As [`is_done`].
pub(crate) async fn note_done(context: &Context, purpose: Purpose, item: &str) -> Result<(), PhaseError> {
    let mut work = context.work().await?;
    ledger::jobs::done(&mut work, JobKey { release: context.subject.release_id, purpose, item }, context.subject.run.id).await?;
    work.commit().await
}

/// As [`run`], with something to prepare before. Returns the Job's name too; the caller deletes one that succeeded.
///
/// # Errors
/// As [`run`].
pub(crate) async fn attempt(context: &Context, request: &JobRequest<'_>, prepare: &impl Prepare) -> Result<(String, Outcome), PhaseError> {
    let (client, namespace, what) = (&context.tools.client, context.subject.namespace.as_str(), &request.what);
    let job = start(context, request, prepare).await?;
    let runs = format!("{what}: Job {job} runs");
    context.say(&runs);
    let waiting = |obstacle: Option<String>| match obstacle {
        Some(obstacle) => context.say(format!("{what}: Job {job} is waiting: {obstacle}")),
        None => context.say(&runs),
    };
    // On the heap: it holds objects of the cluster, and futures within futures fill a thread's stack.
    let ended = Box::pin(wait(client, namespace, &job, waiting)).await.map_err(|error| request.error(context, &error))?;
    let outcome = match ended {
        Ended::Succeeded => return Ok((job, Outcome::Succeeded)),
        Ended::Failed(failure) => {
            let disrupted = failure.disrupted;
            let failure = describe(context, failure).await;
            let report = Report { namespace: namespace.to_owned(), job: job.clone(), failure };
            if disrupted {
                Outcome::Interrupted(format!(
                    "{}; it was interrupted: its pod was evicted, rejected or lost its node{}",
                    report.problem(),
                    report.log()
                ))
            } else {
                Outcome::Failed(report)
            }
        }
        Ended::Gone => Outcome::Interrupted(format!(
            "Job {namespace}/{job} was deleted while it ran; it will be recreated. To stop it, abort or suspend the release"
        )),
    };
    end(context, &job, JobState::Ended).await?;
    Ok((job, outcome))
}

/// Notes that a Job has succeeded and that its result is used, and deletes it.
///
/// # Errors
/// When the database does not answer.
pub(crate) async fn tidy(context: &Context, job: &str) -> Result<(), PhaseError> {
    let mut work = context.work().await?;
    ledger::jobs::end(&mut work, job, JobState::Succeeded).await?;
    ledger::jobs::end_sessions(&mut work, &[job.to_owned()]).await?;
    work.commit().await?;
    // What cannot be deleted now is deleted at the end of the release, or with its object.
    if let Err(error) = delete(&context.tools.client, &context.subject.namespace, job).await {
        tracing::warn!(job, %error, "Job {job} is done and could not be deleted yet: {error}");
        return Ok(());
    }
    let mut work = context.work().await?;
    ledger::jobs::forget(&mut work, job).await?;
    work.commit().await
}

async fn read(context: &Context, key: JobKey<'_>) -> Result<JobRecord, PhaseError> {
    let mut work = context.work().await?;
    let known = ledger::jobs::lock(&mut work, key).await?;
    work.commit().await?;
    Ok(known)
}

fn is_of_run(context: &Context, known: &JobRecord) -> bool {
    known.run_id == Some(context.subject.run.id)
}

fn is_succeeded(context: &Context, known: &JobRecord) -> bool {
    known.state == JobState::Succeeded && is_of_run(context, known)
}

async fn end(context: &Context, job: &str, state: JobState) -> Result<(), PhaseError> {
    let mut work = context.work().await?;
    ledger::jobs::end(&mut work, job, state).await?;
    work.commit().await
}

/// Finds the Job that runs, or creates one. Returns its name.
async fn start(context: &Context, request: &JobRequest<'_>, prepare: &impl Prepare) -> Result<String, PhaseError> {
    let known = read(context, request.key(context)).await?;
    let (client, namespace) = (&context.tools.client, context.subject.namespace.as_str());
    let failed = |error| request.error(context, &error);
    if let Some(job) = &known.job {
        if known.is_running() && exists(client, namespace, job).await.map_err(failed)? {
            // A staged table is the same in a later run; a gate, and what a hook is for, are not.
            if request.purpose == Purpose::Import || is_of_run(context, &known) {
                return Ok(job.clone());
            }
            end(context, job, JobState::Ended).await?;
        }
        // One that failed was kept for inspection until now.
        context.say(format!("{}: waiting until the former Job {job} and its pods are gone", request.what));
        delete(client, namespace, job).await.map_err(failed)?;
        wait_gone(client, namespace, job).await.map_err(failed)?;
    }
    let mut work = context.work().await?;
    if let Some(job) = &known.job {
        ledger::jobs::end_sessions(&mut work, std::slice::from_ref(job)).await?;
    }
    let key = request.key(context);
    let now = ledger::jobs::lock(&mut work, key).await?;
    let prepared = prepare.prepare(&mut work).await?;
    // The number of a Job that was announced and has left no trace is its own still: a request to create it may be on its way.
    let attempt = if now.is_running() && !prepared.traces { now.attempt } else { now.attempt + 1 };
    let name = request.name(context, attempt);
    let job = request.job(context, &name, &prepared.variables)?;
    ledger::jobs::announce(&mut work, key, context.subject.run.id, &name, attempt).await?;
    work.commit().await?;
    context.tools.services.faults.reach(context.subject.attempt.phase, "job").await;
    if context.tools.services.term.is_over() {
        return Err(PhaseError::Cancelled);
    }
    create(client, namespace, &job, false).await.map_err(failed)?;
    Ok(name)
}

/// A failure as people may read it: without the password of the database. Where that is not known, the log is omitted.
async fn describe(context: &Context, failure: Failure) -> Failure {
    let secret = &context.subject.portal.database.connection_secret_ref;
    match cluster::read_secret_key(&context.tools.client, &context.subject.namespace, secret.name.as_str(), secret.key.as_str()).await {
        Ok(url) => failure.without(&connection::secrets(url.expose())),
        Err(error) => {
            tracing::warn!(%error, "the log of a failed Job is not reported: {error}");
            Failure { log: String::new(), ..failure }
        }
    }
}
