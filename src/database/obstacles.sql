-- Why the live relations themselves cannot be swapped, whatever depends on them.
--
-- $1 schema, $2 live names
WITH rel AS (
    SELECT c.*, c.oid::regclass::text AS spelled FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = ANY ($2) AND c.relkind IN ('r', 'p', 'f', 'm', 'v')
)
SELECT CASE relkind WHEN 'm' THEN 'materialized view ' WHEN 'v' THEN 'view ' ELSE 'table ' END || spelled AS object, o.obstacle
FROM rel r, LATERAL (VALUES
    (CASE WHEN relkind = 'p' THEN ARRAY['is partitioned, and a swap does not move partitions', 'make it a plain table with CREATE TABLE ... (LIKE '
          || spelled || ' INCLUDING ALL), or remove it from the Portal'] END),
    (CASE WHEN relkind = 'f' THEN ARRAY['is a foreign table', 'remove it from the Portal'] END),
    (CASE WHEN relispartition THEN ARRAY['is a partition', 'detach it, or remove it from the Portal'] END),
    ((SELECT ARRAY['takes part in inheritance with ' || string_agg(o.oid::regclass::text, ', ' ORDER BY o.oid::regclass::text)
             || ', which would stay with the backup', 'end it with ALTER TABLE ... NO INHERIT']
      FROM pg_inherits i JOIN pg_class o ON o.oid IN (i.inhrelid, i.inhparent) AND o.oid <> r.oid
      WHERE r.oid IN (i.inhrelid, i.inhparent) AND r.relkind = 'r' AND NOT r.relispartition HAVING count(*) > 0)),
    (CASE WHEN reloftype <> 0 THEN ARRAY['is a typed table', 'use ALTER TABLE ... NOT OF'] END),
    (CASE WHEN relpersistence = 't' THEN ARRAY['is temporary', 'remove it from the Portal'] END),
    (CASE WHEN NOT pg_has_role(relowner, 'USAGE')
          THEN ARRAY['belongs to ' || pg_get_userbyid(relowner), 'grant that role to ' || current_user || ' or change the owner'] END),
    ((SELECT ARRAY['is published by ' || string_agg(quote_ident(p.pubname), ', ')
             || ', which publishes every table of its schema or database, so subscribers would receive the rows of staging', 'publish single tables with FOR TABLE']
      FROM pg_publication p WHERE r.relkind = 'r' AND (p.puballtables OR EXISTS (
           SELECT FROM pg_publication_namespace x WHERE x.pnpubid = p.oid AND x.pnnspid = r.relnamespace)) HAVING count(*) > 0)),
    ((SELECT ARRAY['has the statistics or sequence ' || string_agg(away.name, ', ' ORDER BY away.name) || ' in another schema', 'move it with ALTER ... SET SCHEMA ' || quote_ident($1)]
      FROM (SELECT quote_ident(n.nspname) || '.' || quote_ident(e.stxname) AS name FROM pg_statistic_ext e JOIN pg_namespace n ON n.oid = e.stxnamespace
            WHERE e.stxrelid = r.oid AND e.stxnamespace <> r.relnamespace
            UNION ALL
            SELECT s.oid::regclass::text FROM pg_depend d JOIN pg_class s ON d.classid = 'pg_class'::regclass AND s.oid = d.objid AND s.relkind = 'S'
            WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid = r.oid AND d.refobjsubid > 0 AND d.deptype IN ('a', 'i')
              AND s.relnamespace <> r.relnamespace) away HAVING count(*) > 0)),
    ((SELECT ARRAY['uses ' || string_agg(d.refobjid::regclass::text, ', ')
             || ', which belongs to another table and is dropped with it', 'use ALTER SEQUENCE ... OWNED BY a column of this table, or NONE']
      FROM pg_attrdef a JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = a.oid AND d.refclassid = 'pg_class'::regclass
      JOIN pg_class s ON s.oid = d.refobjid AND s.relkind = 'S'
      JOIN pg_depend w ON w.classid = 'pg_class'::regclass AND w.objid = s.oid AND w.refclassid = 'pg_class'::regclass
           AND w.deptype IN ('a', 'i') AND w.refobjid <> r.oid
      WHERE a.adrelid = r.oid HAVING count(*) > 0)),
    (CASE WHEN EXISTS (SELECT FROM pg_seclabel l WHERE l.classoid = 'pg_class'::regclass AND l.objoid = r.oid)
          THEN ARRAY['has security labels, which are not copied', 'remove them'] END),
    (CASE WHEN EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = r.oid AND d.deptype = 'e')
          THEN ARRAY['belongs to an extension', 'remove it from the Portal'] END)
) o(obstacle) WHERE o.obstacle IS NOT NULL
UNION ALL
SELECT 'schema ' || quote_ident($1), ARRAY['does not allow ' || current_user || ' to create relations', 'GRANT CREATE ON SCHEMA ' || quote_ident($1) || ' TO ' || quote_ident(current_user)]
WHERE NOT has_schema_privilege($1, 'CREATE')
ORDER BY 1
