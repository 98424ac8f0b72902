//! Back to an older version: the ledger's changes are additive (`migrations/README.md`), so an older operator goes on with it.

use std::collections::BTreeMap;

use crate::{
    at_rest::{goes_live_from_a_dry_run, knows_what_is_live},
    crossing::{Crossing, Undisturbed, each, turn},
    mid_run::{aborts, goes_live, keeps_its_job, rolls_back, thaws, tidies_up},
    support::{Stage, until},
};

/// Every column and function of the ledger's schema, and what it is. A column that an insert need not name has a star.
const LEDGER: &str = "
    SELECT format('column %s.%s', table_name, column_name),
           data_type || CASE WHEN is_nullable = 'YES' OR column_default IS NOT NULL OR is_identity = 'YES' THEN '*' ELSE '' END
    FROM information_schema.columns WHERE table_schema = 'portal_release'
    UNION ALL
    SELECT format('function %s', oid::regprocedure), pg_get_function_result(oid) FROM pg_proc WHERE pronamespace = 'portal_release'::regnamespace";

/// The ledger as an operator has migrated it.
async fn ledger(stage: &Stage) -> BTreeMap<String, String> {
    until("the Portal is Ready", || async {
        let status = stage.portals().get("protected-planet").await.ok()?.status?;
        status.conditions.iter().any(|condition| condition.type_ == "Ready" && condition.status == "True").then_some(())
    })
    .await;
    let rows: Vec<(String, String)> = sqlx::query_as(LEDGER).fetch_all(&stage.database).await.expect("the catalogue");
    rows.into_iter().collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_the_last_version_reads_and_writes_in_the_ledger_is_still_there() {
    let _turn = turn().await;
    let crossing = Crossing::upgrades().pop().expect("a released version");
    let stage = Stage::new("additive").await;
    let operator = crossing.depart(&stage).await;
    let before = ledger(&stage).await;
    assert!(before.len() > 90, "{before:?}");
    operator.kill().await;

    let operator = crossing.arrive(&stage).await;
    let migrated = "SELECT count(*) FROM portal_release._sqlx_migrations WHERE success";
    let files = std::fs::read_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/migrations")).expect("the migrations");
    let files = files.filter(|file| file.as_ref().is_ok_and(|file| file.path().extension().is_some_and(|kind| kind == "sql"))).count();
    until("the ledger is migrated", || async { (stage.text(migrated).await == files.to_string()).then_some(()) }).await;
    let after = ledger(&stage).await;
    for (name, was) in &before {
        let now = after.get(name).map_or("gone", String::as_str);
        assert!(now == was || now.strip_suffix('*') == Some(was), "{name} was {was} and is {now}: the version before this one needs it");
    }
    for (name, now) in after.iter().filter(|(name, _)| !before.contains_key(*name)) {
        let table = name.split('.').next().unwrap_or_default();
        let known = before.keys().any(|old| old.starts_with(&format!("{table}.")));
        let may_be_left_out = name.starts_with("function") || now.ends_with('*');
        assert!(!known || may_be_left_out, "{name} ({now}) has no default: the version before this one cannot insert into its table");
    }
    drop(operator);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_version_goes_on_with_a_release_that_this_one_began() {
    Undisturbed::get().await;
    each(Crossing::downgrades(), &["ImportRelated:end", "Freeze:end"], goes_live).await;
    each(Crossing::downgrades(), &["a Job"], keeps_its_job).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_version_ends_the_rollbacks_and_aborts_of_this_one() {
    each(Crossing::downgrades(), &["Scale:begin"], rolls_back).await;
    each(Crossing::downgrades(), &["Freeze:undo"], aborts).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_version_brings_back_workers_that_this_one_stopped() {
    each(Crossing::downgrades(), &["frozen: true"], thaws).await;
    each(Crossing::downgrades(), &["Freeze:end"], tidies_up).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_older_version_understands_releases_that_this_one_left() {
    each(Crossing::downgrades(), &["finished"], knows_what_is_live).await;
    each(Crossing::downgrades(), &["a dry run"], goes_live_from_a_dry_run).await;
}
