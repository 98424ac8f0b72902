-- The structure of relations as facts. Each fact is the piece of SQL that would make it again.
--
-- $1 schema, $2 names of the relations, $3 a marker nobody can guess.
-- Names that differ between generations stand in the definitions as <marker><form>|<schema>|<name><marker> with form
--   q  qualified name of the relation itself, its index, sequence or statistics object
--   n  the bare name of the same
--   l  the qualified name as a string literal
--   r  qualified name of another relation, which may or may not belong to the release
-- The search path must be empty, so that the server's deparser qualifies everything else.
WITH rel AS (
    SELECT c.*, s.nspname, c.oid::regclass::text AS spelled,
           $3 || 'q' || chr(31) || s.nspname || chr(31) || c.relname || $3 AS q,
           CASE c.relkind WHEN 'm' THEN 'MATERIALIZED VIEW' WHEN 'v' THEN 'VIEW' ELSE 'TABLE' END AS noun
    FROM pg_class c JOIN pg_namespace s ON s.oid = c.relnamespace
    WHERE s.nspname = $1 AND c.relname = ANY ($2) AND c.relkind IN ('r', 'p', 'f', 'm', 'v')
), col AS (
    SELECT a.*, r.relname, r.q, r.relkind, quote_ident(a.attname) AS c, pg_get_expr(d.adbin, d.adrelid) AS expression,
           row_number() OVER (PARTITION BY a.attrelid ORDER BY a.attnum) AS place
    FROM rel r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
    LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
), seq AS (
    SELECT d.refobjid AS attrelid, d.refobjsubid AS attnum, d.deptype, s.oid, s.relname, s.relowner, s.relacl,
           s.oid::regclass::text AS spelled,
           $3 || 'q' || chr(31) || n.nspname || chr(31) || s.relname || $3 AS q,
           $3 || 'l' || chr(31) || n.nspname || chr(31) || s.relname || $3 AS l,
           format(' INCREMENT BY %s MINVALUE %s MAXVALUE %s START WITH %s CACHE %s %s', p.seqincrement, p.seqmin, p.seqmax,
                  p.seqstart, p.seqcache, CASE WHEN p.seqcycle THEN 'CYCLE' ELSE 'NO CYCLE' END) AS options,
           format_type(p.seqtypid, NULL) AS type
    FROM rel r JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = r.oid AND d.refobjsubid > 0
         AND d.classid = 'pg_class'::regclass AND d.objsubid = 0 AND d.deptype IN ('a', 'i')
    JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S' JOIN pg_namespace n ON n.oid = s.relnamespace
    JOIN pg_sequence p ON p.seqrelid = s.oid
), idx AS (
    SELECT i.indrelid, i.indexrelid AS oid, i.indisclustered, i.indisreplident, r.relname, r.q AS on_q, r.relkind,
           x.reltablespace, x.reloptions, k.oid AS constraint_oid, k.contype, k.condeferrable, k.condeferred,
           $3 || 'q' || chr(31) || r.nspname || chr(31) || x.relname || $3 AS q,
           $3 || 'n' || chr(31) || r.nspname || chr(31) || x.relname || $3 AS n,
           CASE WHEN i.indisunique THEN 'CREATE UNIQUE INDEX ' ELSE 'CREATE INDEX ' END AS create_index,
           format('CREATE %sINDEX %I ON %s', CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END, x.relname, r.spelled) AS head
    FROM rel r JOIN pg_index i ON i.indrelid = r.oid AND i.indisvalid JOIN pg_class x ON x.oid = i.indexrelid
    LEFT JOIN pg_constraint k ON k.conindid = x.oid AND k.conrelid = r.oid AND k.contype IN ('p', 'u', 'x')
), con AS (
    SELECT k.*, r.relname, r.q, quote_ident(k.conname) AS c, pg_get_constraintdef(k.oid) AS definition
    FROM rel r JOIN pg_constraint k ON k.conrelid = r.oid AND k.contype IN ('c', 'f')
), stx AS (
    SELECT e.*, r.relname, r.q AS on_q, r.spelled, quote_ident(n.nspname) || '.' || quote_ident(e.stxname) AS own,
           $3 || 'q' || chr(31) || n.nspname || chr(31) || e.stxname || $3 AS q
    FROM rel r JOIN pg_statistic_ext e ON e.stxrelid = r.oid JOIN pg_namespace n ON n.oid = e.stxnamespace
), grants AS (
    SELECT r.relname, 0 AS place, '' AS columns, r.q AS target, r.q AS of, a.*
    FROM rel r, aclexplode(coalesce(r.relacl, acldefault('r', r.relowner))) a
    UNION ALL
    SELECT c.relname, c.place, ' (' || c.c || ')', c.q, c.attname, a.* FROM col c, aclexplode(c.attacl) a
    UNION ALL
    SELECT c.relname, c.place, '', 'SEQUENCE ' || s.q, s.q, a.*
    FROM seq s JOIN col c ON c.attrelid = s.attrelid AND c.attnum = s.attnum,
         aclexplode(coalesce(s.relacl, acldefault('s', s.relowner))) a
), granted AS (
    SELECT relname, place, of, target, grantee, is_grantable,
           string_agg(privilege_type || columns, ', ' ORDER BY privilege_type) AS privileges,
           CASE grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(grantee)) END AS who
    FROM grants GROUP BY relname, place, of, target, grantee, is_grantable
)
-- relation, kind, place, name, definition, undo
SELECT relname::text AS relation, 'table' AS kind, 0::bigint AS place, '' AS name,
       CASE relpersistence WHEN 'u' THEN 'UNLOGGED ' ELSE '' END || noun || ' ' || q AS definition, NULL::text AS undo
FROM rel
UNION ALL
SELECT r.relname, 'access', 0, '', coalesce(' USING ' || quote_ident(a.amname), '') || coalesce(' TABLESPACE ' || quote_ident(t.spcname), ''), NULL
FROM rel r LEFT JOIN pg_am a ON a.oid = r.relam LEFT JOIN pg_tablespace t ON t.oid = r.reltablespace
UNION ALL
SELECT c.relname, 'column', c.place, c.attname,
       c.c || ' ' || format_type(c.atttypid, c.atttypmod)
       || coalesce((SELECT ' COLLATE ' || quote_ident(n.nspname) || '.' || quote_ident(l.collname) FROM pg_collation l
                    JOIN pg_namespace n ON n.oid = l.collnamespace JOIN pg_type t ON t.oid = c.atttypid
                    WHERE l.oid = c.attcollation AND c.attcollation <> t.typcollation), '')
       || CASE WHEN c.attgenerated = 's' THEN ' GENERATED ALWAYS AS (' || c.expression || ') STORED'
               WHEN c.attgenerated <> '' THEN ' GENERATED ALWAYS AS (' || c.expression || ') VIRTUAL' ELSE '' END
       || CASE WHEN c.attidentity <> '' THEN ' GENERATED ' || CASE c.attidentity WHEN 'a' THEN 'ALWAYS' ELSE 'BY DEFAULT' END
               || ' AS IDENTITY (SEQUENCE NAME ' || s.q || s.options || ')' ELSE '' END
       || CASE WHEN c.attnotnull THEN ' NOT NULL' ELSE '' END, NULL
FROM col c LEFT JOIN seq s ON s.attrelid = c.attrelid AND s.attnum = c.attnum AND s.deptype = 'i'
UNION ALL
SELECT c.relname, 'sequence', c.place, s.q,
       'CREATE SEQUENCE ' || s.q || ' AS ' || s.type || s.options || '; ALTER SEQUENCE ' || s.q || ' OWNED BY ' || c.q || '.' || c.c, NULL
FROM col c JOIN seq s ON s.attrelid = c.attrelid AND s.attnum = c.attnum AND s.deptype = 'a'
UNION ALL
SELECT c.relname, 'default', c.place, c.attname, 'ALTER TABLE ' || c.q || ' ALTER COLUMN ' || c.c || ' SET DEFAULT '
       || coalesce((SELECT replace(c.expression, quote_literal(s.spelled) || '::regclass', s.l || '::regclass') FROM seq s
                    WHERE s.attrelid = c.attrelid AND strpos(c.expression, quote_literal(s.spelled) || '::regclass') > 0 LIMIT 1),
                   c.expression),
       'ALTER TABLE ' || c.q || ' ALTER COLUMN ' || c.c || ' DROP DEFAULT'
FROM col c WHERE c.expression IS NOT NULL AND c.attgenerated = ''
UNION ALL
SELECT c.relname, 'storage', c.place, c.attname, 'ALTER TABLE ' || c.q || ' ALTER COLUMN ' || c.c || ' SET STORAGE '
       || CASE c.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'e' THEN 'EXTERNAL' WHEN 'm' THEN 'MAIN' ELSE 'EXTENDED' END, NULL
FROM col c JOIN pg_type t ON t.oid = c.atttypid WHERE c.attstorage <> t.typstorage AND c.relkind <> 'v'
UNION ALL
SELECT c.relname, 'compression', c.place, c.attname, 'ALTER TABLE ' || c.q || ' ALTER COLUMN ' || c.c || ' SET COMPRESSION '
       || CASE c.attcompression WHEN 'p' THEN 'pglz' ELSE 'lz4' END, NULL
FROM col c WHERE c.attcompression <> ''
UNION ALL
SELECT c.relname, 'statistics target', c.place, c.attname,
       'ALTER TABLE ' || c.q || ' ALTER COLUMN ' || c.c || ' SET STATISTICS ' || c.attstattarget, NULL
FROM col c WHERE c.attstattarget >= 0
UNION ALL
SELECT c.relname, 'column option', c.place, c.attname, 'ALTER TABLE ' || c.q || ' ALTER COLUMN ' || c.c || ' SET (' || o.list || ')', NULL
FROM col c, LATERAL (SELECT string_agg(quote_ident(option_name) || ' = ' || quote_literal(option_value), ', ' ORDER BY ordinality) AS list
                     FROM pg_options_to_table(c.attoptions) WITH ORDINALITY) o WHERE o.list IS NOT NULL
UNION ALL
SELECT r.relname, 'option', 0, '', 'ALTER ' || r.noun || ' ' || r.q || ' SET (' || o.list || ')', NULL
FROM rel r, LATERAL (SELECT string_agg(x.option, ', ' ORDER BY x.option LIKE 'toast.%', x.ordinality) AS list FROM (
        SELECT quote_ident(option_name) || ' = ' || quote_literal(option_value) AS option, ordinality
        FROM pg_options_to_table(r.reloptions) WITH ORDINALITY
        UNION ALL
        SELECT 'toast.' || quote_ident(option_name) || ' = ' || quote_literal(option_value), ordinality
        FROM pg_class t, pg_options_to_table(t.reloptions) WITH ORDINALITY WHERE t.oid = r.reltoastrelid) x) o WHERE o.list IS NOT NULL
UNION ALL
SELECT relname, 'check', 0, conname, 'ALTER TABLE ' || q || ' ADD CONSTRAINT ' || c || ' ' || definition, NULL FROM con WHERE contype = 'c'
UNION ALL
SELECT relname, 'owner', 0, '', 'ALTER ' || noun || ' ' || q || ' OWNER TO ' || quote_ident(pg_get_userbyid(relowner)), NULL FROM rel
UNION ALL
SELECT relname, 'row security', 0, '', 'ALTER TABLE ' || q || ' ENABLE ROW LEVEL SECURITY', NULL FROM rel WHERE relrowsecurity
UNION ALL
-- The deparser names the policy's own table in a subquery, and the others as they are called now: only live names fit.
SELECT r.relname, CASE WHEN concat(pg_get_expr(p.polqual, p.polrelid), pg_get_expr(p.polwithcheck, p.polrelid)) ~ '\mSELECT\M'
                       THEN 'policy with subquery' ELSE 'policy' END, 0, p.polname, 'CREATE POLICY ' || quote_ident(p.polname) || ' ON ' || r.q
       || CASE WHEN p.polpermissive THEN ' AS PERMISSIVE' ELSE ' AS RESTRICTIVE' END
       || ' FOR ' || CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' ELSE 'ALL' END
       || ' TO ' || (SELECT string_agg(w.who, ', ' ORDER BY w.who) FROM (
              SELECT CASE role WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(role)) END AS who FROM unnest(p.polroles) role) w)
       || coalesce(' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', '')
       || coalesce(' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', ''), NULL
FROM rel r JOIN pg_policy p ON p.polrelid = r.oid
UNION ALL
SELECT relname, 'grant', place, of || ' to ' || who || CASE WHEN is_grantable THEN ' with grant option' ELSE '' END,
       'GRANT ' || privileges || ' ON ' || target || ' TO ' || who || CASE WHEN is_grantable THEN ' WITH GRANT OPTION' ELSE '' END,
       'REVOKE ' || privileges || ' ON ' || target || ' FROM ' || who
FROM granted
UNION ALL
SELECT r.relname, 'comment', 0, '', 'COMMENT ON ' || r.noun || ' ' || r.q || ' IS ' || quote_literal(d.description), NULL
FROM rel r JOIN pg_description d ON d.classoid = 'pg_class'::regclass AND d.objoid = r.oid AND d.objsubid = 0
UNION ALL
SELECT c.relname, 'comment', c.place, c.attname, 'COMMENT ON COLUMN ' || c.q || '.' || c.c || ' IS ' || quote_literal(d.description), NULL
FROM col c JOIN pg_description d ON d.classoid = 'pg_class'::regclass AND d.objoid = c.attrelid AND d.objsubid = c.attnum
UNION ALL
SELECT c.relname, 'comment', c.place, s.q, 'COMMENT ON SEQUENCE ' || s.q || ' IS ' || quote_literal(d.description), NULL
FROM seq s JOIN col c ON c.attrelid = s.attrelid AND c.attnum = s.attnum
JOIN pg_description d ON d.classoid = 'pg_class'::regclass AND d.objoid = s.oid AND d.objsubid = 0
UNION ALL
SELECT relname, 'index', 0, n,
       create_index || n || ' ON ' || on_q || CASE WHEN starts_with(pg_get_indexdef(oid), head) THEN substr(pg_get_indexdef(oid), length(head) + 1)
                                                   ELSE pg_get_indexdef(oid) END, NULL
FROM idx WHERE contype IS DISTINCT FROM 'x'
UNION ALL
SELECT relname, 'constraint', 0, n, 'ALTER TABLE ' || on_q || ' ADD CONSTRAINT ' || n
       || CASE contype WHEN 'x' THEN ' ' || pg_get_constraintdef(constraint_oid)
          ELSE CASE contype WHEN 'p' THEN ' PRIMARY KEY' ELSE ' UNIQUE' END || ' USING INDEX ' || n
               || CASE WHEN condeferrable THEN ' DEFERRABLE' ELSE '' END || CASE WHEN condeferred THEN ' INITIALLY DEFERRED' ELSE '' END END, NULL
FROM idx WHERE contype IS NOT NULL
UNION ALL
SELECT x.relname, 'index option', 0, x.n, 'ALTER INDEX ' || x.q || ' SET (' || o.list || ')', NULL
FROM idx x, LATERAL (SELECT string_agg(quote_ident(option_name) || ' = ' || quote_literal(option_value), ', ' ORDER BY ordinality) AS list
                     FROM pg_options_to_table(x.reloptions) WITH ORDINALITY) o WHERE x.contype = 'x' AND o.list IS NOT NULL
UNION ALL
SELECT x.relname, 'index option', 0, x.n, 'ALTER INDEX ' || x.q || ' SET TABLESPACE ' || quote_ident(t.spcname), NULL
FROM idx x JOIN pg_tablespace t ON t.oid = x.reltablespace
UNION ALL
SELECT x.relname, 'index option', a.attnum, x.n, 'ALTER INDEX ' || x.q || ' ALTER COLUMN ' || a.attnum || ' SET STATISTICS ' || a.attstattarget, NULL
FROM idx x JOIN pg_attribute a ON a.attrelid = x.oid AND a.attstattarget >= 0
UNION ALL
SELECT relname, 'cluster', 0, '', 'ALTER ' || CASE relkind WHEN 'm' THEN 'MATERIALIZED VIEW ' ELSE 'TABLE ' END || on_q || ' CLUSTER ON ' || n, NULL
FROM idx WHERE indisclustered
UNION ALL
SELECT relname, 'replica identity', 0, '', 'ALTER TABLE ' || on_q || ' REPLICA IDENTITY USING INDEX ' || n, NULL FROM idx WHERE indisreplident
UNION ALL
SELECT relname, 'replica identity', 0, '', 'ALTER TABLE ' || q || ' REPLICA IDENTITY ' || CASE relreplident WHEN 'f' THEN 'FULL' ELSE 'NOTHING' END, NULL
FROM rel WHERE relkind = 'r' AND relreplident IN ('f', 'n')
UNION ALL
SELECT relname, 'statistics', 0, q,
       'CREATE STATISTICS ' || q || substr(pg_get_statisticsobjdef(oid), length('CREATE STATISTICS ' || own) + 1,
           length(pg_get_statisticsobjdef(oid)) - length('CREATE STATISTICS ' || own) - length(spelled)) || on_q
       || CASE WHEN stxstattarget >= 0 THEN '; ALTER STATISTICS ' || q || ' SET STATISTICS ' || stxstattarget ELSE '' END, NULL
FROM stx
UNION ALL
SELECT x.relname, 'index comment', 0, x.n, 'COMMENT ON INDEX ' || x.q || ' IS ' || quote_literal(d.description), NULL
FROM idx x JOIN pg_description d ON d.classoid = 'pg_class'::regclass AND d.objoid = x.oid AND d.objsubid = 0
UNION ALL
SELECT x.relname, 'index comment', 1, x.n, 'COMMENT ON CONSTRAINT ' || x.n || ' ON ' || x.on_q || ' IS ' || quote_literal(d.description), NULL
FROM idx x JOIN pg_description d ON d.classoid = 'pg_constraint'::regclass AND d.objoid = x.constraint_oid
UNION ALL
SELECT e.relname, 'index comment', 2, e.q, 'COMMENT ON STATISTICS ' || e.q || ' IS ' || quote_literal(d.description), NULL
FROM stx e JOIN pg_description d ON d.classoid = 'pg_statistic_ext'::regclass AND d.objoid = e.oid
UNION ALL
-- A key that still waits for its validation is the same key.
SELECT k.relname, 'foreign key', 0, k.conname, 'ALTER TABLE ' || k.q || ' ADD CONSTRAINT ' || k.c || ' '
       || replace(CASE WHEN k.convalidated THEN k.definition ELSE left(k.definition, -length(' NOT VALID')) END,
                  ' REFERENCES ' || k.confrelid::regclass::text || '(',
                  ' REFERENCES ' || $3 || 'r' || chr(31) || n.nspname || chr(31) || t.relname || $3 || '('), NULL
FROM con k JOIN pg_class t ON t.oid = k.confrelid JOIN pg_namespace n ON n.oid = t.relnamespace
WHERE k.contype = 'f' AND k.conparentid = 0
UNION ALL
SELECT k.relname, CASE k.contype WHEN 'c' THEN 'comment' ELSE 'foreign key comment' END, 0, k.conname,
       'COMMENT ON CONSTRAINT ' || k.c || ' ON ' || k.q || ' IS ' || quote_literal(d.description), NULL
FROM con k JOIN pg_description d ON d.classoid = 'pg_constraint'::regclass AND d.objoid = k.oid
UNION ALL
SELECT r.relname, 'trigger', 0, t.tgname, replace(overlay(pg_get_triggerdef(t.oid) PLACING ' ON ' || r.q || ' '
           FROM strpos(pg_get_triggerdef(t.oid), ' ON ' || r.spelled || ' ') FOR length(r.spelled) + 5),
           r.q || ' FROM ' || t.tgconstrrelid::regclass::text || ' ', r.q || ' FROM ' || $3 || 'r' || chr(31) || coalesce(n.nspname, '') || chr(31) || coalesce(o.relname, '') || $3 || ' '), NULL
FROM rel r JOIN pg_trigger t ON t.tgrelid = r.oid AND NOT t.tgisinternal
LEFT JOIN pg_class o ON o.oid = t.tgconstrrelid LEFT JOIN pg_namespace n ON n.oid = o.relnamespace
UNION ALL
SELECT r.relname, 'trigger state', 0, t.tgname, 'ALTER TABLE ' || r.q
       || CASE t.tgenabled WHEN 'D' THEN ' DISABLE' WHEN 'R' THEN ' ENABLE REPLICA' ELSE ' ENABLE ALWAYS' END || ' TRIGGER ' || quote_ident(t.tgname), NULL
FROM rel r JOIN pg_trigger t ON t.tgrelid = r.oid AND NOT t.tgisinternal AND t.tgenabled <> 'O'
UNION ALL
SELECT r.relname, 'late comment', 0, t.tgname, 'COMMENT ON TRIGGER ' || quote_ident(t.tgname) || ' ON ' || r.q || ' IS ' || quote_literal(d.description), NULL
FROM rel r JOIN pg_trigger t ON t.tgrelid = r.oid JOIN pg_description d ON d.classoid = 'pg_trigger'::regclass AND d.objoid = t.oid
UNION ALL
SELECT r.relname, 'policy comment', 0, p.polname, 'COMMENT ON POLICY ' || quote_ident(p.polname) || ' ON ' || r.q || ' IS ' || quote_literal(d.description), NULL
FROM rel r JOIN pg_policy p ON p.polrelid = r.oid JOIN pg_description d ON d.classoid = 'pg_policy'::regclass AND d.objoid = p.oid
UNION ALL
-- A rule that names relations of this generation, or their sequences, fits only once the names are live.
SELECT r.relname, CASE WHEN EXISTS (SELECT FROM rel o WHERE strpos(d.rest, o.spelled) > 0) OR EXISTS (SELECT FROM seq s WHERE strpos(d.rest, s.spelled) > 0)
                       THEN 'rule naming relations' ELSE 'rule' END, 0, w.rulename,
       'CREATE OR REPLACE' || d.head || ' TO ' || r.q || d.rest
       || CASE w.ev_enabled WHEN 'O' THEN '' ELSE '; ALTER TABLE ' || r.q
               || CASE w.ev_enabled WHEN 'D' THEN ' DISABLE' WHEN 'R' THEN ' ENABLE REPLICA' ELSE ' ENABLE ALWAYS' END || ' RULE ' || w.n END
       || coalesce('; COMMENT ON RULE ' || w.n || ' ON ' || r.q || ' IS ' || quote_literal(obj_description(w.oid, 'pg_rewrite')), ''), NULL
FROM rel r JOIN (SELECT *, quote_ident(rulename) AS n, rtrim(pg_get_ruledef(oid), ';') AS definition FROM pg_rewrite WHERE rulename <> '_RETURN') w ON w.ev_class = r.oid
CROSS JOIN LATERAL (SELECT length('CREATE RULE ' || w.n) AS named) a
CROSS JOIN LATERAL (SELECT a.named + strpos(substr(w.definition, a.named + 1), ' TO ' || r.spelled) AS target) b
CROSS JOIN LATERAL (SELECT substr(w.definition, length('CREATE') + 1, b.target - length('CREATE') - 1) AS head,
                           substr(w.definition, b.target + length(' TO ' || r.spelled)) AS rest) d
UNION ALL
SELECT relname, 'forced row security', 0, '', 'ALTER TABLE ' || q || ' FORCE ROW LEVEL SECURITY', NULL FROM rel WHERE relforcerowsecurity
