//! The first query after a swap is as fast as the last one before it: the visibility map and the statistics come along.

use std::collections::BTreeMap;

use portal_release_operator::database::identifiers::Generation;
use portal_release_operator::database::staging;
use serde_json::Value;

use crate::harness::{Portal, with_portal};

fn backup(stamp: &str) -> Generation {
    Generation::Backup(stamp.parse().unwrap())
}

/// An index-only scan, a join over all tables, an aggregate over a materialized view, and one through views.
const QUERIES: [&str; 4] = [
    "SELECT site_id, name FROM protected_areas WHERE site_id BETWEEN 4000 AND 4400 ORDER BY site_id",
    "SELECT count(*), min(s.title) FROM protected_areas a JOIN countries_pas j ON j.protected_area_id = a.id
     JOIN sources s ON s.id = j.source_id WHERE a.site_id < 300",
    "SELECT release, sum(areas) FROM area_totals GROUP BY release",
    "SELECT count(*) FROM report_of_reports r JOIN area_names n ON n.release = r.release WHERE n.name LIKE 'it%'",
];

#[test]
fn plans_and_buffers_are_the_same_before_and_after_a_swap() {
    with_portal(async |portal| {
        // The first swap only puts a release in place that was built like the next one.
        release(&portal, "2607011200").await;
        stage(&portal).await;
        let before = plans(&portal).await;
        portal.exchange(&Generation::Staging, &backup("2607011201")).await;
        let after = plans(&portal).await;
        for (query, plan) in &before {
            assert_eq!(after.get(query), Some(plan), "{query}");
        }
        let scan = &after[QUERIES[0]];
        assert!(scan.shape.contains("Index Only Scan protected_areas_site"), "{scan:?}");
        assert_eq!(scan.heap_fetches, 0, "{scan:?}");
    });
}

async fn release(portal: &Portal, stamp: &str) {
    stage(portal).await;
    portal.exchange(&Generation::Staging, &backup(stamp)).await;
    let mut conn = portal.pool.acquire().await.unwrap();
    staging::drop_all(&mut conn, &portal.relations).await.unwrap();
}

/// 10,000 rows that are the same in every release, and what the operator does before a swap: VACUUM (FREEZE, ANALYZE).
async fn stage(portal: &Portal) {
    portal
        .stage_with(async || {
            portal.fill(&Generation::Staging, "same").await;
            portal
                .run(
                    "INSERT INTO staging_protected_areas (site_id, release, area) SELECT n, 'same', n FROM generate_series(51, 10000) n;
                     INSERT INTO staging_countries_pas SELECT 2, id, (SELECT min(id) FROM staging_sources) FROM staging_protected_areas",
                )
                .await;
        })
        .await;
    portal.vacuum().await;
}

/// What a query does, without what it is estimated to cost and how long it takes.
#[derive(Debug, PartialEq)]
struct Plan {
    shape: String,
    buffers: i64,
    heap_fetches: i64,
}

/// Each on a connection of its own, as a client would come: the second answer, for the first also reads the catalogue.
async fn plans(portal: &Portal) -> BTreeMap<&'static str, Plan> {
    let mut plans = BTreeMap::new();
    for query in QUERIES {
        let explain = format!("EXPLAIN (ANALYZE, BUFFERS, COSTS OFF, TIMING OFF, SUMMARY OFF, FORMAT JSON) {query}");
        portal.get::<Value>(&explain).await;
        let answer: Value = portal.get(&explain).await;
        let root = &answer[0]["Plan"];
        let number = |node: &Value, key: &str| node[key].as_i64().unwrap_or(0);
        let mut nodes = Vec::new();
        flatten(root, 0, &mut nodes);
        plans.insert(
            query,
            Plan {
                shape: nodes.iter().map(|(depth, node)| line(*depth, node)).collect::<Vec<_>>().join("\n"),
                buffers: number(root, "Shared Hit Blocks") + number(root, "Shared Read Blocks"),
                heap_fetches: nodes.iter().map(|(_, node)| number(node, "Heap Fetches")).sum(),
            },
        );
    }
    plans
}

fn flatten<'a>(node: &'a Value, depth: usize, nodes: &mut Vec<(usize, &'a Value)>) {
    nodes.push((depth, node));
    for child in node["Plans"].as_array().into_iter().flatten() {
        flatten(child, depth + 1, nodes);
    }
}

fn line(depth: usize, node: &Value) -> String {
    let words = ["Node Type", "Index Name", "Relation Name", "Join Type", "Strategy"].map(|key| node[key].as_str().unwrap_or_default());
    format!("{}{}", "  ".repeat(depth), words.join(" "))
}
