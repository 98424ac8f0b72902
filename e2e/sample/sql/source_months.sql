-- sample.load_month(month, sites) puts the whole source at one month. Everything follows from the ordinal of a site
-- and the month, through hashes and remainders: the same call gives the same rows, on any machine, at any time.
\set ON_ERROR_STOP on

-- A number in 0 .. below-1. Different salts make independent choices for the same site.
CREATE FUNCTION sample.pick(ordinal bigint, salt int, below int) RETURNS int
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN ((hashint8extended(ordinal, salt) & 1073741823)::int % below);

CREATE FUNCTION sample.word(ordinal bigint, salt int, words text[]) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN words[1 + sample.pick(ordinal, salt, cardinality(words))];

CREATE FUNCTION sample.month_start(month int) RETURNS date
LANGUAGE sql IMMUTABLE
RETURN (date '2026-06-01' + make_interval(months => month))::date;

-- What was asked for: `load month` changes the month and keeps the number of sites.
CREATE TABLE sample.state (
  singleton boolean PRIMARY KEY DEFAULT true CHECK (singleton),
  month     int NOT NULL,
  sites     int NOT NULL
);

-- 64 outlines of about unit size, moved and scaled to where a site lies: as cheap as a circle, and prettier on a map.
-- Distance from the centre is a sum of sines and never below 0.6, so an outline cannot cross itself. A few have
-- some 400 vertices (6 KB, stored out of line, as real borders are), holes, or a second part.
-- Variable detail: so many times as many vertices. With 6, a polygon has 6 KB on average, as in the real portal.
CREATE TABLE sample.shapes AS
WITH outlines AS (
  SELECT n, ST_MakePolygon(ST_MakeLine(ST_MakePoint(r * cos(angle), r * sin(angle)) ORDER BY k)) AS outline
  FROM (
    SELECT n, k, angle,
           1 + 0.22 * sin((2 + n % 3) * angle + n) + 0.12 * sin((5 + n % 4) * angle + 2 * n)
             + 0.06 * sin((11 + n % 5) * angle + 3 * n) AS r
    FROM (
      SELECT n, k, 2 * pi() * (k % vertices) / vertices AS angle
      FROM generate_series(0, 63) AS n
      CROSS JOIN LATERAL (VALUES (CASE WHEN n < 50 THEN 32 WHEN n < 61 THEN 96 ELSE 384 END * :detail)) AS v(vertices)
      CROSS JOIN LATERAL generate_series(0, vertices) AS k
    ) AS steps
  ) AS points
  GROUP BY n
)
SELECT n, geom, ST_Area(geom) AS area
FROM (
  SELECT n, ST_Multi(CASE
           WHEN n % 8 = 3 THEN ST_Difference(outline, ST_Scale(outline, 0.3, 0.3))
           WHEN n % 5 = 2 THEN ST_Union(outline, ST_Translate(ST_Scale(outline, 0.25, 0.25), 1.9, 0.4))
           ELSE outline END) AS geom
  FROM outlines
) AS shaped;
ALTER TABLE sample.shapes ADD PRIMARY KEY (n);

CREATE TABLE sample.designations AS
SELECT n, split_part(d, '|', 1) AS name, split_part(d, '|', 2) AS jurisdiction
FROM unnest(ARRAY[
  'National Park|National', 'Nature Reserve|National', 'Natural Monument|National', 'Wildlife Sanctuary|National',
  'Protected Landscape|National', 'Forest Reserve|National', 'Marine Reserve|National', 'Marine Protected Area|National',
  'Game Reserve|National', 'State Park|National', 'Regional Nature Park|National', 'Provincial Park|National',
  'Private Nature Reserve|National', 'Indigenous Protected Area|National', 'Community Conservancy|National',
  'Conservation Covenant|National', 'Site of Special Scientific Interest|National', 'Local Nature Reserve|National',
  'Biological Reserve|National', 'Ecological Station|National', 'Locally Managed Marine Area|National',
  'World Heritage Site (natural or mixed)|International', 'Ramsar Site, Wetland of International Importance|International',
  'UNESCO-MAB Biosphere Reserve|International', 'Special Area of Conservation (Habitats Directive)|Regional',
  'Special Protection Area (Birds Directive)|Regional', 'Baltic Sea Protected Area (HELCOM)|Regional',
  'Specially Protected Area of Mediterranean Importance|Regional', 'ASEAN Heritage Park|Regional',
  'Marine Protected Area (OSPAR)|Regional'
]) WITH ORDINALITY AS l(d, n);

-- Places for sites: points inside each country, as many as its share of the sites.
CREATE TABLE sample.places (
  country_id int NOT NULL,
  n          int NOT NULL,
  x          float8 NOT NULL,
  y          float8 NOT NULL,
  PRIMARY KEY (country_id, n)
);

-- The sites of the current month, before parcels.
CREATE UNLOGGED TABLE sample.sites (
  ordinal    bigint PRIMARY KEY,
  site_id    bigint NOT NULL,
  country_id int NOT NULL,
  since      int NOT NULL,
  gone       boolean NOT NULL,
  parcels    int NOT NULL,
  x          float8 NOT NULL,
  y          float8 NOT NULL,
  radius     float8 NOT NULL           -- degrees of latitude
);

-- Shares go by the square root of the land area, or Russia would have a tenth of everything.
CREATE VIEW sample.country_shares AS
SELECT id AS country_id, geom,
       sqrt(land_area) / sum(sqrt(land_area)) OVER () AS share,
       floor(4096 * sum(sqrt(land_area)) OVER (ORDER BY id) / sum(sqrt(land_area)) OVER ()) AS last_slot
FROM sample.countries;

CREATE FUNCTION sample.place_sites(month int, sites int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  added_monthly int := greatest(2, sites / 200);
BEGIN
  IF NOT EXISTS (SELECT FROM sample.state s WHERE s.sites = place_sites.sites) THEN
    TRUNCATE sample.places;
    -- Away from the poles and the date line, so that no outline leaves the range of coordinates.
    INSERT INTO sample.places (country_id, n, x, y)
    SELECT c.country_id, p.path[1], ST_X(p.geom), ST_Y(p.geom)
    FROM sample.country_shares c
    CROSS JOIN LATERAL ST_Dump(ST_GeneratePoints(
      ST_Intersection(c.geom, ST_MakeEnvelope(-178, -82, 178, 83, 4326)),
      ceil(sites * c.share * 1.2)::int + 8, c.country_id)) AS p;
    ANALYZE sample.places;
  END IF;

  TRUNCATE sample.sites;
  INSERT INTO sample.sites (ordinal, site_id, country_id, since, gone, parcels, x, y, radius)
  SELECT s.ordinal, 1000 + 3 * s.ordinal + sample.pick(s.ordinal, 1, 3), s.country_id, s.since,
         -- The first site of every country stays, so no country ever drops out.
         s.ordinal > s.countries AND (s.ordinal - 40) % 250 / 7 BETWEEN 1 AND place_sites.month AND (s.ordinal - 40) % 250 % 7 = 0,
         CASE WHEN s.ordinal % 10 = 3
              THEN 2 + sample.pick(s.ordinal, 2, 3) + least((place_sites.month + s.ordinal % 37) / 37, 5) ELSE 1 END,
         p.x, p.y,
         (0.01 + 0.12 * power(sample.pick(s.ordinal, 3, 1000) / 1000.0, 3)) / CASE WHEN s.ordinal % 10 = 3 THEN 3 ELSE 1 END
           -- Every month another thirteenth of the sites grows by 2 %.
           * sqrt(1 + 0.02 * ((place_sites.month + s.ordinal % 13) / 13))
  FROM (
    SELECT o.ordinal, o.countries, c.country_id,
           CASE WHEN o.ordinal <= sites THEN 0 ELSE ceil((o.ordinal - sites) / added_monthly::numeric)::int END AS since,
           row_number() OVER (PARTITION BY c.country_id ORDER BY o.ordinal) AS nth
    FROM (SELECT ordinal, (SELECT count(*) FROM sample.countries) AS countries
          FROM generate_series(1::bigint, sites + added_monthly * place_sites.month) AS ordinal) AS o
    -- One site for each country first, the rest by share.
    JOIN (SELECT country_id, slot FROM sample.country_shares,
                 generate_series(COALESCE((SELECT max(b.last_slot) FROM sample.country_shares b
                                           WHERE b.country_id < country_shares.country_id), 0)::int,
                                 last_slot::int - 1) AS slot
          UNION ALL
          SELECT id, -id FROM sample.countries) AS c
      ON c.slot = CASE WHEN o.ordinal <= o.countries THEN -o.ordinal ELSE sample.pick(o.ordinal, 4, 4096) END
  ) AS s
  JOIN (SELECT country_id, count(*) AS available FROM sample.places GROUP BY country_id) AS a USING (country_id)
  JOIN sample.places p ON p.country_id = s.country_id AND p.n = (s.nth - 1) % a.available + 1;
  ANALYZE sample.sites;
END $$;

CREATE FUNCTION sample.load_sites(month int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  governments  text[] := ARRAY['Federal or national ministry or agency', 'Sub-national ministry or agency', 'Government-delegated management',
                               'Transboundary governance', 'Collaborative governance', 'Joint governance', 'Individual landowners',
                               'Non-profit organisations', 'For-profit organisations', 'Indigenous peoples', 'Local communities', 'Not Reported'];
  categories   text[] := ARRAY['Ia', 'Ib', 'II', 'III', 'IV', 'V', 'VI', 'Not Reported', 'Not Applicable', 'Not Assigned'];
  statuses     text[] := ARRAY['Designated', 'Designated', 'Designated', 'Designated', 'Proposed', 'Inscribed', 'Adopted', 'Established'];
  colours      text[] := ARRAY['Amber', 'Azure', 'Copper', 'Crimson', 'Emerald', 'Golden', 'Grey', 'Ivory', 'Ochre', 'Silver', 'Umber', 'White'];
  features     text[] := ARRAY['Bay', 'Canyon', 'Coast', 'Delta', 'Forest', 'Hills', 'Island', 'Lagoon', 'Lake', 'Marsh', 'Mountains', 'Plains', 'Reef', 'River', 'Steppe', 'Valley'];
BEGIN
  INSERT INTO wdpa.wdpas
  SELECT s.site_id * 32 + parcel, s.site_id,
         s.site_id || CASE WHEN s.parcels > 1 THEN '_' || chr(65 + parcel) ELSE '' END,
         CASE WHEN s.is_point THEN 'point' ELSE 'polygon' END,
         CASE WHEN sample.pick(s.ordinal, 10, 20) = 0 THEN 'OECM' ELSE 'PA' END,
         'Área ' || s.name, s.name, s.desig, s.desig, s.desig_type,
         sample.word(s.ordinal, 11, categories),
         s.realm,
         size.km2, size.km2, size.km2 * s.sea, size.km2 * s.sea,
         s.no_take,
         CASE s.no_take WHEN 'All' THEN size.km2 * s.sea WHEN 'Part' THEN size.km2 * s.sea / 2 ELSE 0 END,
         sample.word(s.ordinal, 12, statuses),
         CASE WHEN s.since = 0 THEN 1900 + sample.pick(s.ordinal, 13, 126) ELSE 2026 END,
         sample.word(s.ordinal, 14, governments),
         'Not Applicable',
         sample.word(s.ordinal, 15, ARRAY['State', 'Communal', 'Individual landowners', 'Multiple ownership', 'Not Reported']),
         sample.word(s.ordinal, 16, ARRAY['Ministry of Environment', 'Park Service', 'Forest Department', 'Fisheries Agency', 'Not Reported']),
         sample.word(s.ordinal, 17, ARRAY['Management plan is implemented and available', 'Management plan is under revision', 'Not Reported']),
         sample.word(s.ordinal, 18, ARRAY['State Verified', 'Expert Verified', 'Not Reported']),
         'Recorded as number ' || s.ordinal || ' of the sample.',
         CASE WHEN sample.pick(s.ordinal, 10, 20) = 0 THEN 'Conservation of the ' || lower(s.feature) || ' and what lives in it.' ELSE 'Not Applicable' END,
         CASE WHEN s.is_point
              THEN ST_Multi(ST_SetSRID(ST_MakePoint(at_x, at_y), 4326))
              ELSE ST_SetSRID(ST_Affine(shape.geom, s.radius * s.stretch, 0, 0, s.radius, at_x, at_y), 4326) END
  FROM (
    SELECT s.*,
           1 / greatest(cos(radians(s.y)), 0.2) AS stretch,      -- a degree of longitude is shorter than one of latitude
           sample.pick(s.ordinal, 20, 5) = 0 AS is_point,
           f.feature,
           sample.word(s.ordinal, 22, colours) || ' ' || f.feature || ' ' || s.site_id
             -- From its month on a renamed site carries that month.
             || CASE WHEN s.ordinal % 97 BETWEEN 1 AND load_sites.month
                     THEN to_char(sample.month_start((s.ordinal % 97)::int), ' (YYYY-MM)') ELSE '' END AS name,
           r.realm,
           CASE r.realm WHEN 'Marine' THEN 1 WHEN 'Coastal' THEN 0.5 ELSE 0 END AS sea,
           CASE WHEN r.realm = 'Terrestrial' THEN 'Not Applicable'
                ELSE sample.word(s.ordinal, 24, ARRAY['All', 'Part', 'None', 'Not Reported']) END AS no_take,
           CASE WHEN climate_refuge THEN 'Climate Refuge' ELSE d.name END AS desig,
           CASE WHEN climate_refuge THEN 'National' ELSE d.jurisdiction END AS desig_type
    FROM sample.sites s
    JOIN sample.designations d ON d.n = 1 + sample.pick(s.ordinal, 25, 30)
    -- A designation that the world does not know before month 2: the portal has to create a lookup row.
    CROSS JOIN LATERAL (VALUES (load_sites.month >= 2 AND s.ordinal % 61 = 5)) AS n(climate_refuge)
    CROSS JOIN LATERAL (VALUES (sample.word(s.ordinal, 21, features))) AS f(feature)
    CROSS JOIN LATERAL (VALUES (CASE sample.pick(s.ordinal, 23, 10) WHEN 0 THEN 'Marine' WHEN 1 THEN 'Marine'
                                     WHEN 2 THEN 'Coastal' ELSE 'Terrestrial' END)) AS r(realm)
    WHERE NOT s.gone
  ) AS s
  JOIN sample.shapes shape ON shape.n = sample.pick(s.ordinal, 26, 64)
  CROSS JOIN LATERAL generate_series(0, s.parcels - 1) AS parcel
  -- Parcels lie side by side, three in a row.
  CROSS JOIN LATERAL (VALUES (s.x + parcel % 3 * 2.8 * s.radius * s.stretch, s.y + parcel / 3 * 2.8 * s.radius)) AS at(at_x, at_y)
  CROSS JOIN LATERAL (VALUES (round((shape.area * power(s.radius * 111.32, 2))::numeric, 4))) AS size(km2)
  ORDER BY s.ordinal, parcel;

  INSERT INTO wdpa.wdpa_iso3
  SELECT d.id, s.country_id FROM wdpa.wdpas d JOIN sample.sites s USING (site_id)
  UNION      -- one site in forty lies in two countries, as transboundary parks do
  SELECT d.id, 1 + s.country_id % (SELECT count(*)::int FROM sample.countries)
  FROM wdpa.wdpas d JOIN sample.sites s USING (site_id) WHERE s.ordinal % 40 = 9;

  INSERT INTO wdpa.wdpa_parent_iso3
  SELECT DISTINCT w.wdpa_id, p.id
  FROM wdpa.wdpa_iso3 w JOIN sample.countries c ON c.id = w.iso3_id JOIN sample.countries p ON p.iso_3 = c.parent_iso_3;

  INSERT INTO wdpa.wdpa_international_criteria
  SELECT d.id, criterion
  FROM wdpa.wdpas d
  CROSS JOIN LATERAL (VALUES (1 + sample.pick(d.site_id, 30, 6)), (7 + sample.pick(d.site_id, 31, 4))) AS c(criterion)
  WHERE d.desig_eng = 'World Heritage Site (natural or mixed)';
END $$;

CREATE FUNCTION sample.load_related(month int, sites int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
  source_count int := greatest(10, sites / 200);
BEGIN
  INSERT INTO wdpa.sources
  SELECT n, 'Protected areas of provider ' || n, 'Provider ' || n, 1990 + n % 30,
         -- Each source delivers every third month.
         to_char(sample.month_start(greatest(0, load_related.month - (load_related.month + n) % 3)), 'YYYY-MM'),
         'English', 'UTF-8', 'WGS84', '1:' || 10000 * (1 + n % 5), 'Digitised for the sample.',
         'Provider ' || n || ' (' || (1990 + n % 30) || ')', 'Made up; not a statement about any real place.'
  FROM generate_series(1, source_count) AS n;

  INSERT INTO wdpa.wdpas_sources
  SELECT d.id, 1 + sample.pick(s.ordinal, 40, source_count) FROM wdpa.wdpas d JOIN sample.sites s USING (site_id)
  UNION
  SELECT d.id, 1 + sample.pick(s.ordinal, 41, source_count) FROM wdpa.wdpas d JOIN sample.sites s USING (site_id) WHERE s.ordinal % 10 = 1;

  INSERT INTO wdpa.pame_sources
  SELECT n, 'Evaluations of provider ' || n, 'Provider ' || n, 2010 + n, 'English' FROM generate_series(1, 12) AS n;

  -- Evaluations stay when their site goes, as upstream.
  INSERT INTO wdpa.pame
  SELECT s.site_id * 64 + n, s.site_id,
         sample.word(s.ordinal, 50 + n, ARRAY['METT', 'RAPPAM', 'GAPA', 'EoH', 'SAPA', 'MEE']),
         CASE WHEN n <= before THEN 2005 + sample.pick(s.ordinal, 51 + n, 20) ELSE 2026 END,
         CASE WHEN n <= before THEN 2025 ELSE 2026 END,
         'Not Reported', sample.pick(s.ordinal, 52, 10) = 0,
         CASE WHEN s.ordinal % 3 = 0 THEN 'https://pame.example/' || s.site_id || '/' || n END,
         1 + sample.pick(s.ordinal, 53, 12)
  FROM sample.sites s
  CROSS JOIN LATERAL (VALUES (1 + sample.pick(s.ordinal, 54, 2))) AS b(before)
  -- Every month another eleventh of the evaluated sites gets one more.
  CROSS JOIN LATERAL generate_series(1, before + least((load_related.month + s.ordinal % 11) / 11, 50)::int) AS n
  WHERE s.ordinal % 7 = 2;

  INSERT INTO wdpa.greenlist
  SELECT site_id,
         CASE WHEN load_related.month >= 1 AND ordinal % 202 = 7 THEN 'Green Listed'
              ELSE sample.word(ordinal, 60, ARRAY['Candidate', 'Green Listed', 'Relisted']) END,
         make_date(2027 + sample.pick(ordinal, 61, 5), 12, 31), 'https://greenlist.example/' || site_id
  FROM sample.sites WHERE ordinal % 101 = 7 AND NOT gone;

  INSERT INTO wdpa.story_map_links
  SELECT site_id, 'https://stories.example/' || site_id || to_char(sample.month_start(load_related.month), '/YYYY-MM'), 'story'
  FROM sample.sites WHERE ordinal % 211 = 11 AND NOT gone;
END $$;

-- All or nothing: readers of the source see the old month or the new one, never half of it.
-- Without a number of sites the last one stays.
CREATE PROCEDURE sample.load_month(month int, sites int DEFAULT NULL) LANGUAGE plpgsql AS $$
BEGIN
  sites := COALESCE(sites, (SELECT s.sites FROM sample.state s));
  IF (load_month.month BETWEEN 0 AND 30 AND load_month.sites BETWEEN 1 AND 1000000) IS NOT TRUE THEN
    RAISE EXCEPTION 'month must be 0 to 30 and sites 1 to 1000000, not % and %', load_month.month, load_month.sites;
  END IF;
  PERFORM sample.place_sites(load_month.month, load_month.sites);
  TRUNCATE wdpa.release_info, wdpa.wdpas, wdpa.wdpa_iso3, wdpa.wdpa_parent_iso3, wdpa.wdpa_international_criteria,
           wdpa.sources, wdpa.wdpas_sources, wdpa.pame_sources, wdpa.pame, wdpa.greenlist, wdpa.story_map_links;
  INSERT INTO wdpa.release_info
  VALUES (load_month.month, to_char(sample.month_start(load_month.month), 'MonYYYY'),
          to_char(sample.month_start(load_month.month), 'YYYY-MM'));
  PERFORM sample.load_sites(load_month.month);
  PERFORM sample.load_related(load_month.month, load_month.sites);
  DELETE FROM sample.state;
  INSERT INTO sample.state (month, sites) VALUES (load_month.month, load_month.sites);
  ANALYZE;
END $$;

-- What the statistics team hands over as country_statistics_<label>.csv; column names are those of the portal's table.
CREATE VIEW sample.country_statistics AS
SELECT c.iso_3,
       i.release_month,
       count(d.site_id) AS pa_count,
       count(d.site_id) FILTER (WHERE d.site_type = 'OECM') AS oecm_count,
       count(d.site_id) FILTER (WHERE d.kind = 'point') AS point_count,
       count(d.site_id) FILTER (WHERE d.kind = 'polygon') AS polygon_count,
       c.land_area,
       COALESCE(sum(d.land_area), 0) AS pa_land_area,
       COALESCE(sum(d.marine_area), 0) AS pa_marine_area,
       round(100 * least(COALESCE(sum(d.land_area), 0) / c.land_area, 1), 4) AS pa_land_pct
FROM sample.countries c
CROSS JOIN wdpa.release_info i
LEFT JOIN (
  SELECT w.iso3_id, d.site_id, min(d.site_type) AS site_type, min(d.kind) AS kind,
         sum(d.gis_area - d.gis_m_area) AS land_area, sum(d.gis_m_area) AS marine_area
  FROM wdpa.wdpas d JOIN wdpa.wdpa_iso3 w ON w.wdpa_id = d.id
  GROUP BY w.iso3_id, d.site_id
) AS d ON d.iso3_id = c.id
GROUP BY c.id, i.release_month;
