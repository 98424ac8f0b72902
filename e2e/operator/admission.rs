//! Impossible wishes are refused at `kubectl apply`, with a sentence that says why.

use crate::support::{Stage, stage::release_yaml};

/// What a user writes into a new release's spec, and what apply answers.
const RELEASES: &[(&str, &str, &str)] = &[
    ("a label with a slash", "label: Jul/2026", "spec.label"),
    ("no label", "", "spec.label: Required value"),
    ("an unknown phase", "label: Jul2026\nphases: {startAt: Swap}", "Unsupported value: \"Swap\""),
    ("startAt after stopAfter", "label: Jul2026\nphases: {startAt: FinaliseSwap, stopAfter: Preflight}", "no phase would run"),
    ("only with startAt", "label: Jul2026\nphases: {startAt: Preflight, only: [Preflight]}", "phases.only stands alone"),
    ("a phase twice", "label: Jul2026\nphases: {only: [Preflight, Preflight]}", "a phase may be named only once"),
    ("skipping the freeze", "label: Jul2026\nphases: {skip: [Freeze]}", "they keep the data safe"),
    ("imports.only with skip", "label: Jul2026\nimports: {only: [a], skip: [b]}", "exclude each other"),
    ("a sample of nothing", "label: Jul2026\nimports: {sample: 0}", "imports.sample"),
    ("a backup timestamp that is none", "label: Jul2026\nrollback: {to: \"2613991200\"}", "YYMMDDHHMM"),
    ("a rollback to nowhere", "label: Jul2026\nrollback: {to: yesterday}", "YYMMDDHHMM"),
    ("abort and rollback", "label: Jul2026\nabort: {reason: x}\nrollback: {to: Previous}", "give only one of them"),
    ("keeping fewer backups than none", "label: Jul2026\nretention: {keepBackups: -1}", "keepBackups"),
    ("a field of a later version", "label: Jul2026\ndeploy: []", "unknown field \"spec.deploy\""),
    ("a portal in another namespace", "label: Jul2026\nportalRef: {name: p, namespace: other}", "unknown field"),
];

/// What a user edits in a release that is there, and what apply answers.
const EDITS: &[(&str, &str, &str)] = &[
    ("another label", "{\"label\":\"Aug2026\"}", "label is immutable"),
    ("another portal", "{\"portalRef\":{\"name\":\"other\"}}", "portalRef.name is immutable"),
    ("retry lowered", "{\"retry\":1}", "retry can only be raised"),
    ("abort taken back", "{\"abort\":null}", "abort is a one-way latch"),
];

/// What a platform team may get wrong in a Portal: a JSON patch of the sample, and what apply answers.
const PORTALS: &[(&str, &str, &str)] = &[
    ("no tables", r#"{"tables":{"independent":[],"main":[],"junction":[]}}"#, "at least one table"),
    ("a table twice", r#"{"tables":{"independent":["sources"],"main":["sources"]}}"#, "only once in tables"),
    ("a staging table", r#"{"tables":{"main":["staging_areas"]}}"#, "made by the operator"),
    ("a backup", r#"{"tables":{"main":["bk2607011200_areas"]}}"#, "made by the operator"),
    ("SQL for a name", r#"{"tables":{"main":["x\"; DROP TABLE y --"]}}"#, "spec.tables.main"),
    ("a look-alike name", r#"{"tables":{"main":["prоtected"]}}"#, "spec.tables.main"),
    ("the system's schema", r#"{"database":{"schema":"pg_catalog"}}"#, "not a system schema"),
    ("the ledger's schema", r#"{"database":{"schema":"portal_release"}}"#, "not a system schema"),
    ("a bad duration", r#"{"database":{"lockTimeout":"soon"}}"#, "lockTimeout"),
    ("no patience at all", r#"{"database":{"lockTimeout":"0s"}}"#, "more than 0s"),
    (
        "a query and a csv",
        r#"{"imports":{"core":[{"name":"a","into":"sources","query":"SELECT 1","csv":{"objectStoreRef":"data","path":"x.csv"}}]}}"#,
        "exactly one of query",
    ),
    ("neither", r#"{"imports":{"core":[{"name":"a","into":"sources"}]}}"#, "exactly one of query"),
    (
        "a path out of the store",
        r#"{"imports":{"core":[{"name":"a","into":"sources","csv":{"objectStoreRef":"data","path":"../x.csv"}}]}}"#,
        "must not contain '..'",
    ),
    ("a share of more than all", r#"{"validation":{"maxShrink":{"sources":"200%"}}}"#, "maxShrink"),
    ("a hook to a file", r#"{"postSwap":[{"name":"a","http":{"url":"file:///etc/passwd"}}]}"#, "http:// or https://"),
    ("an unknown kind of worker", r#"{"workers":[{"kind":"DaemonSet","name":"a"}]}"#, "Unsupported value"),
];

#[tokio::test(flavor = "multi_thread")]
async fn impossible_wishes_are_refused_with_a_reason() {
    let stage = Stage::new("admission").await;
    let mut wrong = Vec::new();
    let mut expect = |what: &str, answer: Result<String, String>, sentence: &str| match answer {
        Ok(_) => wrong.push(format!("{what}: was taken")),
        Err(error) if !error.contains(sentence) => wrong.push(format!("{what}: expected '{sentence}' in: {error}")),
        Err(_) => {}
    };

    for (what, spec, sentence) in RELEASES {
        let portal = if spec.contains("portalRef") { "" } else { "  portalRef: {name: protected-planet}\n" };
        let lines: String = spec.lines().map(|line| format!("  {line}\n")).collect();
        let yaml =
            format!("apiVersion: portalrelease.dev/v1alpha1\nkind: PortalRelease\nmetadata: {{name: impossible}}\nspec:\n{portal}{lines}");
        expect(what, stage.kubectl(&["apply", "-f", "-"], &yaml).await, sentence);
    }

    stage.apply(&release_yaml("jul2026", "Jul2026", "retry: 2\nabort: {reason: not now}")).await;
    let unseen = stage.status("jul2026").await;
    assert_eq!(unseen.observed_generation, -1, "an object that no operator has seen is not taken for a healthy one");
    assert!(unseen.conditions.is_empty());
    for (what, spec, sentence) in EDITS {
        let patch = format!("{{\"spec\":{spec}}}");
        expect(what, stage.kubectl(&["patch", "portalrelease", "jul2026", "--type", "merge", "-p", &patch], "").await, sentence);
    }

    for (what, spec, sentence) in PORTALS {
        let patch = format!("{{\"spec\":{spec}}}");
        expect(what, stage.kubectl(&["patch", "portal", "protected-planet", "--type", "merge", "-p", &patch], "").await, sentence);
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
