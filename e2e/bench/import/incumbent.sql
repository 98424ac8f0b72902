-- One batch as the real portal imports today, in small: 10 rows by OFFSET, for each row a look-up in each look-up table and an INSERT in a
-- transaction of its own, and the same again for its countries and sources. psql sends each statement by itself, as an application does.
-- What is left out would make it slower still: objects made of rows, foreign keys, statistics, evaluations, what is logged.
--
-- Variables: view, first (the offset).
SELECT statement
FROM (SELECT *, row_number() OVER () AS n FROM (SELECT * FROM :view LIMIT 10 OFFSET :first) batch) p
CROSS JOIN LATERAL (
  SELECT 1, format('SELECT id FROM staging_designations WHERE name = %L LIMIT 1', p.desig_eng)
  UNION ALL SELECT 2, format('SELECT id FROM staging_governances WHERE name = %L LIMIT 1', p.gov_type)
  UNION ALL SELECT 3, format('SELECT id FROM staging_iucn_categories WHERE name = %L LIMIT 1', p.iucn_cat)
  UNION ALL SELECT 4, format('SELECT id FROM staging_legal_statuses WHERE name = %L LIMIT 1', p.status)
  UNION ALL SELECT 5, format('SELECT id FROM staging_realms WHERE name = %L LIMIT 1', p.realm)
  UNION ALL SELECT 6, format('SELECT id FROM staging_no_take_statuses WHERE name = %L AND area = %s LIMIT 1', p.no_take, p.no_tk_area)
  UNION ALL SELECT 7, format('SELECT id FROM slow_protected_areas WHERE site_id = %s LIMIT 1', p.site_id)
  UNION ALL SELECT 8, 'BEGIN'
  UNION ALL SELECT 9, format(
    'INSERT INTO slow_protected_areas (site_id, site_pid, name, original_name, site_type, marine, reported_area, reported_marine_area,
       gis_area, gis_marine_area, supplementary_info, has_parcels, the_geom, the_geom_latitude, the_geom_longitude, release_month)
     VALUES (%s, %L, %L, %L, %L, %L, %s, %s, %s, %s, %L, false, %L, 0, 0, %s) ON CONFLICT (site_id) DO NOTHING RETURNING id',
    p.site_id, p.site_pid, p.name_eng, p.name, p.site_type, p.realm <> 'Terrestrial', p.rep_area, p.rep_m_area,
    p.gis_area, p.gis_m_area, p.supp_info, p.wkb_geometry, p.release_month)
  UNION ALL SELECT 10, 'COMMIT'
  UNION ALL
  SELECT 11 + 4 * i + step, CASE step
    WHEN 0 THEN format('SELECT id FROM staging_countries WHERE iso_3 = %L LIMIT 1', iso3)
    WHEN 1 THEN 'BEGIN'
    WHEN 2 THEN format('INSERT INTO slow_countries_protected_areas SELECT c.id, a.id, a.release_month
      FROM staging_countries c, slow_protected_areas a WHERE c.iso_3 = %L AND a.site_id = %s ON CONFLICT DO NOTHING', iso3, p.site_id)
    ELSE 'COMMIT' END
  FROM unnest(string_to_array(p.iso3s, ';')) WITH ORDINALITY AS l(iso3, i), generate_series(0, 3) step
  UNION ALL
  SELECT 1011 + 4 * i + step, CASE step
    WHEN 0 THEN format('SELECT id FROM staging_sources WHERE metadataid = %s LIMIT 1', metadataid)
    WHEN 1 THEN 'BEGIN'
    WHEN 2 THEN format('INSERT INTO slow_protected_areas_sources (protected_area_id, source_id, release_month) SELECT a.id, s.id, a.release_month
      FROM staging_sources s, slow_protected_areas a WHERE s.metadataid = %s AND a.site_id = %s ON CONFLICT DO NOTHING', metadataid, p.site_id)
    ELSE 'COMMIT' END
  FROM unnest(string_to_array(p.metadataids, ';')) WITH ORDINALITY AS m(metadataid, i), generate_series(0, 3) step
) AS s(at, statement)
ORDER BY n, at \gexec
