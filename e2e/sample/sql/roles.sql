-- Roles belong to the server, not to a database, so this runs in the maintenance database and may run again.
-- Passwords are made once per server and kept where only a superuser can read them: every sample on the server
-- then shares them, and a clone or a second `load create` breaks nobody's URL.
-- Variables: password (empty: generate one per role)
\set ON_ERROR_STOP on
BEGIN;
SET LOCAL client_min_messages = warning;
-- Two samples created at the same time must not race for the same role.
SELECT pg_advisory_xact_lock(hashtext('portal-release sample roles')) \g /dev/null

CREATE SCHEMA IF NOT EXISTS portal_release_sample;
CREATE TABLE IF NOT EXISTS portal_release_sample.passwords (
  role     text PRIMARY KEY,
  password text NOT NULL CHECK (password ~ '^[A-Za-z0-9._~-]+$')   -- goes into URLs as it is
);
REVOKE ALL ON SCHEMA portal_release_sample FROM PUBLIC;

-- A password that is asked for replaces the old one; not for fdw_reader, whose is written down in every portal database.
CREATE TEMP TABLE changed ON COMMIT DROP AS
WITH changed AS (
  INSERT INTO portal_release_sample.passwords (role, password)
  SELECT role, COALESCE(NULLIF(:'password', ''), replace(gen_random_uuid()::text, '-', ''))
  FROM unnest(ARRAY['portal_owner', 'portal_reader', 'importer_worker', 'fdw_reader']) AS role
  ON CONFLICT (role) DO UPDATE SET password = EXCLUDED.password
    WHERE :'password' <> '' AND EXCLUDED.role <> 'fdw_reader'
  RETURNING role
)
SELECT role FROM changed;

-- A role that is as it should be is left alone.
SELECT format('%s ROLE %I LOGIN PASSWORD %L', CASE WHEN r.rolname IS NULL THEN 'CREATE' ELSE 'ALTER' END, p.role, p.password)
FROM portal_release_sample.passwords p
LEFT JOIN pg_roles r ON r.rolname = p.role
WHERE r.rolname IS NULL OR p.role IN (SELECT role FROM changed)
\gexec

-- Without it pg_stat_activity hides from the operator which sessions block a swap: the query, its age and the
-- oldest snapshot of other roles, and pg_stat_replication the state of a standby.
GRANT pg_read_all_stats TO portal_owner;
-- The swap session shortens deadlock_timeout so that an autovacuum yields its lock; only a superuser may otherwise.
SELECT current_setting('server_version_num')::int >= 150000 AS can_grant_set \gset
\if :can_grant_set
GRANT SET ON PARAMETER deadlock_timeout TO portal_owner;
\endif
COMMIT;
