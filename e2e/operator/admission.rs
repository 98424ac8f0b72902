//! What cannot work is refused at `kubectl apply`, with a sentence that says why. No operator runs here: the API server decides.

use kube::api::{Patch, PatchParams};
use portal_release_operator::api::ReleaseState;
use serde_json::{Value, json};

use crate::support::{Stage, stage::release_yaml};

/// Specs of a new release that are refused, and what is said.
const NEW_RELEASES: &[(&str, &str)] = &[
    ("startAt: Scale\nstopAfter: Preflight", "phases.startAt comes after phases.stopAfter: no phase would run"),
    ("startAt: Deploy", "Unsupported value: \"Deploy\""),
    ("only: [ImportCore]\nstartAt: Preflight", "phases.only cannot be combined with startAt, stopAfter and skip"),
    ("only: [ImportCore]\nskip: [Preflight]", "phases.only cannot be combined"),
    ("skip: [FinaliseSwap]", "they keep the data safe (use stopAfter to end before the swap)"),
    ("skip: [Freeze]", "phases.skip may not name AcquireLock, Preflight, ValidateAndManifest"),
    ("skip: [PostSwap, PostSwap]", "spec.phases.skip[1]: Duplicate value"),
    ("only: [ImportCore, ImportCore]", "spec.phases.only[1]: Duplicate value"),
];

#[tokio::test(flavor = "multi_thread")]
async fn impossible_specs_are_refused_with_a_sentence() {
    let stage = Stage::new("admission").await;

    for (phases, sentence) in NEW_RELEASES {
        let indented: String = phases.lines().map(|line| format!("  {line}\n")).collect();
        refused(&stage, &release_yaml("new", "Jul2026", &format!("phases:\n{indented}")), sentence).await;
    }
    for (label, sentence) in [
        ("Jul/2026", "spec.label in body should match"),
        ("'x\"; DROP TABLE y --'", "spec.label in body should match"),
        ("../Jul2026", "spec.label in body should match"),
        (&"J".repeat(64), "Too long"),
        ("''", "spec.label"),
    ] {
        refused(&stage, &release_yaml("new", label, ""), sentence).await;
    }
    let without_label = release_yaml("new", "Jul2026", "").replace("  label: Jul2026\n", "");
    refused(&stage, &without_label, "spec.label: Required value").await;
    for to in ["2613991200", "2602302460", "260701120", "Yesterday", "26070112 0", "previous"] {
        let sentence = "rollback.to must be Previous or a backup timestamp YYMMDDHHMM such as 2607011200";
        refused(&stage, &release_yaml("new", "Jul2026", &format!("rollback: {{to: '{to}'}}")), sentence).await;
    }
    for (more, sentence) in [
        ("imports: {only: [sources], skip: [realms]}", "imports.only and imports.skip exclude each other"),
        ("imports: {sample: 0}", "spec.imports.sample in body should be greater than or equal to 1"),
        ("abort: {reason: wrong}\nrollback: {to: Previous}", "set only one of them"),
        ("abort: {}", "spec.abort.reason: Required value"),
        ("retention: {keepBackups: -1}", "should be greater than or equal to 0"),
        ("dryrun: true", "unknown field \"spec.dryrun\""),
    ] {
        refused(&stage, &release_yaml("new", "Jul2026", more), sentence).await;
    }
    let elsewhere = release_yaml("new", "Jul2026", "").replace("{name: protected-planet}", "{name: protected-planet, namespace: other}");
    refused(&stage, &elsewhere, "unknown field \"spec.portalRef.namespace\"").await;
    // The same yaml without its mistake is taken: the table above is not refused for another reason.
    let good = "phases: {startAt: Preflight, stopAfter: Scale, skip: [PostSwap]}\nimports: {only: [sources]}\nrollback: {to: '2602282359'}\nretry: 2";
    stage.apply(&release_yaml("good", "Jul2026", good)).await;

    // A fresh object never looks healthy, and readers of printer columns see no state.
    let fresh = stage.releases().get("good").await.expect("the release");
    assert_eq!(fresh.status.expect("a status by default").observed_generation, -1);
    let portal = stage.portals().get("protected-planet").await.expect("the Portal");
    assert_eq!(portal.status.expect("a status by default").observed_generation, -1);

    // Changes of an existing release.
    for (change, sentence) in [
        (r#"{"label":"Aug2026"}"#, "label is immutable: make a new PortalRelease for another label"),
        (r#"{"portalRef":{"name":"other"}}"#, "portalRef.name is immutable: make a new PortalRelease for another portal"),
        (r#"{"retry":1}"#, "retry can only be raised"),
        (r#"{"abort":{"reason":"wrong"}}"#, "set only one of them"),
    ] {
        refused_change(&stage, "good", change, sentence).await;
    }
    // What decides how a release runs may not change under its feet.
    for state in [ReleaseState::Running, ReleaseState::RollingBack] {
        set_state(&stage, "good", state).await;
        for change in [
            r#"{"phases":{"stopAfter":"PostSwap"}}"#,
            r#"{"imports":{"only":["realms"]}}"#,
            r#"{"views":{"refresh":true}}"#,
            r#"{"staging":{"lightweight":false}}"#,
        ] {
            let sentence =
                "phases, imports, views and staging may not change while the release is Running or RollingBack: suspend it first";
            refused_change(&stage, "good", change, sentence).await;
        }
        change(&stage, "good", r#"{"suspend":true,"retention":{"keepBackups":3},"reason":"text"}"#)
            .await
            .expect("control fields may change");
    }
    for (state, skip) in [
        (ReleaseState::Pending, "PostSwap"),
        (ReleaseState::Queued, "RefreshViews"),
        (ReleaseState::DryRunComplete, "PostSwap"),
        (ReleaseState::Suspended, "RefreshViews"),
        (ReleaseState::Failed, "PostSwap"),
        (ReleaseState::Aborted, "RefreshViews"),
        (ReleaseState::Live, "PostSwap"),
        (ReleaseState::Superseded, "RefreshViews"),
        (ReleaseState::RolledBack, "PostSwap"),
    ] {
        set_state(&stage, "good", state).await;
        let fields = format!(r#"{{"phases":{{"skip":["{skip}"]}}}}"#);
        change(&stage, "good", &fields).await.unwrap_or_else(|error| panic!("{state}: {error}"));
    }
    change(&stage, "good", r#"{"phases":null,"imports":null}"#).await.expect("a field that is not there is no obstacle either");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_abort_is_kept_until_the_release_has_ended_or_is_to_run_again() {
    let stage = Stage::new("latch").await;
    let sentence = "abort may be removed once the release has ended, or when retry is raised to run it again";
    let remove = r#"{"abort":null}"#;
    let aborted = async |name: &str, state: Option<ReleaseState>, started: bool| {
        stage.apply(&release_yaml(name, "Jul2026", "abort: {reason: wrong}")).await;
        if let Some(state) = state {
            set_state(&stage, name, state).await;
        }
        if started {
            set_status(&stage, name, json!({"startedAt": "2026-07-01T12:00:00Z"})).await;
        }
    };
    // It may not have been observed yet, be under way, or have come before the first run: without it the release would start.
    let early =
        [(None, false), (Some(ReleaseState::Running), true), (Some(ReleaseState::Suspended), true), (Some(ReleaseState::Aborted), false)];
    for (n, (state, started)) in early.into_iter().enumerate() {
        let name = format!("early-{n}");
        aborted(&name, state, started).await;
        refused_change(&stage, &name, remove, sentence).await;
        change(&stage, &name, r#"{"abort":null,"retry":1}"#).await.expect("a retry makes it run again");
    }
    // One that came too late blocks no rollback.
    aborted("late", Some(ReleaseState::Live), true).await;
    let both = "set only one of them (abort may be removed once the release has ended)";
    refused_change(&stage, "late", r#"{"rollback":{"to":"Previous"}}"#, both).await;
    change(&stage, "late", r#"{"abort":null,"rollback":{"to":"Previous"}}"#).await.expect("a live release can be rolled back");
    aborted("ended", Some(ReleaseState::Aborted), true).await;
    change(&stage, "ended", remove).await.expect("it has ended");
    aborted("retried", Some(ReleaseState::Aborted), true).await;
    change(&stage, "retried", r#"{"retry":1}"#).await.expect("raised");
    set_state(&stage, "retried", ReleaseState::Running).await;
    change(&stage, "retried", remove).await.expect("the retry has overruled it");
}

/// What a user did not write is not stored, so a later version's default reaches every object that has none of its own.
#[tokio::test(flavor = "multi_thread")]
async fn an_object_is_stored_as_it_was_written() {
    let stage = Stage::new("asitis").await;
    let written = json!({
        "portalRef": {"name": "protected-planet"}, "label": "Jul2026", "phases": {"skip": ["PostSwap"]}, "retention": {}, "dryRun": false
    });
    let release =
        json!({"apiVersion": "portalrelease.dev/v1alpha1", "kind": "PortalRelease", "metadata": {"name": "one"}, "spec": written});
    stage.apply(&release.to_string()).await;
    assert_eq!(stored(&stage, "portalrelease", "one").await["spec"], written);

    let written = json!({
        "database": {"connectionSecretRef": {"name": "portal-db", "key": "url"}},
        "tables": {"main": ["sources"]},
        "imports": {"core": [{"name": "sources", "into": "sources", "query": "SELECT 1"}]},
        "workers": [{"kind": "Deployment", "name": "one"}],
        "freeze": {"databaseRoles": ["importer"]},
        "notifications": [{"name": "slack", "slack": {"urlSecretRef": {"name": "slack", "key": "url"}}}],
    });
    let portal = json!({"apiVersion": "portalrelease.dev/v1alpha1", "kind": "Portal", "metadata": {"name": "two"}, "spec": written});
    stage.apply(&portal.to_string()).await;
    assert_eq!(stored(&stage, "portal", "two").await["spec"], written);
    // A null is nothing; and what the operator reads is whole.
    let nulls = r#"{"spec":{"freeze":null,"validation":null,"imports":{"core":[{"name":"sources","into":"sources","query":"SELECT 1","key":null}]}}}"#;
    stage.kubectl(&["patch", "portal", "two", "--type", "merge", "-p", nulls], "").await.expect("taken");
    let now = stored(&stage, "portal", "two").await;
    assert_eq!((now["spec"].get("freeze"), &now["spec"]["imports"]), (None, &written["imports"]));
    let spec = stage.portals().get("two").await.expect("the Portal").spec;
    assert_eq!((spec.database.lock_timeout.as_str(), spec.freeze.timeout.as_str(), spec.imports.parallel), ("30s", "2m", 4));
    assert!(spec.notifications.iter().all(|notification| notification.failure));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_status_of_a_newer_operator_is_taken_and_can_be_read() {
    let stage = Stage::new("newer").await;
    stage.apply(&release_yaml("one", "Jul2026", "")).await;
    let status = json!({
        "state": "AwaitingBlessing", "phase": "Bless",
        "phases": [{"name": "Bless", "state": "Blessed", "attempts": 1}, {"name": "Scale", "state": "Succeeded", "attempts": 1}],
        "frozenWorkloads": [{"kind": "DaemonSet", "name": "one", "replicas": 1}]
    });
    set_status(&stage, "one", status).await;
    assert_eq!(stored(&stage, "portalrelease", "one").await["status"]["state"], "AwaitingBlessing");
    let status = stage.status("one").await;
    assert_eq!(status.phases.iter().map(|phase| phase.name.as_str()).collect::<Vec<_>>(), ["Scale"]);
    assert_eq!((status.state, status.phase), (None, None));
    change(&stage, "one", r#"{"phases":{"skip":["PostSwap"]}}"#).await.expect("a state that the schema does not know stops nobody");
}

#[tokio::test(flavor = "multi_thread")]
async fn kubectl_shows_what_a_person_asks_for() {
    let stage = Stage::new("columns").await;
    stage.apply(&release_yaml("one", "Jul2026", "")).await;
    let status = json!({"state": "Live", "current": true, "progress": 100,
        "conditions": [{"type": "Ready", "status": "True", "reason": "Live", "message": "", "lastTransitionTime": "2026-07-01T12:00:00Z"}]});
    set_status(&stage, "one", status).await;
    let table = stage.kubectl(&["get", "prel"], "").await.expect("a table");
    let words: Vec<Vec<&str>> = table.lines().map(|line| line.split_whitespace().collect()).collect();
    assert_eq!(words[0], ["NAME", "LABEL", "STATE", "PHASE", "PROGRESS", "READY", "CURRENT", "AGE"]);
    assert_eq!(words[1][..6], ["one", "Jul2026", "Live", "100", "True", "true"], "{table}");
    let wide = stage.kubectl(&["get", "prel", "-o", "wide"], "").await.expect("a table");
    assert!(
        wide.lines().next().is_some_and(|line| line
            .split_whitespace()
            .eq(["NAME", "LABEL", "STATE", "PHASE", "PROGRESS", "READY", "CURRENT", "AGE", "MESSAGE", "BACKUP", "STARTED", "DURATION"])),
        "{wide}"
    );

    // FROZEN says what is, not what is wanted.
    stage.edit_portal(r#"{"frozen": true}"#).await;
    let frozen = async || {
        let table = stage.kubectl(&["get", "portal", "-o", "wide"], "").await.expect("a table");
        let heads: Vec<&str> = table.lines().next().unwrap_or_default().split_whitespace().collect();
        assert_eq!(heads, ["NAME", "CURRENT", "READY", "FROZEN", "BACKUPS", "AGE", "LAST-BACKUP", "BACKUP-SIZE", "MESSAGE"]);
        let at = table.find("FROZEN").expect("the column");
        table.lines().nth(1).and_then(|line| line.get(at..)).map(|rest| rest.starts_with("True")).unwrap_or_default()
    };
    assert!(!frozen().await);
    let condition = json!({"type": "WorkersFrozen", "status": "True", "reason": "EmergencyFreeze", "message": "", "lastTransitionTime": "2026-07-01T12:00:00Z"});
    let patch = Patch::Merge(json!({"status": {"conditions": [condition]}}));
    stage.portals().patch_status("protected-planet", &PatchParams::default(), &patch).await.expect("the status is taken");
    assert!(frozen().await);

    for (field, text) in [
        ("portalrelease.spec.phases.startAt", "First phase to run"),
        ("portal.spec.freeze.before", "The phase just before which the workers are stopped"),
        ("portal.spec.database.lockTimeout", "Default: `30s`."),
        ("portal.spec.database.onLockTimeout", "Default: `Suspend`."),
    ] {
        let explained = stage.kubectl(&["explain", field], "").await.expect("an explanation");
        let words = explained.split_whitespace().collect::<Vec<_>>().join(" ");
        assert!(words.contains(text), "{field}: {explained}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn impossible_portals_are_refused_with_a_sentence() {
    let stage = Stage::new("portals").await;
    let import = |change: Value| {
        let mut import = json!({"name": "one", "into": "sources", "query": "SELECT 1"});
        merge(&mut import, change);
        json!({"imports": {"core": [import], "related": []}})
    };
    let csv = |path: &str| import(json!({"query": null, "csv": {"objectStoreRef": "data", "path": path}}));
    let file = |file: Value| import(json!({"query": null, "csv": file}));
    let tables =
        |independent: Value, main: Value| json!({"tables": {"independent": independent, "main": main, "junction": [], "lookup": []}});
    for (change, sentence) in [
        (tables(json!([]), json!([])), "tables must name at least one table to release"),
        (tables(json!(["sources"]), json!(["sources"])), "a table may be named only once in tables"),
        (tables(json!(["staging_sources"]), json!([])), "tables names live tables; staging_* and bkYYMMDDHHMM_* are made by the operator"),
        (tables(json!(["bk2607011200_sources"]), json!([])), "tables names live tables"),
        (tables(json!(["x\"; DROP TABLE y --"]), json!([])), "should match '^[a-z_][a-z0-9_]{0,62}$'"),
        (tables(json!(["Sources"]), json!([])), "should match '^[a-z_][a-z0-9_]{0,62}$'"),
        (tables(json!(["a".repeat(64)]), json!([])), "Too long"),
        (json!({"database": {"schema": "pg_catalog"}}), "database.schema must be the portal's own schema"),
        (json!({"database": {"schema": "portal_release"}}), "database.schema must be the portal's own schema"),
        (json!({"database": {"schema": "public\"; DROP SCHEMA public --"}}), "spec.database.schema in body should match"),
        (json!({"database": {"schema": "portal"}}), "database.schema is immutable: make a new Portal for another schema"),
        (json!({"database": {"lockTimeout": "soon"}}), "spec.database.lockTimeout in body should match"),
        (json!({"database": {"lockTimeout": "0s"}}), "database.lockTimeout must be more than 0s and at most 1h"),
        (json!({"database": {"statementTimeout": "25h"}}), "database.statementTimeout must be more than 0s and at most 24h"),
        (json!({"freeze": {"timeout": "0ms"}}), "freeze.timeout must be more than 0s and at most 24h"),
        (json!({"freeze": {"before": "Scale"}}), "Unsupported value: \"Scale\""),
        (
            import(json!({"csv": {"objectStoreRef": "data", "path": "x.csv"}})),
            "an import needs exactly one of query, queryFrom, csv and job",
        ),
        (import(json!({"query": null})), "an import needs exactly one of query, queryFrom, csv and job"),
        (import(json!({"query": " "})), "query in body should match"),
        (import(json!({"into": "y; DROP TABLE y"})), "into in body should match"),
        (
            import(json!({"query": null, "key": "id", "csv": {"objectStoreRef": "data", "path": "x.csv"}})),
            "a csv import and a job are one unit",
        ),
        (csv("../secrets.csv"), "csv.path must be relative to the object store and must not contain '..'"),
        (csv("a/../../b.csv"), "must not contain '..'"),
        (csv("/etc/passwd"), "csv.path must be relative"),
        (file(json!({})), "csv needs exactly one of objectStoreRef (with path), url and configMapKeyRef"),
        (file(json!({"url": "http://x/a.csv", "configMapKeyRef": {"name": "c", "key": "k"}})), "csv needs exactly one of"),
        (file(json!({"objectStoreRef": "data"})), "csv.objectStoreRef and csv.path go together"),
        (file(json!({"url": "http://x/a.csv", "path": "a.csv"})), "csv.objectStoreRef and csv.path go together"),
        (file(json!({"url": "file:///etc/passwd"})), "csv.url must begin with http:// or https://"),
        (file(json!({"url": "http://user:word@x/a.csv"})), "a secret goes into csv.requestHeader"),
        (
            file(
                json!({"configMapKeyRef": {"name": "c", "key": "k"}, "requestHeader": {"name": "A", "valueSecretRef": {"name": "s", "key": "k"}}}),
            ),
            "csv.requestHeader goes with csv.url",
        ),
        (file(json!({"url": "http://x/a", "delimiter": "\""})), "delimiter in body should match"),
        (file(json!({"url": "http://x/a", "delimiter": ";", "nullString": "N;A"})), "csv.nullString must not contain the delimiter"),
        (file(json!({"url": "http://x/a", "nullString": "\n"})), "nullString in body should match"),
        (file(json!({"url": "http://x/a", "encoding": "UTF8'; DROP"})), "encoding in body should match"),
        (file(json!({"url": "http://x/a", "compression": "Zip"})), "Unsupported value: \"Zip\""),
        (file(json!({"url": "http://x/a", "columns": {"A": "a", "B": "a"}})), "must not put two columns of the file into one column"),
        (file(json!({"url": "http://x/a", "columns": {"A": "a; DROP"}})), "should match"),
        (import(json!({"dependsOn": ["one"]})), "an import cannot depend on itself"),
        (
            json!({"objectStores": [{"name": "data", "url": "file:///etc", "secretRef": {"name": "s"}}]}),
            "must look like s3://bucket/prefix",
        ),
        (
            json!({"objectStores": [{"name": "data", "url": "s3://data/../other", "secretRef": {"name": "s"}}]}),
            "must look like s3://bucket/prefix",
        ),
        (json!({"postSwap": [{"name": "h", "http": {"url": "file:///etc/passwd"}}]}), "http.url must begin with http:// or https://"),
        (
            json!({"postSwap": [{"name": "h", "http": {"url": "http://x/", "timeout": "0s"}}]}),
            "http.timeout must be more than 0s and at most 1h",
        ),
        (
            json!({"gates": [{"name": "g", "phase": "Preflight", "http": {"url": "http://x/", "timeout": "61m"}}]}),
            "http.timeout must be more than 0s and at most 1h",
        ),
        (
            json!({"gates": [{"name": "g", "phase": "Preflight", "backup": {"maxAge": "0h", "sql": "SELECT now()"}}]}),
            "backup.maxAge must be more than 0s",
        ),
        (json!({"materializedViews": [{"name": "portal_view"}]}), "each materialized view needs either query or queryFrom, and not both"),
        (json!({"workers": [{"kind": "DaemonSet", "name": "x"}]}), "Unsupported value: \"DaemonSet\""),
        (json!({"workers": [{"kind": "Deployment", "name": "x"}, {"kind": "Deployment", "name": "x"}]}), "Duplicate value"),
        (json!({"tables": {"main": ["sources", "sources"]}}), "spec.tables.main[1]: Duplicate value"),
        (json!({"tables": {"lookup": ["sources"], "main": ["sources"]}}), "a table may be named only once in tables"),
        (json!({"tables": {"main": null, "independent": null, "junction": null}}), "tables must name at least one table to release"),
        (json!({"database": {"lockKey": 9_007_199_254_740_992_i64}}), "should be less than or equal to 9007199254740991"),
        (json!({"staging": {"maintenanceWorkMem": "512kB"}}), "maintenanceWorkMem in body should match"),
        (json!({"workers": [{"kind": "Deployment", "name": "../x"}]}), "name in body should match"),
        (json!({"validation": {"maxShrink": {"sources": "lots"}}}), "spec.validation.maxShrink.sources in body should match"),
        (json!({"defaults": {"keepBackups": -1}}), "should be greater than or equal to 0"),
        (json!({"tables": null}), "spec.tables: Required value"),
    ] {
        let patch = json!({ "spec": change }).to_string();
        match stage.kubectl(&["patch", "portal", "protected-planet", "--type", "merge", "-p", &patch], "").await {
            Err(error) => assert!(error.contains(sentence), "{patch}: expected '{sentence}', and it says: {error}"),
            Ok(_) => panic!("taken: {patch}"),
        }
    }
    // The same changes without their mistakes are taken.
    let good = json!({"spec": merged(csv("a/b.csv"), json!({"freeze": {"timeout": "30s"}, "database": {"schema": "public", "lockTimeout": "1m30s"}}))});
    stage.kubectl(&["patch", "portal", "protected-planet", "--type", "merge", "-p", &good.to_string()], "").await.expect("taken");
    for good in [
        json!({"url": "https://example.org/x_{{ release.label }}.csv.gz?a=b", "delimiter": "\t", "nullString": "NA", "encoding": "WIN1252",
            "compression": "Gzip", "columns": {"Area (km²)": "area", "ISO 3": "iso_3"},
            "requestHeader": {"name": "Authorization", "valueSecretRef": {"name": "s", "key": "k"}}}),
        json!({"configMapKeyRef": {"name": "c", "key": "k.csv"}}),
    ] {
        let patch = json!({"spec": file(good)}).to_string();
        stage.kubectl(&["patch", "portal", "protected-planet", "--type", "merge", "-p", &patch], "").await.expect("taken");
    }
}

async fn refused(stage: &Stage, yaml: &str, sentence: &str) {
    match stage.kubectl(&["apply", "-f", "-"], yaml).await {
        Err(error) => assert!(error.contains(sentence), "expected '{sentence}', and it says: {error}\n{yaml}"),
        Ok(_) => panic!("taken:\n{yaml}"),
    }
}

async fn change(stage: &Stage, name: &str, spec: &str) -> Result<String, String> {
    stage.kubectl(&["patch", "portalrelease", name, "--type", "merge", "-p", &format!("{{\"spec\":{spec}}}")], "").await
}

async fn refused_change(stage: &Stage, name: &str, spec: &str, sentence: &str) {
    match change(stage, name, spec).await {
        Err(error) => assert!(error.contains(sentence), "{spec}: expected '{sentence}', and it says: {error}"),
        Ok(_) => panic!("taken: {spec}"),
    }
}

/// Plays the operator.
async fn set_state(stage: &Stage, name: &str, state: ReleaseState) {
    set_status(stage, name, json!({"state": state})).await;
}

async fn set_status(stage: &Stage, name: &str, status: Value) {
    let patch = Patch::Merge(json!({"status": status}));
    stage.releases().patch_status(name, &PatchParams::default(), &patch).await.expect("the status is taken");
}

/// The object as the API server has it.
async fn stored(stage: &Stage, kind: &str, name: &str) -> Value {
    let text = stage.kubectl(&["get", kind, name, "-o", "json"], "").await.expect("the object");
    serde_json::from_str(&text).expect("JSON")
}

fn merged(mut one: Value, other: Value) -> Value {
    merge(&mut one, other);
    one
}

fn merge(into: &mut Value, from: Value) {
    if let (Some(into), Value::Object(from)) = (into.as_object_mut(), from) {
        for (key, value) in from {
            if value.is_null() {
                into.remove(&key)
            } else {
                into.insert(key, value)
            };
        }
    }
}
