//! One import again into an existing staging; and from how many moments of the source the data is.

use portal_release_operator::api::{PhaseName, ReleaseState};

use sqlx::{Connection, PgConnection};

use crate::support::{Stage, until};

async fn source(stage: &Stage, label: &str) -> String {
    stage.text(&format!("SELECT manifest::jsonb -> 'source' FROM portal_release.releases WHERE label = '{label}'")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn the_manifest_says_whether_everything_is_from_one_moment() {
    let stage = Stage::new("moments").await;
    let _operator = stage.operator_alone().await;
    stage.make_release("jul2026", "Jul2026", "dryRun: true").await;
    stage.wait_state("jul2026", ReleaseState::DryRunComplete).await;
    let server = stage.text("SELECT srvname FROM pg_foreign_server").await;
    let because = format!(
        r#"["import country_statistics reads a file", "import story_map_links reads foreign table of server {server} portal_fdw.story_map_links"]"#
    );
    assert_eq!(source(&stage, "Jul2026").await, format!(r#"{{"because": {because}, "snapshot": "several"}}"#));
    let of_countries = "SELECT count(*) FROM staging_countries_protected_areas";
    let wanted = stage.text(of_countries).await;
    stage.delete_and_wait("jul2026").await;

    // Read through a view, it is still foreign.
    stage.execute("CREATE VIEW ops.links AS SELECT * FROM portal_fdw.story_map_links; ALTER VIEW ops.links OWNER TO portal_owner").await;
    stage.change_import("story_map_links", |query| query.replace("portal_fdw.story_map_links", "ops.links")).await;
    stage.make_release("aug2026", "Aug2026", "dryRun: true\nimports: {skip: [country_statistics]}").await;
    stage.wait_state("aug2026", ReleaseState::DryRunComplete).await;
    let because = format!(r#"["import story_map_links reads foreign table of server {server} portal_fdw.story_map_links"]"#);
    assert_eq!(source(&stage, "Aug2026").await, format!(r#"{{"because": {because}, "snapshot": "several"}}"#));
    stage.delete_and_wait("aug2026").await;

    // A forgotten dependsOn does no harm: what an import reads says what it waits for.
    stage
        .change_portal(|portal| {
            let imports = &mut portal.imports;
            imports.core.iter_mut().chain(&mut imports.related).for_each(|import| import.depends_on.clear());
        })
        .await;
    stage.make_release("sep2026", "Sep2026", "dryRun: true\nimports: {skip: [country_statistics, story_map_links]}").await;
    stage.wait_state("sep2026", ReleaseState::DryRunComplete).await;
    assert_eq!(source(&stage, "Sep2026").await, r#"{"snapshot": "one"}"#);
    assert_eq!(stage.text(of_countries).await, wanted);
    assert_ne!(wanted, "0");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_staged_views_are_of_one_moment_also_where_they_read_this_very_database() {
    let stage = Stage::new("moment").await;
    let _operator = stage.operator_alone().await;
    stage
        .execute(
            "CREATE TABLE ops.moment (n int); GRANT SELECT ON ops.moment TO portal_owner;
             CREATE FUNCTION ops.wait() RETURNS boolean LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_advisory_xact_lock_shared(4713); RETURN true; END $$",
        )
        .await;
    stage
        .change_portal(|portal| {
            let mut change = |name: &str, change: &dyn Fn(&str) -> String| {
                let view = portal.materialized_views.iter_mut().find(|view| view.name.as_str() == name).expect("the view");
                let query = view.query.as_mut().expect("a query in the Portal");
                query.0 = change(&query.0);
            };
            change("portal_iso3_agg", &|query| query.replace("GROUP BY", "WHERE ops.wait() GROUP BY"));
            change("portal_standard_greenlist", &|query| format!("{query} WHERE NOT EXISTS (SELECT FROM ops.moment)"));
        })
        .await;
    let mut keeper = PgConnection::connect(&stage.env["STAGE_ADMIN_DATABASE_URL"]).await.expect("a connection");
    sqlx::query("SELECT pg_advisory_lock(4713)").execute(&mut keeper).await.expect("the lock");
    stage.make_release("jul2026", "Jul2026", "phases: {stopAfter: CreateStagingViews}").await;
    until("the first view is being built", || async {
        let waits = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 4713 AND NOT granted";
        (stage.text(waits).await == "1").then_some(())
    })
    .await;
    stage.execute("INSERT INTO ops.moment VALUES (1)").await;
    keeper.close().await.expect("it continues");
    stage.wait_state("jul2026", ReleaseState::Suspended).await;
    assert_ne!(
        stage.text("SELECT count(*) FROM staging_portal_standard_greenlist").await,
        "0",
        "the last view is of the first one's moment"
    );
}

/// Everything that is staged, with the ids, but for one table.
async fn rows_but(stage: &Stage, table: &str) -> String {
    let hashes = stage
        .text(&format!(
            "SELECT string_agg(format('SELECT %L || count(*) || coalesce(md5(string_agg(t::text, '''' ORDER BY t::text)), '''') FROM %I t', relname, relname), ' UNION ALL ')
             FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'm') AND relname LIKE 'staging\\_%' AND relname <> 'staging_{table}'"
        ))
        .await;
    stage.text(&format!("SELECT string_agg(line, ' ' ORDER BY line) FROM ({hashes}) AS lines(line)")).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_import_runs_again_into_a_staging_that_stands() {
    let stage = Stage::new("again").await;
    let _operator = stage.operator_alone().await;
    stage.make_release("jul2026", "Jul2026", "dryRun: true").await;
    stage.wait_state("jul2026", ReleaseState::DryRunComplete).await;
    let (others, count) = (rows_but(&stage, "story_map_links").await, stage.text("SELECT count(*) FROM staging_story_map_links").await);

    // Its query is corrected, and nothing but this import runs again.
    stage.change_import("story_map_links", |query| query.replace("l.link_type", "'again' AS link_type")).await;
    let again = r#"{"phases": {"startAt": "ImportCore"}, "imports": {"only": ["story_map_links"]}, "retry": 1}"#;
    stage.edit("jul2026", again).await;
    let wanted = "ImportCore=2 ImportRelated=2 ValidateAndManifest=2";
    let phases = [PhaseName::ImportCore, PhaseName::ImportRelated, PhaseName::ValidateAndManifest];
    stage
        .wait("jul2026", "imported again", |status| status.phases.iter().all(|phase| !phases.contains(&phase.name) || phase.attempts == 2))
        .await;
    stage.wait_state("jul2026", ReleaseState::DryRunComplete).await;
    assert_eq!(stage.attempts("Jul2026", &phases).await, wanted);
    assert_eq!(
        stage.text("SELECT string_agg(DISTINCT link_type, ',') || ' ' || count(*) FROM staging_story_map_links").await,
        format!("again {count}")
    );
    assert_eq!(rows_but(&stage, "story_map_links").await, others, "no other row has changed, nor its id");
    assert_eq!(stage.text("SELECT string_agg(import, ',') FROM portal_release.imports WHERE attempts <> 1").await, "story_map_links");
    assert_eq!(stage.audit("Jul2026", "ImportedAgain").await, "story_map_links: their staged tables are truncated");

    // What others were made from is not replaced under them.
    stage.edit("jul2026", r#"{"imports": {"only": ["pame_evaluations"]}, "retry": 2}"#).await;
    let words = [
        "pame_evaluations cannot be imported again on its own",
        "countries_pame_evaluations was made from pame_evaluations",
        "pame_statistics was made from pame_evaluations",
        "name those imports in imports.only too",
    ];
    stage.wait("jul2026", "Failed", |status| status.state == Some(ReleaseState::Failed)).await;
    stage.wait_failed("jul2026", PhaseName::ImportCore, &words).await;
    assert_eq!(rows_but(&stage, "story_map_links").await, others, "nothing was touched");

    // All of them together may be, although foreign keys depend on them.
    let all =
        r#"{"imports": {"only": ["pame_evaluations", "countries_pame_evaluations", "pame_statistics", "global_statistics"]}, "retry": 3}"#;
    stage.edit("jul2026", all).await;
    stage.wait_state("jul2026", ReleaseState::DryRunComplete).await;
    let repeated = "SELECT string_agg(import, ',' ORDER BY import) FROM portal_release.imports WHERE attempts <> 1";
    assert_eq!(stage.text(repeated).await, "countries_pame_evaluations,global_statistics,pame_evaluations,pame_statistics,story_map_links");

    // It goes live with this staging.
    stage.edit("jul2026", r#"{"phases": null, "imports": null, "dryRun": false}"#).await;
    stage.wait_state("jul2026", ReleaseState::Live).await;
    assert_eq!(stage.audit("Jul2026", "StagingRebuilt").await, "");
    assert_eq!(stage.text("SELECT DISTINCT link_type FROM story_map_links").await, "again");
    assert_eq!(stage.live_month().await, "1");
}
