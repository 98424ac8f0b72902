-- What depends on the sixteen tables and the nine materialized views: indexes, the site's views and functions, and a
-- table of the site with a foreign key to a swapped one.
CREATE UNIQUE INDEX index_portal_iso3_agg_on_key ON portal_iso3_agg (site_id, site_pid);
CREATE UNIQUE INDEX index_portal_parent_iso3_agg_on_key ON portal_parent_iso3_agg (site_id, site_pid);
CREATE UNIQUE INDEX index_portal_int_crit_agg_on_key ON portal_int_crit_agg (site_id, site_pid);
CREATE UNIQUE INDEX index_portal_standard_polygons_on_key ON portal_standard_polygons (site_id, site_pid);
CREATE UNIQUE INDEX index_portal_standard_points_on_key ON portal_standard_points (site_id, site_pid);
CREATE UNIQUE INDEX index_portal_standard_sources_on_key ON portal_standard_sources (metadataid);
CREATE UNIQUE INDEX index_portal_standard_pame_on_key ON portal_standard_pame (asmt_id);
CREATE UNIQUE INDEX index_portal_standard_pame_sources_on_key ON portal_standard_pame_sources (metadataid);
CREATE UNIQUE INDEX index_portal_standard_greenlist_on_key ON portal_standard_greenlist (site_id);
CREATE INDEX index_portal_standard_polygons_on_geometry ON portal_standard_polygons USING gist (wkb_geometry);
CREATE INDEX index_portal_standard_points_on_geometry ON portal_standard_points USING gist (wkb_geometry);
COMMENT ON MATERIALIZED VIEW portal_standard_polygons IS 'What the importer reads';

CREATE VIEW portal_downloads_protected_areas AS
SELECT a.site_id, a.site_pid, a.name, d.name AS designation, a.the_geom, a.release
FROM protected_areas a LEFT JOIN designations d ON d.id = a.designation_id WHERE NOT a.has_parcels
UNION ALL
SELECT p.site_id, p.site_pid, p.name, d.name, p.the_geom, p.release
FROM protected_area_parcels p LEFT JOIN designations d ON d.id = p.designation_id;
CREATE VIEW regional_statistics WITH (security_barrier = true) AS
SELECT r.name AS region, s.release, p.release AS pame_release, sum(s.sites) AS sites, sum(s.marine_area) AS marine_area, sum(p.evaluations) AS evaluations
FROM country_statistics s JOIN countries c ON c.id = s.country_id JOIN regions r ON r.id = c.region_id
JOIN pame_statistics p ON p.country_id = c.id GROUP BY r.name, s.release, p.release;
COMMENT ON VIEW regional_statistics IS 'Two swapped tables seen as one';
CREATE VIEW regional_shares AS
SELECT s.region, s.release, s.pame_release, g.release AS global_release, s.sites::numeric / nullif(g.sites, 0) AS share
FROM regional_statistics s CROSS JOIN global_statistics g;
CREATE VIEW source_contributions AS
SELECT p.metadataid, p.title, p.release AS portal_release, s.release, count(l.source_id) AS sites
FROM portal_standard_sources p JOIN sources s USING (metadataid) LEFT JOIN protected_areas_sources l ON l.source_id = s.id
GROUP BY 1, 2, 3, 4;

-- The three ways in which a function can read a table: bound to it, as a text, and as a program.
CREATE FUNCTION site_release(wanted bigint) RETURNS int LANGUAGE sql STABLE
BEGIN ATOMIC SELECT release FROM protected_areas WHERE site_id = wanted; END;
CREATE FUNCTION site_countries(wanted bigint) RETURNS TABLE (countries text, release int) LANGUAGE sql STABLE AS $$
    SELECT string_agg(c.iso_3, ';' ORDER BY c.iso_3), min(j.release) FROM protected_areas a
    JOIN countries_protected_areas j ON j.protected_area_id = a.id JOIN countries c ON c.id = j.country_id WHERE a.site_id = wanted
$$;
CREATE FUNCTION site_sources(wanted bigint) RETURNS int[] LANGUAGE plpgsql STABLE AS $$
DECLARE seen int[];
BEGIN
    SELECT array_agg(DISTINCT release) INTO seen FROM (
        SELECT s.release FROM protected_areas a JOIN protected_areas_sources j ON j.protected_area_id = a.id JOIN sources s ON s.id = j.source_id
        WHERE a.site_id = wanted) found;
    RETURN seen;
END $$;

-- People's own notes on sites: no release swaps them.
CREATE TABLE site_notes (
    id bigserial PRIMARY KEY, site_id bigint NOT NULL CONSTRAINT about_site REFERENCES protected_areas (site_id), note text NOT NULL
);
GRANT SELECT ON ALL TABLES IN SCHEMA public TO :reader;
