-- Everything that stands on the live relations and is not one of them.
--
-- $1 schema, $2 live names, $3 names of the generation that comes in (may be empty)
-- object: what it is, in words; before, after: what to execute around the renames (after is written in live names);
-- locked: the relation to lock for it, quoted; relkind of that relation; obstacle: why it cannot be carried over
WITH rel AS (
    SELECT c.*, c.oid::regclass::text AS spelled FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = ANY ($2) AND c.relkind IN ('r', 'p', 'f', 'm', 'v')
), incoming AS (
    SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = ANY ($3)
), owned AS (
    SELECT s.oid, d.refobjid AS owner FROM rel r JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = r.oid
         AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
    JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
), types AS (
    SELECT t.oid, r.spelled FROM rel r JOIN pg_type t ON t.typrelid = r.oid
    UNION ALL SELECT t.typarray, r.spelled FROM rel r JOIN pg_type t ON t.typrelid = r.oid WHERE t.typarray <> 0
), depends AS (
    SELECT d.classid, d.objid, d.objsubid, r.oid AS on_oid, r.spelled AS on_name, 'relation' AS through
    FROM rel r JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = r.oid
    UNION ALL
    SELECT d.classid, d.objid, d.objsubid, o.owner, o.oid::regclass::text, 'sequence'
    FROM owned o JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = o.oid
    UNION ALL
    SELECT d.classid, d.objid, d.objsubid, 0, t.spelled, 'type'
    FROM types t JOIN pg_depend d ON d.refclassid = 'pg_type'::regclass AND d.refobjid = t.oid
), viewed AS (
    SELECT DISTINCT v.oid, v.relname, v.relkind, v.relowner, v.reloptions, v.oid::regclass::text AS spelled
    FROM depends d JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid AND w.rulename = '_RETURN'
    JOIN pg_class v ON v.oid = w.ev_class
    WHERE d.through = 'relation' AND v.oid NOT IN (SELECT oid FROM rel)
), keyed AS (
    SELECT DISTINCT k.oid, k.conname, k.conrelid, k.confrelid, c.relkind, c.relowner, c.oid::regclass::text AS spelled, k.confrelid::regclass::text AS target
    FROM rel r JOIN pg_constraint k ON k.confrelid = r.oid AND k.contype = 'f' AND k.conparentid = 0
    JOIN pg_class c ON c.oid = k.conrelid WHERE k.conrelid NOT IN (SELECT oid FROM rel)
), ruled AS (
    SELECT DISTINCT p.oid, p.polname, p.polrelid, p.polqual, p.polwithcheck, c.relkind, c.relowner, c.oid::regclass::text AS spelled
    FROM depends d JOIN pg_policy p ON d.classid = 'pg_policy'::regclass AND p.oid = d.objid JOIN pg_class c ON c.oid = p.polrelid
    WHERE d.through = 'relation' AND p.polrelid NOT IN (SELECT oid FROM rel)
), functions AS (
    SELECT DISTINCT f.oid, f.proowner, f.oid::regprocedure::text AS spelled
    FROM depends d JOIN pg_proc f ON d.classid = 'pg_proc'::regclass AND f.oid = d.objid AND f.prosqlbody IS NOT NULL
    WHERE d.through = 'relation'
), found AS (
    SELECT 'view ' || v.spelled AS object, NULL::text AS before,
           'CREATE OR REPLACE VIEW ' || v.spelled
           || coalesce((SELECT ' WITH (' || string_agg(quote_ident(option_name) || ' = ' || quote_literal(option_value), ', ') || ')'
                        FROM pg_options_to_table(v.reloptions)), '')
           || ' AS ' || pg_get_viewdef(v.oid) AS after,
           v.spelled AS locked, v.relkind::text AS relkind, v.relowner AS owner,
           CASE WHEN EXISTS (SELECT FROM pg_rewrite w JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
                             WHERE w.ev_class = v.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid IN (SELECT oid FROM incoming))
                THEN 'reads relations of two generations at once; drop it' END AS obstacle
    FROM viewed v WHERE v.relkind = 'v'
    UNION ALL
    SELECT 'materialized view ' || spelled, NULL, NULL, NULL, NULL, relowner,
           'reads live relations and would go on reading the backup; add it to the Portal''s materializedViews, or let it read {{ staging(...) }}'
    FROM viewed WHERE relkind = 'm'
    UNION ALL
    SELECT 'foreign key ' || quote_ident(k.conname) || ' of ' || k.spelled,
           'ALTER TABLE ' || k.spelled || ' DROP CONSTRAINT ' || quote_ident(k.conname),
           'ALTER TABLE ' || k.spelled || ' ADD CONSTRAINT ' || quote_ident(k.conname) || ' ' || pg_get_constraintdef(k.oid)
           || CASE WHEN c.convalidated THEN ' NOT VALID' ELSE '' END
           || coalesce('; COMMENT ON CONSTRAINT ' || quote_ident(k.conname) || ' ON ' || k.spelled || ' IS '
                       || quote_literal(obj_description(k.oid, 'pg_constraint')), ''),
           k.spelled, k.relkind::text, k.relowner,
           CASE WHEN k.relkind = 'p' THEN 'belongs to a partitioned table, where Postgres adds no key without checking all rows under the lock; drop it' END
    FROM keyed k JOIN pg_constraint c ON c.oid = k.oid
    UNION ALL
    SELECT 'policy ' || quote_ident(p.polname) || ' on ' || p.spelled, NULL,
           'ALTER POLICY ' || quote_ident(p.polname) || ' ON ' || p.spelled
           || coalesce(' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', '')
           || coalesce(' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', ''),
           p.spelled, p.relkind::text, p.relowner, NULL
    FROM ruled p
    UNION ALL
    SELECT 'function ' || spelled, NULL, pg_get_functiondef(oid), NULL, NULL, proowner, NULL FROM functions
), left_over AS (
    SELECT DISTINCT pg_describe_object(d.classid, d.objid, d.objsubid) AS object, d.on_name, d.through
    FROM depends d
    LEFT JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
    WHERE NOT (d.classid = 'pg_rewrite'::regclass AND w.rulename = '_RETURN'
               AND (w.ev_class IN (SELECT oid FROM rel) OR (d.through = 'relation' AND w.ev_class IN (SELECT oid FROM viewed))))
      AND NOT (d.classid = 'pg_class'::regclass AND d.through = 'relation' AND (
               d.objid IN (SELECT indexrelid FROM pg_index WHERE indrelid IN (SELECT oid FROM rel))
               OR d.objid IN (SELECT oid FROM owned) OR d.objid IN (SELECT reltoastrelid FROM rel)
               OR d.objid IN (SELECT oid FROM rel)))
      AND NOT (d.classid = 'pg_constraint'::regclass AND d.through = 'relation' AND d.objid IN (
               SELECT oid FROM pg_constraint WHERE conrelid IN (SELECT oid FROM rel) OR (contype = 'f' AND confrelid IN (SELECT oid FROM rel))))
      AND NOT (d.classid = 'pg_attrdef'::regclass AND d.through <> 'type' AND d.objid IN (
               SELECT oid FROM pg_attrdef WHERE adrelid = d.on_oid OR adrelid IN (SELECT oid FROM incoming)))
      AND NOT (d.classid = 'pg_trigger'::regclass AND d.through = 'relation' AND d.objid IN (
               SELECT oid FROM pg_trigger WHERE tgrelid IN (SELECT oid FROM rel) OR tgisinternal))
      AND NOT (d.classid = 'pg_policy'::regclass AND d.through = 'relation')
      AND NOT (d.classid = 'pg_proc'::regclass AND d.through = 'relation' AND d.objid IN (SELECT oid FROM functions))
      AND NOT (d.classid = 'pg_type'::regclass AND d.objid IN (SELECT oid FROM types))
      AND NOT (d.classid = 'pg_statistic_ext'::regclass AND d.objid IN (SELECT oid FROM pg_statistic_ext WHERE stxrelid IN (SELECT oid FROM rel)))
      AND NOT (d.classid IN ('pg_publication_rel'::regclass))
)
SELECT object, before, after, locked, relkind, quote_ident(pg_get_userbyid(owner)) AS owner,
       coalesce(obstacle, CASE WHEN NOT pg_has_role(owner, 'USAGE')
           THEN 'belongs to ' || pg_get_userbyid(owner) || ' and must be changed in the swap; grant that role to ' || current_user END) AS obstacle
FROM found
UNION ALL
SELECT object, NULL, NULL, NULL, NULL, NULL,
       CASE through WHEN 'type' THEN 'uses the row type of ' || on_name || ', which a swap cannot exchange; name the columns instead'
                    WHEN 'sequence' THEN 'draws from ' || on_name || ', which goes away with the backup; give it a sequence of its own'
                    ELSE 'depends on ' || on_name || ' in a way that a swap cannot carry over; drop or change it' END
FROM left_over
UNION ALL
SELECT CASE relkind WHEN 'm' THEN 'materialized view ' WHEN 'v' THEN 'view ' ELSE 'table ' END || spelled, NULL, NULL, NULL, NULL, NULL, o.obstacle
FROM rel r, LATERAL (VALUES
    (CASE WHEN relkind = 'p' THEN 'is partitioned; make it a plain table, or take it out of the Portal' END),
    (CASE WHEN relkind = 'f' THEN 'is a foreign table; take it out of the Portal' END),
    (CASE WHEN relispartition THEN 'is a partition; detach it, or take it out of the Portal'
          WHEN EXISTS (SELECT FROM pg_inherits i WHERE r.oid IN (i.inhrelid, i.inhparent)) AND relkind = 'r'
          THEN 'takes part in inheritance; end it with ALTER TABLE ... NO INHERIT' END),
    (CASE WHEN reloftype <> 0 THEN 'is a typed table; use ALTER TABLE ... NOT OF' END),
    (CASE WHEN relpersistence = 't' THEN 'is temporary; take it out of the Portal' END),
    (CASE WHEN NOT pg_has_role(relowner, 'USAGE')
          THEN 'belongs to ' || pg_get_userbyid(relowner) || '; grant that role to ' || current_user || ' or change the owner' END),
    ((SELECT 'has the rule ' || string_agg(quote_ident(rulename), ', ') || ', which a swap cannot carry over; use a trigger'
      FROM pg_rewrite WHERE ev_class = r.oid AND rulename <> '_RETURN' HAVING count(*) > 0)),
    ((SELECT 'is in the publication ' || string_agg(quote_ident(p.pubname), ', ') || ', whose subscribers would keep the backup; take it out with ALTER PUBLICATION ... DROP TABLE'
      FROM pg_publication_rel x JOIN pg_publication p ON p.oid = x.prpubid WHERE x.prrelid = r.oid HAVING count(*) > 0)),
    ((SELECT 'is published by ' || string_agg(quote_ident(p.pubname), ', ') || ', which publishes all tables; subscribers would not follow a swap'
      FROM pg_publication p WHERE r.relkind = 'r' AND (p.puballtables OR EXISTS (
           SELECT FROM pg_publication_namespace x WHERE x.pnpubid = p.oid AND x.pnnspid = r.relnamespace)) HAVING count(*) > 0)),
    ((SELECT 'draws from ' || string_agg(d.refobjid::regclass::text, ', ')
             || ', which belongs to another table and goes away with it; use ALTER SEQUENCE ... OWNED BY a column of this table, or NONE'
      FROM pg_attrdef a JOIN pg_depend d ON d.classid = 'pg_attrdef'::regclass AND d.objid = a.oid AND d.refclassid = 'pg_class'::regclass
      JOIN pg_class s ON s.oid = d.refobjid AND s.relkind = 'S'
      JOIN pg_depend w ON w.classid = 'pg_class'::regclass AND w.objid = s.oid AND w.refclassid = 'pg_class'::regclass
           AND w.deptype IN ('a', 'i') AND w.refobjid <> r.oid
      WHERE a.adrelid = r.oid HAVING count(*) > 0)),
    (CASE WHEN EXISTS (SELECT FROM pg_seclabel l WHERE l.classoid = 'pg_class'::regclass AND l.objoid = r.oid)
          THEN 'has security labels, which are not copied; remove them' END),
    (CASE WHEN EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = r.oid AND d.deptype = 'e')
          THEN 'belongs to an extension; take it out of the Portal' END)
) o(obstacle) WHERE o.obstacle IS NOT NULL
UNION ALL
SELECT 'schema ' || quote_ident($1), NULL, NULL, NULL, NULL, NULL, 'does not allow ' || current_user || ' to create relations; GRANT CREATE ON SCHEMA ' || quote_ident($1) || ' TO ' || quote_ident(current_user)
WHERE NOT has_schema_privilege($1, 'CREATE')
ORDER BY 1
