-- Country polygons from world-atlas (TopoJSON made of Natural Earth), decoded here: no other tool is needed.
-- Environment: BORDERS (countries-110m.json), COUNTRIES (countries.csv)
\set ON_ERROR_STOP on
\set topology `cat "$BORDERS"`
\set countries `cat "$COUNTRIES"`

CREATE SCHEMA sample;
COMMENT ON SCHEMA sample IS 'Generator of the sample: nothing of it exists in a real source database';

CREATE TABLE sample.countries (
  id           int PRIMARY KEY,
  iso_3        text NOT NULL UNIQUE,
  parent_iso_3 text NOT NULL,
  region       text NOT NULL,
  name         text NOT NULL,
  land_area    numeric NOT NULL,                       -- km2
  geom         geometry(MultiPolygon, 4326) NOT NULL
);

CREATE TEMP TABLE border_names AS
SELECT f[1] AS border, f[2] AS iso_3, f[3] AS parent_iso_3, f[4] AS region, f[5] AS name
FROM regexp_split_to_table(trim(E'\n' FROM :'countries'), E'\n') WITH ORDINALITY AS l(line, n),
     string_to_array(l.line, ',') AS f
WHERE l.n > 1;

-- An arc is a list of steps on an integer grid: running sums, then scale and translate, give degrees.
CREATE TEMP TABLE arc_points AS
SELECT a.n - 1 AS arc,
       p.n     AS k,
       (t.scale ->> 0)::float8 * sum((p.step ->> 0)::int) OVER along + (t.translate ->> 0)::float8 AS x,
       (t.scale ->> 1)::float8 * sum((p.step ->> 1)::int) OVER along + (t.translate ->> 1)::float8 AS y
FROM (SELECT d -> 'arcs' AS arcs, d #> '{transform,scale}' AS scale, d #> '{transform,translate}' AS translate
      FROM (SELECT :'topology'::jsonb AS d) AS doc) AS t,
     jsonb_array_elements(t.arcs) WITH ORDINALITY AS a(steps, n),
     jsonb_array_elements(a.steps) WITH ORDINALITY AS p(step, n)
WINDOW along AS (PARTITION BY a.n ORDER BY p.n);
CREATE INDEX ON arc_points (arc);

-- A ring is a list of arcs, sharing their end points; the arc ~i is arc i walked backwards.
CREATE TEMP TABLE rings AS
WITH shapes AS (
  SELECT COALESCE(g.v ->> 'id', g.v #>> '{properties,name}') AS border,
         CASE g.v ->> 'type' WHEN 'Polygon' THEN jsonb_build_array(g.v -> 'arcs') ELSE g.v -> 'arcs' END AS polygons
  FROM jsonb_array_elements(:'topology'::jsonb #> '{objects,countries,geometries}') AS g(v)
)
SELECT s.border, p.n AS polygon, r.n AS ring,
       ST_RemoveRepeatedPoints(ST_MakeLine(ST_MakePoint(a.x, a.y)
                               ORDER BY i.n, CASE WHEN i.v::int < 0 THEN -a.k ELSE a.k END)) AS line
FROM shapes s,
     jsonb_array_elements(s.polygons) WITH ORDINALITY AS p(v, n),
     jsonb_array_elements(p.v) WITH ORDINALITY AS r(v, n),
     jsonb_array_elements_text(r.v) WITH ORDINALITY AS i(v, n)
     JOIN arc_points a ON a.arc = CASE WHEN i.v::int < 0 THEN ~ i.v::int ELSE i.v::int END
GROUP BY s.border, p.n, r.n;

INSERT INTO sample.countries (id, iso_3, parent_iso_3, region, name, land_area, geom)
SELECT row_number() OVER (ORDER BY iso_3), iso_3, parent_iso_3, region, name,
       round((ST_Area(geom::geography) / 1e6)::numeric, 0), geom
FROM (
  SELECT n.iso_3, min(n.parent_iso_3) AS parent_iso_3, min(n.region) AS region, min(n.name) AS name,
         ST_Multi(ST_CollectionExtract(ST_MakeValid(ST_Union(p.geom)), 3)) AS geom
  FROM (
    SELECT border, polygon,
           ST_MakeValid(ST_SetSRID(ST_MakePolygon(
             (array_agg(line ORDER BY ring))[1],
             array_remove((array_agg(line ORDER BY ring))[2:], NULL)), 4326)) AS geom
    FROM rings
    WHERE ST_NPoints(line) >= 4          -- quantisation has shrunk one islet to a point
    GROUP BY border, polygon
  ) AS p
  JOIN border_names n USING (border)
  GROUP BY n.iso_3
) AS merged;

-- A border without a name, or a name without a border, would quietly lose a country.
DO $$
BEGIN
  IF (SELECT count(*) FROM sample.countries) <> (SELECT count(DISTINCT iso_3) FROM border_names)
     OR EXISTS (SELECT FROM rings WHERE border NOT IN (SELECT border FROM border_names)) THEN
    RAISE EXCEPTION 'countries.csv and the borders do not belong together';
  END IF;
END $$;
DROP TABLE rings, arc_points, border_names;
