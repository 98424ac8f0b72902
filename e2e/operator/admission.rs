//! What cannot work is refused at `kubectl apply`, with a sentence that says why. No operator runs here: the API server decides.

use kube::api::{Patch, PatchParams};
use portal_release_operator::api::ReleaseState;
use serde_json::{Value, json};

use crate::support::{Stage, stage::release_yaml};

/// Specs of a new release that are refused, and what is said.
const NEW_RELEASES: &[(&str, &str)] = &[
    ("startAt: Scale\nstopAfter: Preflight", "phases.startAt comes after phases.stopAfter: no phase would run"),
    ("startAt: Deploy", "Unsupported value: \"Deploy\""),
    ("only: [ImportCore]\nstartAt: Preflight", "phases.only stands alone: leave out startAt, stopAfter and skip"),
    ("only: [ImportCore]\nskip: [Preflight]", "phases.only stands alone"),
    ("skip: [FinaliseSwap]", "they keep the data safe (use stopAfter to end before the swap)"),
    ("skip: [Freeze]", "phases.skip may not name AcquireLock, ReleaseLock, Freeze"),
    ("skip: [PostSwap, PostSwap]", "a phase may be named only once"),
    ("only: [ImportCore, ImportCore]", "a phase may be named only once"),
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
        ("abort: {reason: wrong}\nrollback: {to: Previous}", "give only one of them"),
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
        (r#"{"abort":{"reason":"wrong"}}"#, "give only one of them"),
    ] {
        refused_change(&stage, "good", change, sentence).await;
    }
    stage.apply(&release_yaml("latched", "Jul2026", "abort: {reason: wrong}")).await;
    refused_change(&stage, "latched", r#"{"abort":null}"#, "abort is a one-way latch: raise retry to run the release again").await;

    // What decides how a release runs may change while it stands still, and only then.
    for state in [ReleaseState::Running, ReleaseState::RollingBack, ReleaseState::Live, ReleaseState::RolledBack, ReleaseState::Superseded]
    {
        set_state(&stage, "good", state).await;
        for change in [
            r#"{"phases":{"stopAfter":"PostSwap"}}"#,
            r#"{"imports":{"only":["realms"]}}"#,
            r#"{"views":{"refresh":true}}"#,
            r#"{"staging":{"lightweight":false}}"#,
        ] {
            refused_change(&stage, "good", change, "may change only while the release stands still").await;
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
    ] {
        set_state(&stage, "good", state).await;
        let fields = format!(r#"{{"phases":{{"skip":["{skip}"]}}}}"#);
        change(&stage, "good", &fields).await.unwrap_or_else(|error| panic!("{state}: {error}"));
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
        (json!({"materializedViews": [{"name": "portal_view"}]}), "each materialized view needs either query or queryFrom, and not both"),
        (json!({"workers": [{"kind": "DaemonSet", "name": "x"}]}), "Unsupported value: \"DaemonSet\""),
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
    let good = json!({"spec": merged(csv("a/b.csv"), json!({"freeze": {"timeout": "30s"}, "database": {"schema": "portal", "lockTimeout": "1m30s"}}))});
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
    let patch = Patch::Merge(json!({"status": {"state": state}}));
    stage.releases().patch_status(name, &PatchParams::default(), &patch).await.expect("the status is taken");
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
