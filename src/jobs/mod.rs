//! Jobs of a release: what a template becomes, what its containers get to know, how a Job is taken away.

use futures::future::try_join_all;
use k8s_openapi::api::{
    batch::v1::Job,
    core::v1::{EnvVar, EnvVarSource, SecretKeySelector},
};

use crate::{
    api::JobSource,
    classify::Classify,
    cluster::{
        self, ClusterError,
        jobs::{self, Failure, Identity},
    },
    database::{connection, ledger, template::TemplateContext},
    work::{Context, PhaseError},
};

/// A Job that is to be made: whose it is, and the text of its template.
pub(crate) struct JobTemplate<'a> {
    /// Whose it is.
    pub identity: Identity,
    /// How messages call it, such as `import pame`.
    pub what: String,
    /// Where its template is.
    pub source: &'a JobSource,
    /// The template.
    pub text: &'a str,
}

impl JobTemplate<'_> {
    /// The Job, with everything that its containers get to know; `more` is for this sort of Job alone.
    ///
    /// # Errors
    /// When the template is wrong.
    pub(crate) fn job(
        &self,
        context: &Context,
        name: &str,
        templates: &TemplateContext,
        more: &[(&str, String)],
    ) -> Result<Job, PhaseError> {
        let template = jobs::parse(self.text).map_err(|problem| {
            PhaseError::Refused(format!("{}: {} {problem}; then raise retry", self.what, self.place(&context.subject.namespace)))
        })?;
        Ok(jobs::complete(&template, &self.identity, name, &environment(context, name, templates, more)))
    }

    /// Where the template is, in words.
    pub(crate) fn place(&self, namespace: &str) -> String {
        let reference = &self.source.template_config_map_ref;
        format!("the Job in ConfigMap {namespace}/{}, key {}", reference.name, reference.key)
    }

    /// What a failed call means: what a person has to change is final.
    pub(crate) fn error(&self, context: &Context, error: &ClusterError) -> PhaseError {
        let text = format!("{}: {}: {error}", self.what, self.place(&context.subject.namespace));
        if error.is_transient() { PhaseError::Failed(text) } else { PhaseError::Refused(text) }
    }
}

/// Whose Job it is.
pub(crate) fn identity(context: &Context, purpose: &'static str, item: &str) -> Identity {
    Identity { release: context.subject.object.clone(), portal: context.subject.portal_name.clone(), purpose, item: item.to_owned() }
}

/// The variables of every container. `docs/job-imports.md` describes them.
fn environment(context: &Context, name: &str, templates: &TemplateContext, more: &[(&str, String)]) -> Vec<EnvVar> {
    let sample = templates.sample.map(|rows| rows.to_string()).unwrap_or_default();
    let mut values: Vec<(String, String)> = [
        ("PORTAL_NAME", context.subject.portal_name.as_str()),
        ("PORTAL_SCHEMA", templates.schema.as_str()),
        ("PORTAL_RELEASE", context.subject.name.as_str()),
        ("PORTAL_RELEASE_LABEL", templates.release.label.as_str()),
        ("PORTAL_RELEASE_DATE", templates.release.date.as_str()),
        ("PORTAL_RELEASE_ID", templates.release.id.as_str()),
        ("PORTAL_SAMPLE", sample.as_str()),
        ("PORTAL_JOB", name),
        // What the server shows of the Job's sessions; libpq and most drivers heed it.
        ("PGAPPNAME", name),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec();
    values.extend(more.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    values.extend(templates.staged().into_iter().map(|(name, staged)| (format!("STAGING_OF_{}", name.to_uppercase()), staged)));
    let secret = &context.subject.portal.database.connection_secret_ref;
    let key = SecretKeySelector { name: secret.name.0.clone(), key: secret.key.0.clone(), optional: None };
    let from = EnvVarSource { secret_key_ref: Some(key), ..EnvVarSource::default() };
    let mut variables = vec![EnvVar { name: "DATABASE_URL".to_owned(), value: None, value_from: Some(from) }];
    variables.extend(values.into_iter().map(|(name, value)| EnvVar { name, value: Some(literal(&value)), value_from: None }));
    variables
}

/// A value as Kubernetes has to be given it: `$(NAME)` would be replaced by the variable of that name, and `$$` by `$`.
fn literal(value: &str) -> String {
    value.replace('$', "$$")
}

/// Takes Jobs away and waits until nothing of them runs: no pod, no session. Then the ledger forgets them.
///
/// # Errors
/// When the API server or the database refuses or does not answer.
pub(crate) async fn stop(context: &Context, names: &[String]) -> Result<(), PhaseError> {
    if names.is_empty() {
        return Ok(());
    }
    let (client, namespace) = (&context.tools.client, context.subject.namespace.as_str());
    let failed = |error: ClusterError| PhaseError::Failed(error.to_string());
    // With a namespace that is being deleted go its Jobs, and the operator's rights in it.
    if !context.subject.namespace_terminating {
        context.say(format!("waiting until nothing is left of {}", listed(names)));
        for name in names {
            jobs::delete(client, namespace, name).await.map_err(failed)?;
        }
        try_join_all(names.iter().map(|name| jobs::wait_gone(client, namespace, name))).await.map_err(failed)?;
    }
    let mut work = context.work().await?;
    ledger::jobs::end_sessions(&mut work, names).await?;
    for name in names {
        ledger::jobs::forget(&mut work, name).await?;
    }
    work.commit().await
}

/// As [`stop`], for every Job of the Portal, whichever release it belongs to: nobody may write to staged tables that are about to be
/// dropped or made anew.
///
/// # Errors
/// As [`stop`].
pub(crate) async fn stop_all(context: &Context) -> Result<(), PhaseError> {
    let mut work = context.work().await?;
    let names = ledger::jobs::of_portal(&mut work, &context.key()).await?;
    work.commit().await?;
    stop(context, &names).await
}

fn listed(names: &[String]) -> String {
    format!("Job {}", names.join(", "))
}

/// A failure as it may be told: without the password of the database. Where that is not known, nothing of the log is told.
pub(crate) async fn told(context: &Context, failure: Failure) -> Failure {
    let secret = &context.subject.portal.database.connection_secret_ref;
    match cluster::read_secret_key(&context.tools.client, &context.subject.namespace, secret.name.as_str(), secret.key.as_str()).await {
        Ok(url) => failure.without(&connection::secrets(url.expose())),
        Err(error) => {
            tracing::warn!(%error, "the log of a failed Job is not told: {error}");
            Failure { log: String::new(), ..failure }
        }
    }
}
