//! One of each kind of object that depends on the swapped tables, carried over by a swap, a rollback and a roll forward.

use portal_release_operator::database::catalog;
use portal_release_operator::database::identifiers::Generation;
use sqlx::postgres::types::Oid;

use crate::harness::{Portal, same, with_portal};

fn backup() -> Generation {
    Generation::Backup("2607011200".parse().unwrap())
}

#[test]
fn one_of_everything_is_carried_over_and_back_and_forth() {
    with_portal(async |portal| {
        let before = portal.catalogue().await;
        let mut seen: Vec<Vec<(String, Oid)>> = vec![portal.oids().await];
        check(&portal, "first").await;
        portal.stage("second").await;
        let rounds = [
            (Generation::Staging, backup(), "second"),
            (backup(), Generation::Staging, "first"),
            (Generation::Staging, backup(), "second"),
            (backup(), Generation::Staging, "first"),
        ];
        for (incoming, outgoing, release) in rounds {
            let mut conn = portal.pool.acquire().await.unwrap();
            let differences = catalog::diff(&mut conn, &portal.relations, &incoming).await.unwrap();
            assert_eq!(differences.iter().map(ToString::to_string).collect::<Vec<_>>(), Vec::<String>::new());
            portal.exchange(&incoming, &outgoing).await;
            same(&before, &portal.catalogue().await);
            check(&portal, release).await;
            seen.push(portal.oids().await);
        }
        assert_eq!(seen[0], seen[2]);
        assert_eq!(seen[1], seen[3]);
        assert_eq!(seen[2], seen[4]);
        let common = seen[0].iter().filter(|it| seen[1].contains(it)).count();
        assert!(common > 10 && common < seen[0].len(), "{common} relations have kept their identity");
    });
}

/// Everything reads and writes what is live now.
async fn check(portal: &Portal, release: &str) {
    let answers = [
        ("SELECT min(label(s)) FROM sources s", "source 1!"),
        ("SELECT DISTINCT release FROM largest()", release),
        ("SELECT largest_count()::text", "3"),
        ("SELECT area_count()::text", "50"),
        ("SELECT areas::text FROM counted", "50"),
        ("SELECT titled()", "no title"),
        ("SELECT string_agg(DISTINCT (w.s).release, ',') FROM whole w", release),
        ("SELECT min(label) FROM whole_labels", "source 1!"),
        ("SELECT of_whole(w) FROM whole w ORDER BY 1 LIMIT 1", "source 1"),
        ("SELECT (sources = 'sources'::regclass AND ids = 'sources_id_seq'::regclass)::text FROM places", "true"),
        ("SELECT string_agg(prrelid::regclass::text, ' ' ORDER BY prrelid::regclass::text) FROM pg_publication_rel", "countries countries_pas sources"),
        // A dependency of anything but a backup's own parts on a backup would not survive its retention.
        ("SELECT count(*)::text FROM pg_depend d JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
          WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid::regclass::text ~ '^(bk|staging_)' AND w.ev_class::regclass::text !~ '^(bk|staging_)'", "0"),
        ("SELECT count(*)::text FROM pg_proc WHERE oid::regprocedure::text ~ 'bk26|staging_' OR prorettype::regtype::text ~ 'bk26|staging_'", "0"),
    ];
    for (query, expected) in answers {
        assert_eq!(portal.get::<String>(query).await, expected, "{query}");
    }
    let writes = [
        ("DELETE FROM sources WHERE title = 'source 1'", "SELECT what FROM history", "gone: source 1"),
        ("DELETE FROM sources WHERE title = 'source 1'", "SELECT count(*)::text FROM countries_pas", "0"),
        ("UPDATE countries_pas SET country_id = country_id + 1", "SELECT min(country_id)::text FROM countries_pas", "2"),
        (
            "INSERT INTO comments (area_id) SELECT min(id) FROM protected_areas; DELETE FROM comments",
            "SELECT notes FROM protected_areas WHERE notes IS NOT NULL",
            "silenced",
        ),
        ("INSERT INTO comments DEFAULT VALUES", "SELECT areas::text FROM comments", "50"),
        (
            "INSERT INTO report (title, release) VALUES ('through a view', 'by hand')",
            "SELECT release FROM sources WHERE title = 'through a view'",
            "by hand",
        ),
        ("INSERT INTO whole (s) VALUES (NULL)", "SELECT title FROM sources WHERE release = 'by a rule'", "by default"),
        (
            "UPDATE area_labels SET name = 'renamed' WHERE id = (SELECT min(id) FROM area_labels)",
            "SELECT name FROM protected_areas WHERE name = 'renamed'",
            "renamed",
        ),
    ];
    for (write, query, expected) in writes {
        let mut tx = portal.pool.begin().await.unwrap();
        sqlx::raw_sql(write).execute(&mut *tx).await.unwrap_or_else(|error| panic!("{write}: {error}"));
        let found: Option<String> = sqlx::query_scalar(query).fetch_optional(&mut *tx).await.unwrap();
        assert_eq!(found.as_deref(), Some(expected), "{write}");
        tx.rollback().await.unwrap();
    }
}
