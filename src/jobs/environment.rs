//! The variables of a Job's containers. `docs/jobs.md` describes them.

use k8s_openapi::api::core::v1::{EnvVar, EnvVarSource, SecretKeySelector};

use crate::{
    database::{ledger::jobs::Purpose, template::TemplateContext},
    work::Context,
};

/// The variables of every container; `own` is what only this Job has.
pub(super) fn environment(
    context: &Context,
    name: &str,
    purpose: Purpose,
    templates: &TemplateContext,
    own: &[(&str, String)],
) -> Vec<EnvVar> {
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
        // The name under which the server shows the Job's sessions; libpq and most drivers use it.
        ("PGAPPNAME", name),
    ]
    .map(|(name, value)| (name.to_owned(), value.to_owned()))
    .to_vec();
    values.extend(own.iter().map(|(name, value)| ((*name).to_owned(), value.clone())));
    // After the swap nothing is staged.
    if purpose != Purpose::PostSwap {
        values.extend(templates.staged().into_iter().map(|(name, staged)| (format!("STAGING_OF_{}", name.to_uppercase()), staged)));
    }
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
