//! Which Job is wanted, and the Job that becomes of its template.

use k8s_openapi::api::batch::v1::Job;

use super::environment::environment;
use crate::{
    api::JobSource,
    classify::Classify,
    cluster::{
        ClusterError,
        jobs::{self, Identity},
    },
    database::ledger::jobs::{JobKey, Purpose},
    work::{Context, PhaseError, definition::templates},
};

/// A Job that is wanted.
pub(crate) struct JobRequest<'a> {
    /// What it is for.
    pub purpose: Purpose,
    /// Which import, gate or hook.
    pub item: &'a str,
    /// How messages call it, such as `import pame`.
    pub what: String,
    /// Where its template is.
    pub source: &'a JobSource,
    /// The template.
    pub text: &'a str,
    /// Variables that only this Job has.
    pub variables: Vec<(&'static str, String)>,
}

impl JobRequest<'_> {
    /// The Job, with the variables of its containers; `more` is what only this attempt has.
    ///
    /// # Errors
    /// When the template is wrong.
    pub(super) fn job(&self, context: &Context, name: &str, more: &[(&'static str, String)]) -> Result<Job, PhaseError> {
        let template = jobs::parse(self.text).map_err(|problem| {
            PhaseError::Refused(format!("{}: {} {problem}; then raise spec.retry", self.what, self.place(&context.subject.namespace)))
        })?;
        let own: Vec<(&str, String)> = self.variables.iter().chain(more).cloned().collect();
        let variables = environment(context, name, self.purpose, &templates(context), &own);
        Ok(jobs::complete(&template, &self.identity(context), name, &variables))
    }

    /// The name of an attempt.
    pub(super) fn name(&self, context: &Context, attempt: i32) -> String {
        jobs::name(&self.identity(context), attempt)
    }

    fn identity(&self, context: &Context) -> Identity {
        Identity {
            release: context.subject.object.clone(),
            portal: context.subject.portal_name.clone(),
            purpose: self.purpose.as_str(),
            item: self.item.to_owned(),
        }
    }

    /// Its row in the ledger.
    pub(super) fn key(&self, context: &Context) -> JobKey<'_> {
        JobKey { release: context.subject.release_id, purpose: self.purpose, item: self.item }
    }

    /// Where the template is, in words.
    fn place(&self, namespace: &str) -> String {
        let reference = &self.source.template_config_map_ref;
        format!("the Job in ConfigMap {namespace}/{}, key {}", reference.name, reference.key)
    }

    /// What a failed call means: what a person has to change is final.
    pub(super) fn error(&self, context: &Context, error: &ClusterError) -> PhaseError {
        let text = format!("{}: {}: {error}", self.what, self.place(&context.subject.namespace));
        if error.is_transient() { PhaseError::Failed(text) } else { PhaseError::Refused(text) }
    }
}

/// Checks whether the cluster would accept the Job, and whether the operator may create it. Nothing remains of it. Returns a sentence
/// when the cluster could not be asked.
///
/// # Errors
/// When it would not, or the API server does not answer.
pub(crate) async fn check(context: &Context, request: &JobRequest<'_>) -> Result<Option<String>, PhaseError> {
    let job = request.job(context, &request.name(context, 0), &[])?;
    match jobs::create(&context.tools.client, &context.subject.namespace, &job, true).await {
        Ok(()) => Ok(None),
        // It is found out when the Job is created.
        Err(ClusterError::Call { cause, .. }) if cause.is_dry_run_unsupported() => {
            Ok(Some(format!("the Job of {} was not tried out: {cause}", request.what)))
        }
        Err(error) => Err(request.error(context, &error)),
    }
}
