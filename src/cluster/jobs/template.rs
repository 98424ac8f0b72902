//! The manifest of a Job in a ConfigMap: read strictly, so that a typing error does not become a Job that does something else.

use k8s_openapi::api::batch::v1::Job;
use serde_json::Value;

use super::RESERVED;

/// Reads a Job's manifest.
///
/// # Errors
/// With what is wrong with it, in words that follow the name of the ConfigMap and its key.
pub fn parse(text: &str) -> Result<Job, String> {
    let value: Value = serde_saphyr::from_str(text).map_err(|error| format!("is not YAML: {}", first_line(&error.to_string())))?;
    for (field, wanted) in [("apiVersion", "batch/v1"), ("kind", "Job")] {
        match value.get(field).and_then(Value::as_str) {
            Some(found) if found == wanted => {}
            Some(found) => return Err(format!("has {field} {found}; it must be the manifest of a Job of batch/v1")),
            None => return Err(format!("has no {field}; it must be the manifest of a Job of batch/v1")),
        }
    }
    let job: Job = serde_json::from_value(value.clone()).map_err(|error| format!("is not a Job: {error}"))?;
    let known = serde_json::to_value(&job).map_err(|error| format!("is not a Job: {error}"))?;
    if let Some(path) = unknown(&value, &known, "") {
        return Err(format!("has an unknown field: {path}; correct or remove it"));
    }
    check(&job)?;
    Ok(job)
}

/// What the operator relies on.
fn check(job: &Job) -> Result<(), String> {
    if let Some(namespace) = &job.metadata.namespace {
        return Err(format!("names the namespace {namespace}; remove it: a Job runs in the Portal's namespace"));
    }
    let Some(spec) = &job.spec else { return Err("has no spec; describe the Job in it".to_owned()) };
    if spec.manual_selector.is_some() || spec.selector.is_some() {
        return Err("has a selector; remove spec.selector and spec.manualSelector: Kubernetes chooses one".to_owned());
    }
    let Some(pod) = &spec.template.spec else { return Err("has no spec.template.spec; describe the pod in it".to_owned()) };
    if pod.containers.is_empty() {
        return Err("has no containers; name at least one in spec.template.spec.containers".to_owned());
    }
    for container in pod.containers.iter().chain(pod.init_containers.iter().flatten()) {
        let set = |name: &str| RESERVED.iter().any(|reserved| name == *reserved || (reserved.ends_with('_') && name.starts_with(reserved)));
        if let Some(taken) = container.env.iter().flatten().find(|variable| set(&variable.name)) {
            return Err(format!("sets {} in container {}; remove it: the operator sets it", taken.name, container.name));
        }
    }
    Ok(())
}

/// The first field of `given` that `known` does not have. What is null says nothing.
fn unknown(given: &Value, known: &Value, path: &str) -> Option<String> {
    match (given, known) {
        (Value::Object(given), Value::Object(known)) => given.iter().filter(|(_, value)| !value.is_null()).find_map(|(name, value)| {
            let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
            match known.get(name) {
                Some(known) => unknown(value, known, &path),
                None => Some(path),
            }
        }),
        (Value::Array(given), Value::Array(known)) => {
            given.iter().zip(known).enumerate().find_map(|(at, (given, known))| unknown(given, known, &format!("{path}[{at}]")))
        }
        _ => None,
    }
}

fn first_line(text: &str) -> &str {
    text.lines().next().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = "
apiVersion: batch/v1
kind: Job
metadata: {name: anything, labels: {team: data}}
spec:
  backoffLimit: 2
  activeDeadlineSeconds: 3600
  template:
    spec:
      restartPolicy: Never
      initContainers: [{name: fetch, image: fetch}]
      containers:
        - name: importer
          image: registry.example.org/pame:7
          resources: {limits: {cpu: 500m, memory: 1Gi}}
          env: [{name: LOG_LEVEL, value: debug}, {name: TOKEN, valueFrom: {secretKeyRef: {name: t, key: k}}}]
          volumeMounts: [{name: scratch, mountPath: /scratch}]
      volumes: [{name: scratch, emptyDir: {}}]
";

    #[test]
    fn a_jobs_manifest_is_read_whole() {
        let spec = parse(GOOD).unwrap().spec.unwrap();
        assert_eq!((spec.backoff_limit, spec.active_deadline_seconds), (Some(2), Some(3600)));
        assert_eq!(spec.template.spec.unwrap().containers.len(), 1);
    }

    #[test]
    fn what_cannot_be_meant_is_refused_with_its_place() {
        for (from, to, says) in [
            ("kind: Job", "kind: [", "is not YAML"),
            ("kind: Job", "kind: Pod", "has kind Pod; it must be"),
            ("apiVersion: batch/v1", "apiVersion: batch/v1beta1", "has apiVersion batch/v1beta1"),
            ("kind: Job", "", "has no kind"),
            ("{name: anything,", "{name: anything, namespace: payroll,", "names the namespace payroll; remove it"),
            ("backoffLimit: 2", "backofLimit: 2", "has an unknown field: spec.backofLimit"),
            ("image: registry", "imagePulPolicy: Always\n          image: registry", "spec.template.spec.containers[0].imagePulPolicy"),
            ("backoffLimit: 2", "backoffLimit: many", "is not a Job"),
            ("backoffLimit: 2", "selector: {matchLabels: {a: b}}", "has a selector"),
            ("name: LOG_LEVEL", "name: DATABASE_URL", "sets DATABASE_URL in container importer; remove it"),
            ("name: LOG_LEVEL", "name: STAGING_OF_SOURCES", "sets STAGING_OF_SOURCES in container importer"),
            (
                "{name: fetch, image: fetch}",
                "{name: fetch, image: fetch, env: [{name: PORTAL_JOB, value: x}]}",
                "sets PORTAL_JOB in container fetch",
            ),
        ] {
            assert!(GOOD.contains(from), "{from}");
            let problem = parse(&GOOD.replacen(from, to, 1)).unwrap_err();
            assert!(problem.contains(says), "{to}: {problem}");
        }
        let none = "apiVersion: batch/v1\nkind: Job\nspec: {template: {spec: {containers: []}}}";
        assert!(parse(none).unwrap_err().contains("has no containers"));
        assert!(parse("apiVersion: batch/v1\nkind: Job").unwrap_err().contains("has no spec"));
        assert!(parse(&format!("{GOOD}---{GOOD}")).is_err(), "two documents");
    }
}
