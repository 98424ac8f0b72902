//! From a template to the Job that is created: its name, its owner, its labels, its environment.

use std::collections::BTreeMap;

use k8s_openapi::{
    api::{
        batch::v1::Job,
        core::v1::{Container, EnvVar, ObjectReference},
    },
    apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference},
};
use sha2::{Digest, Sha256};

use crate::{api::GROUP, cluster::FIELD_MANAGER};

/// Variables that a template may not set itself; one that ends in `_` means all with that prefix.
pub const RESERVED: [&str; 4] = ["PORTAL_", "STAGING_", "DATABASE_URL", "PGAPPNAME"];

/// Longest parts of a Job's name. With four digits of an attempt the name has at most 57 characters, so a pod's name, which is six
/// longer, is a host name.
const NAME_PARTS: (usize, usize) = (24, 18);
/// Longest value of a label.
const MAX_LABEL: usize = 63;

/// Whose Job it is.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The PortalRelease: the Job goes when it goes.
    pub release: ObjectReference,
    /// Name of the Portal.
    pub portal: String,
    /// What it is for: `import`.
    pub purpose: &'static str,
    /// Which one.
    pub item: String,
}

/// The name of a Job: the same for the same release, purpose, item and attempt, and no other one's.
pub fn name(identity: &Identity, attempt: i32) -> String {
    let uid = identity.release.uid.as_deref().unwrap_or_default();
    let digest = Sha256::digest(format!("{uid}/{}/{}/{attempt}", identity.purpose, identity.item));
    let hash: String = digest.iter().take(4).map(|byte| format!("{byte:02x}")).collect();
    let release = part(identity.release.name.as_deref().unwrap_or_default(), NAME_PARTS.0);
    format!("{release}-{}-{attempt}-{hash}", part(&identity.item, NAME_PARTS.1))
}

/// The characters allowed in a DNS label, beginning and ending with a letter or digit.
fn part(text: &str, max: usize) -> String {
    let plain: String = text.chars().map(|c| if c.is_ascii_lowercase() || c.is_ascii_digit() { c } else { '-' }).take(max).collect();
    plain.trim_matches('-').to_owned()
}

/// Makes the Job of a template. Labels and annotations of the template stay; its name, and for how long it wants to be kept when it is
/// over, do not count: the operator takes it away itself.
pub fn complete(template: &Job, identity: &Identity, name: &str, env: &[EnvVar]) -> Job {
    let mut labels = template.metadata.labels.clone().unwrap_or_default();
    labels.extend(own_labels(identity));
    let mut spec = template.spec.clone().unwrap_or_default();
    spec.ttl_seconds_after_finished = None;
    spec.suspend = None;
    // Where each index has its own number of attempts, Kubernetes does not limit those of all.
    if spec.backoff_limit_per_index.is_none() {
        spec.backoff_limit.get_or_insert(0);
    }
    // Two pods never work at the same time because one is slow to end.
    spec.pod_replacement_policy.get_or_insert_with(|| "Failed".to_owned());
    let pod_labels = spec.template.metadata.get_or_insert_default().labels.get_or_insert_default();
    pod_labels.extend(own_labels(identity));
    if let Some(pod) = &mut spec.template.spec {
        pod.restart_policy.get_or_insert_with(|| "Never".to_owned());
        pod.containers.iter_mut().for_each(|container| add(container, env));
        pod.init_containers.iter_mut().flatten().for_each(|container| add(container, env));
    }
    let owner = OwnerReference {
        api_version: identity.release.api_version.clone().unwrap_or_default(),
        kind: identity.release.kind.clone().unwrap_or_default(),
        name: identity.release.name.clone().unwrap_or_default(),
        uid: identity.release.uid.clone().unwrap_or_default(),
        controller: Some(true),
        block_owner_deletion: None,
    };
    let metadata = ObjectMeta {
        name: Some(name.to_owned()),
        labels: Some(labels),
        annotations: template.metadata.annotations.clone(),
        owner_references: Some(vec![owner]),
        ..ObjectMeta::default()
    };
    Job { metadata, spec: Some(spec), status: None }
}

/// Ours come first, so that a variable of the template may refer to them as `$(STAGING_TABLE)`.
fn add(container: &mut Container, env: &[EnvVar]) {
    let own = container.env.take().unwrap_or_default();
    container.env = Some(env.iter().cloned().chain(own).collect());
}

fn own_labels(identity: &Identity) -> BTreeMap<String, String> {
    let value = |text: &str| text.chars().take(MAX_LABEL).collect::<String>().trim_matches(|c: char| !c.is_ascii_alphanumeric()).to_owned();
    BTreeMap::from([
        ("app.kubernetes.io/managed-by".to_owned(), FIELD_MANAGER.to_owned()),
        (format!("{GROUP}/portal"), value(&identity.portal)),
        (format!("{GROUP}/release"), value(identity.release.name.as_deref().unwrap_or_default())),
        (format!("{GROUP}/{}", identity.purpose), value(&identity.item)),
    ])
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::jobs::parse;

    fn identity(release: &str, item: &str) -> Identity {
        let release = ObjectReference {
            api_version: Some("portalrelease.dev/v1alpha1".into()),
            kind: Some("PortalRelease".into()),
            name: Some(release.into()),
            uid: Some("u-1".into()),
            ..ObjectReference::default()
        };
        Identity { release, portal: "planet".into(), purpose: "import", item: item.into() }
    }

    #[test]
    fn a_name_is_short_plain_and_its_own() {
        let long = "r.".repeat(120);
        for (release, item) in [("jul2026", "pame"), (long.as_str(), "an_import-with_a_very_long_name"), ("a", "b")] {
            let names: Vec<String> = [1, 2, 9999].iter().map(|attempt| name(&identity(release, item), *attempt)).collect();
            assert!(names.iter().all(|name| name.len() <= 57), "{names:?}");
            let plain = |name: &String| name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-');
            assert!(names.iter().all(plain), "{names:?}");
            assert!(names.iter().all(|name| !name.starts_with('-') && !name.ends_with('-')), "{names:?}");
            assert_eq!(names.iter().collect::<std::collections::BTreeSet<_>>().len(), 3);
        }
        assert_eq!(name(&identity("jul2026", "pame"), 1), name(&identity("jul2026", "pame"), 1));
        assert_ne!(name(&identity("jul2026", "pa_me"), 1), name(&identity("jul2026", "pa-me"), 1), "they look the same");
        let mut other = identity("jul2026", "pame");
        other.release.uid = Some("u-2".into());
        assert_ne!(name(&other, 1), name(&identity("jul2026", "pame"), 1), "made again under the same name");
    }

    #[test]
    fn a_job_has_what_the_operator_needs_and_keeps_the_rest() {
        let template = parse(
            "
apiVersion: batch/v1
kind: Job
metadata: {name: mine, labels: {team: data}, annotations: {note: x}, finalizers: [keep.example.org/me]}
spec:
  ttlSecondsAfterFinished: 0
  suspend: true
  activeDeadlineSeconds: 60
  template:
    metadata: {labels: {app: x}}
    spec:
      initContainers: [{name: i, image: i}]
      containers: [{name: c, image: c, env: [{name: OWN, value: $(PORTAL_JOB)}]}]",
        )
        .unwrap();
        let env = [EnvVar { name: "PORTAL_JOB".into(), value: Some("n".into()), value_from: None }];
        let job = complete(&template, &identity("jul2026", "pame"), "n", &env);
        assert_eq!(job.metadata.name.as_deref(), Some("n"));
        assert_eq!((job.metadata.finalizers, job.metadata.namespace), (None, None));
        let labels = job.metadata.labels.unwrap();
        assert_eq!((labels["team"].as_str(), labels["portalrelease.dev/import"].as_str()), ("data", "pame"));
        assert_eq!(job.metadata.owner_references.unwrap()[0].uid, "u-1");
        let spec = job.spec.unwrap();
        assert_eq!((spec.backoff_limit, spec.active_deadline_seconds), (Some(0), Some(60)));
        assert_eq!((spec.ttl_seconds_after_finished, spec.suspend), (None, None), "it must start, and stay until it is read");
        assert_eq!(spec.pod_replacement_policy.as_deref(), Some("Failed"), "no second pod beside one that is ending");
        let pod_labels = spec.template.metadata.unwrap().labels.unwrap();
        assert_eq!((pod_labels["app"].as_str(), pod_labels["portalrelease.dev/release"].as_str()), ("x", "jul2026"));
        let pod = spec.template.spec.unwrap();
        assert_eq!(pod.restart_policy.as_deref(), Some("Never"));
        let names = |container: &Container| container.env.iter().flatten().map(|one| one.name.clone()).collect::<Vec<_>>();
        assert_eq!(names(&pod.containers[0]), ["PORTAL_JOB", "OWN"]);
        assert_eq!(names(&pod.init_containers.unwrap()[0]), ["PORTAL_JOB"]);
    }

    #[test]
    fn attempts_that_the_template_counts_by_itself_are_left_to_it() {
        let made = |spec: &str| {
            let text =
                format!("apiVersion: batch/v1\nkind: Job\nspec: {{{spec}, template: {{spec: {{containers: [{{name: c, image: c}}]}}}}}}");
            complete(&parse(&text).unwrap(), &identity("jul2026", "pame"), "n", &[]).spec.unwrap()
        };
        assert_eq!(made("completionMode: Indexed, completions: 3, backoffLimitPerIndex: 2").backoff_limit, None);
        assert_eq!(made("backoffLimit: 2").backoff_limit, Some(2));
        let spec = made("podReplacementPolicy: TerminatingOrFailed");
        assert_eq!((spec.backoff_limit, spec.pod_replacement_policy.as_deref()), (Some(0), Some("TerminatingOrFailed")));
    }
}
