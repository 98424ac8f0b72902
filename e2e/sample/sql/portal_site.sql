-- What stands around the swapped tables: a view and a function of the site, grants, the operations schema.
-- Runs as portal_owner, after the materialized views, the tables and the downloads view exist.
\set ON_ERROR_STOP on

CREATE VIEW regional_statistics WITH (security_barrier) AS
SELECT r.name AS region,
       s.release_month,
       sum(s.pa_count)                            AS pa_count,
       sum(s.pa_land_area)                        AS pa_land_area,
       sum(s.pa_marine_area)                      AS pa_marine_area,
       COALESCE(sum(p.evaluations), 0)            AS evaluations,
       COALESCE(max(p.release_month), s.release_month) AS pame_release_month
FROM country_statistics s
JOIN countries c ON c.iso_3 = s.iso_3
JOIN regions r ON r.id = c.region_id
LEFT JOIN pame_statistics p ON p.country_id = c.id
GROUP BY r.name, s.release_month;
COMMENT ON VIEW regional_statistics IS 'Two swapped tables seen as one: both months must be the same';

CREATE FUNCTION site_countries(site bigint) RETURNS text LANGUAGE sql STABLE AS $$
  SELECT string_agg(c.iso_3, ';' ORDER BY c.iso_3)
  FROM protected_areas a
  JOIN countries_protected_areas ca ON ca.protected_area_id = a.id
  JOIN countries c ON c.id = ca.country_id
  WHERE a.site_id = site
$$;

CREATE SCHEMA ops;
CREATE TABLE ops.base_backups (finished_at timestamptz PRIMARY KEY);
CREATE TABLE ops.jobs (
  id          bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
  kind        text NOT NULL,
  payload     jsonb NOT NULL DEFAULT '{}',
  started_by  text,
  started_at  timestamptz,
  finished_at timestamptz
);
CREATE TABLE ops.worker_heartbeats (
  worker  text PRIMARY KEY,
  beat_at timestamptz NOT NULL
);
-- The one thing here that depends on the clock: a gate asks for a base backup of the last day.
INSERT INTO ops.base_backups VALUES (now());

CREATE FUNCTION ops.queue_job(kind text, payload jsonb) RETURNS bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  INSERT INTO ops.jobs (kind, payload) VALUES (kind, payload) RETURNING id
$$;
CREATE FUNCTION ops.claim_pending_job(worker text, how_many int) RETURNS SETOF bigint
LANGUAGE sql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
  UPDATE ops.jobs SET started_by = worker, started_at = clock_timestamp()
  WHERE id IN (SELECT id FROM ops.jobs WHERE started_at IS NULL ORDER BY id LIMIT how_many FOR UPDATE SKIP LOCKED)
  RETURNING id
$$;
REVOKE ALL ON ALL FUNCTIONS IN SCHEMA ops FROM PUBLIC;

-- By name: PostGIS keeps its own relations in public, and they are not ours to grant.
SELECT format('GRANT SELECT ON %I TO portal_reader', relname)
FROM pg_class
WHERE relnamespace = 'public'::regnamespace AND relkind IN ('r', 'm', 'v') AND relowner = 'portal_owner'::regrole
\gexec
-- Column by column: what the workers may see and change of a site.
GRANT SELECT (id, site_id, site_pid, name), UPDATE (supplementary_info) ON protected_areas TO importer_worker;
GRANT USAGE ON SCHEMA ops TO importer_worker, portal_reader;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA ops TO importer_worker;
GRANT SELECT, INSERT, UPDATE ON ops.worker_heartbeats TO importer_worker;
GRANT SELECT ON ALL TABLES IN SCHEMA ops TO portal_reader;
