//! One engine for checks. It evaluates a probe; what an answer means is the policy of whoever asks.
//!
//! | kind | passes when |
//! |---|---|
//! | `sql` | a query returns one row with true in its first column |
//! | `http` | the answer has the status and the text that are expected |
//! | `job` | a Kubernetes Job succeeds |
//! | `contract` | functions and tables exist as described |
//! | `backup` | the newest base backup is recent |

mod backup;
mod contract;
pub mod examine;
mod http;
mod job;
mod sql;

pub use backup::ask as ask_backup;
pub use contract::ask as ask_contract;
pub use job::check_templates;
pub use sql::ask as ask_sql;

use crate::{
    api::{BackupCheck, Contract, Gate, Hook, HttpMethod, HttpRequest, JobSource},
    finding::Finding,
    jobs::Purpose,
    work::{Context, PhaseError, definition::templates},
};

/// What a check answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// It passes; how, in a few words.
    Passed(String),
    /// It was evaluated and does not pass.
    Failed(Finding),
    /// It was evaluated, and there is nothing to judge.
    NoData(Finding),
    /// It was not evaluated, as what the Portal asks for is wrong or not allowed: asking again changes nothing.
    Refused(Finding),
    /// It could not be evaluated this time: nothing is known. Whoever asks knows what happens now.
    Error(Finding),
}

impl Answer {
    /// `object` could not be evaluated, because of `cause`.
    pub(crate) fn error(object: &str, cause: &str) -> Self {
        Self::Error(Finding::fail(object, format!("could not be evaluated: {cause}"), ""))
    }
}

/// A check: how messages call it, and its probe.
pub struct Check<'a> {
    /// How messages call it, such as `hard gate recent-backup`.
    pub object: String,
    /// Its name in the Portal.
    pub name: &'a str,
    /// What is evaluated.
    pub probe: Probe<'a>,
}

/// What is evaluated.
#[derive(Clone, Copy, Debug)]
pub enum Probe<'a> {
    /// The template of a query.
    Sql(&'a str),
    /// A request, and its method where it names none.
    Http(&'a HttpRequest, HttpMethod),
    /// A Job, and what it is for.
    Job(&'a JobSource, Purpose),
    /// Functions and tables.
    Contract(&'a Contract),
    /// The age of the newest backup.
    Backup(&'a BackupCheck),
}

impl<'a> Probe<'a> {
    /// The probe of a gate. The schema admits exactly one kind.
    pub fn of_gate(gate: &'a Gate, contract: Option<&'a Contract>) -> Option<Self> {
        let Gate { sql, http, job, contract: own, backup, .. } = gate;
        sql.as_ref()
            .map(|sql| Self::Sql(sql.as_str()))
            .or(http.as_ref().map(|request| Self::Http(request, HttpMethod::GET)))
            .or(job.as_ref().map(|job| Self::Job(job, Purpose::Gate)))
            .or(own.as_ref().map(|own| Self::Contract(contract.filter(|_| own.is_empty()).unwrap_or(own))))
            .or(backup.as_ref().map(Self::Backup))
    }

    /// The probe of a hook.
    pub fn of_hook(hook: &'a Hook) -> Option<Self> {
        hook.http
            .as_ref()
            .map(|request| Self::Http(request, HttpMethod::POST))
            .or(hook.job.as_ref().map(|job| Self::Job(job, Purpose::PostSwap)))
    }
}

/// Evaluates a check.
///
/// # Errors
/// When the phase is cancelled or fenced: then the answer is not needed.
pub async fn ask(check: &Check<'_>, context: &Context) -> Result<Answer, PhaseError> {
    let object = check.object.as_str();
    match check.probe {
        Probe::Http(request, method) => http::ask(context, object, request, method).await,
        Probe::Job(source, purpose) => job::ask(context, object, check.name, source, purpose).await,
        Probe::Sql(template) => match templates(context).render(object, template, None) {
            Err(error) => Ok(Answer::Failed(Finding::fail("", error.to_string(), ""))),
            Ok(rendered) => {
                let mut work = context.work().await?;
                let answer = sql::ask(&mut work, object, &rendered.sql).await;
                work.rollback().await?;
                Ok(answer)
            }
        },
        Probe::Contract(contract) => {
            let mut work = context.work().await?;
            let answer = contract::ask(&mut work, object, contract).await;
            work.rollback().await?;
            Ok(answer)
        }
        Probe::Backup(backup) => {
            let mut work = context.work().await?;
            let answer = backup::ask(&mut work, object, backup).await;
            work.rollback().await?;
            Ok(answer)
        }
    }
}
