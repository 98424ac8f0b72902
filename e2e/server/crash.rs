//! The backend of the swap is killed with SIGKILL while it is in COMMIT, and the server recovers from its WAL. What committed is there
//! as a whole, in the catalogue and in the ledger; what did not has left nothing.

use portal_release_operator::database::commit;

use crate::portal::{KEY, Portal, backup, until};
use crate::server::Server;

/// Where COMMIT hangs.
#[derive(Clone, Copy)]
enum Hangs {
    /// After it is on the disk: it waits for a synchronous standby that does not exist.
    Committed,
    /// Before: a deferred trigger sleeps.
    Undone,
}

const HANG: &str = "CREATE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS";
const ON: &str = "FOR EACH ROW WHEN (OLD.current_release IS DISTINCT FROM NEW.current_release) EXECUTE FUNCTION hang()";

impl Hangs {
    /// Lets the next swap hang in COMMIT; returns what its backend waits for then.
    async fn arm(self, portal: &Portal) -> &'static str {
        let (sql, event) = match self {
            Self::Committed => (
                format!(
                    "{HANG} $$ BEGIN PERFORM set_config('synchronous_commit', 'on', true); RETURN NULL; END $$;
                     CREATE TRIGGER hang AFTER UPDATE ON portal_release.portals {ON}"
                ),
                "SyncRep",
            ),
            Self::Undone => (
                format!(
                    "{HANG} $$ BEGIN PERFORM pg_sleep(3600); RETURN NULL; END $$;
                     CREATE CONSTRAINT TRIGGER hang AFTER UPDATE ON portal_release.portals DEFERRABLE INITIALLY DEFERRED {ON}"
                ),
                "PgSleep",
            ),
        };
        portal.run(&sql).await;
        event
    }
}

/// The ledger says what is live and which backups there are; the catalogue must say the same, by name and identity.
async fn assert_ledger_and_catalogue_agree(portal: &Portal, live: &str, backups: &str) {
    assert_eq!(portal.live().await, live);
    let current =
        "SELECT coalesce(max(label), 'first') FROM portal_release.portals p JOIN portal_release.releases r ON r.id = p.current_release";
    assert_eq!(portal.text(current).await, live, "what the ledger says is live");
    let recorded = "SELECT string_agg(format('%s %s', backup_name, relation_oid), ' ' ORDER BY backup_name)
                    FROM portal_release.backups WHERE gone_at IS NULL AND kind <> 'constraint'";
    let there = "SELECT string_agg(format('%s %s', relname, oid), ' ' ORDER BY relname) FROM pg_class
                 WHERE relnamespace = 'public'::regnamespace AND relname LIKE 'bk%' AND relkind IN ('r', 'm', 'i', 'S')";
    assert_eq!(portal.text(recorded).await, portal.text(there).await, "backups by name and OID");
    let stamps = "SELECT string_agg(DISTINCT backup, ' ') FROM portal_release.backups WHERE gone_at IS NULL";
    assert_eq!(portal.text(stamps).await, backups);
    let tables = "SELECT count(*) FROM portal_release.live_tables l WHERE relation_oid <> coalesce(to_regclass('public.' || name)::oid, 0)";
    assert_eq!(portal.text(tables).await, "0", "live tables that the ledger knows under another OID");
    let swaps = "SELECT count(*) FROM portal_release.release_events WHERE event = 'Swapped'";
    assert_eq!(portal.text(swaps).await, if backups.is_empty() { "0" } else { "1" });
    let staged =
        "SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relname LIKE 'staging%' AND relkind IN ('r', 'm')";
    assert_eq!(portal.text(staged).await, if backups.is_empty() { "3" } else { "0" });
}

/// The connection was lost while the server worked, or the server says so (class 57P): only the ledger knows what became of COMMIT.
fn outcome_is_unknown(error: &sqlx::Error) -> bool {
    error.as_database_error().is_none_or(|error| error.code().is_some_and(|code| code.starts_with("57P")))
}

async fn crashed_in_commit(hangs: Hangs) {
    let server = Server::start(&["synchronous_standby_names=ghost", "synchronous_commit=local"]).await;
    let portal = Portal::create(&server, "pg_default").await;
    let release = portal.stage("second").await;
    let event = hangs.arm(&portal).await;
    let outgoing = backup("2608011200");
    assert_ledger_and_catalogue_agree(&portal, "first", "").await;

    let mut tx = portal.exchange(release, &outgoing).await.unwrap();
    let pid: i32 = sqlx::query_scalar("SELECT pg_backend_pid()").fetch_one(&mut *tx).await.unwrap();
    let commit = tokio::spawn(commit(tx));
    let waits = format!("SELECT count(*) FROM pg_stat_activity WHERE pid = {pid} AND query = 'COMMIT' AND wait_event = '{event}'");
    until("COMMIT hangs", async || portal.text(&waits).await == "1").await;
    server.crash_backend(pid);
    let error = commit.await.unwrap().unwrap_err();
    assert!(outcome_is_unknown(&error), "{error}");
    until("recovery", async || server.answers().await).await;
    assert!(server.log().contains("database system was not properly shut down"), "{}", server.log());

    let (live, backups) = match hangs {
        Hangs::Committed => ("second", "2608011200"),
        Hangs::Undone => ("first", ""),
    };
    assert_ledger_and_catalogue_agree(&portal, live, backups).await;

    portal.run("CREATE OR REPLACE FUNCTION hang() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$").await;
    let before = portal.text("SELECT string_agg(format('%s %s', relname, oid), ' ' ORDER BY oid) FROM pg_class WHERE oid > 16384").await;
    assert_eq!(portal.swap_unless_done(release, &outgoing).await, matches!(hangs, Hangs::Undone));
    assert_ledger_and_catalogue_agree(&portal, "second", "2608011200").await;
    assert!(!portal.swap_unless_done(release, &outgoing).await, "it is done once");
    let after = portal.text("SELECT string_agg(format('%s %s', relname, oid), ' ' ORDER BY oid) FROM pg_class WHERE oid > 16384").await;
    assert_eq!(before == after, matches!(hangs, Hangs::Committed), "the catalogue is left alone exactly when the swap had been done");
    assert_eq!(portal.text(&format!("SELECT count(*) FROM portal_release.portals WHERE portal = '{KEY}'")).await, "1");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_killed_after_its_commit_has_swapped_everything() {
    crashed_in_commit(Hangs::Committed).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_backend_killed_before_its_commit_has_swapped_nothing() {
    crashed_in_commit(Hangs::Undone).await;
}
