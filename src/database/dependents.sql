-- Every object that depends on the live relations without being one of them.
--
-- $1 schema, $2 live names, $3 names of the generation that comes in (may be empty)
-- object: what it is, in words; before, after: what to execute around the renames (after is written in live names);
-- locked: the relation to lock for it, quoted; relkind of that relation; obstacle: why it cannot be carried over, and what to do;
-- view_schema, view: a view that is rebuilt and needs all its details again.
-- In the order of after; before goes the other way round, so that what stands on something goes first and comes back last.
WITH RECURSIVE rel AS (
    SELECT c.*, c.oid::regclass::text AS spelled FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = ANY ($2) AND c.relkind IN ('r', 'p', 'f', 'm', 'v')
), incoming AS (
    SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = $1 AND c.relname = ANY ($3)
), owned AS (
    SELECT s.oid, d.refobjid AS owner FROM rel r JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = r.oid
         AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i') AND d.refobjsubid > 0
    JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
), row_type AS (
    -- And the arrays of them.
    SELECT c.oid AS of, unnest(ARRAY[t.oid, t.typarray]) AS oid FROM pg_class c JOIN pg_type t ON t.oid = c.reltype
    WHERE c.relkind = 'v' OR c.oid IN (SELECT oid FROM rel)
), types AS (
    SELECT t.oid, r.spelled FROM rel r JOIN row_type t ON t.of = r.oid WHERE t.oid <> 0
), depends AS (
    SELECT d.classid, d.objid, d.objsubid, r.oid AS on_oid, r.spelled AS on_name, 'relation' AS through
    FROM rel r JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = r.oid
    UNION ALL
    SELECT d.classid, d.objid, d.objsubid, o.owner, o.oid::regclass::text, 'sequence'
    FROM owned o JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = o.oid
    UNION ALL
    SELECT d.classid, d.objid, d.objsubid, 0, t.spelled, 'type'
    FROM types t JOIN pg_depend d ON d.refclassid = 'pg_type'::regclass AND d.refobjid = t.oid
), recreated (classid, oid, rank, kept) AS (
    -- The row type in a signature or in a view's column stays that of the backup, so these are recreated, and with them
    -- the functions and views that depend on them. A view is dropped: its readers wait for its lock. A call of a function
    -- takes no lock, so the old function is kept for those who have looked it up already, under a name with its identity;
    -- but not one that depends on a view.
    SELECT 'pg_proc'::regclass::oid, f.oid, 0, true FROM depends d JOIN pg_proc f ON d.classid = 'pg_proc'::regclass AND f.oid = d.objid
    WHERE d.through = 'type' AND EXISTS (
        SELECT FROM types t WHERE t.oid = f.prorettype OR t.oid = ANY (f.proargtypes) OR t.oid = ANY (f.proallargtypes))
    UNION
    SELECT 'pg_class'::regclass, v.oid, 0, false FROM depends d JOIN pg_class v ON d.classid = 'pg_class'::regclass AND v.oid = d.objid
    WHERE d.through = 'type' AND v.relkind = 'v' AND v.oid NOT IN (SELECT oid FROM rel)
    UNION
    SELECT dependent.classid, dependent.oid, a.rank + 1, a.kept AND v.oid IS NULL FROM recreated a
    CROSS JOIN LATERAL (SELECT a.classid, a.oid UNION ALL
                        SELECT 'pg_type'::regclass, t.oid FROM row_type t WHERE a.classid = 'pg_class'::regclass AND t.of = a.oid) base
    JOIN pg_depend d ON d.refclassid = base.classid AND d.refobjid = base.oid
    LEFT JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid AND w.rulename = '_RETURN'
    LEFT JOIN pg_class v ON v.oid = w.ev_class AND v.relkind = 'v' AND v.oid NOT IN (SELECT oid FROM rel)
    CROSS JOIN LATERAL (SELECT CASE WHEN v.oid IS NOT NULL THEN 'pg_class'::regclass ELSE d.classid END AS classid, coalesce(v.oid, d.objid) AS oid) dependent
    WHERE (v.oid IS NOT NULL OR d.classid = 'pg_proc'::regclass) AND dependent.oid <> a.oid AND a.rank < 40
), ranked AS (
    SELECT classid, oid, max(rank) AS rank, bool_and(kept) AS kept, pg_describe_object(classid, oid, 0) AS described FROM recreated GROUP BY classid, oid
), recreated_view AS (
    SELECT oid FROM ranked WHERE classid = 'pg_class'::regclass
), standing AS (
    SELECT classid, objid, objsubid, on_oid, on_name, through FROM depends
    UNION ALL
    SELECT d.classid, d.objid, d.objsubid, a.oid, a.described, 'recreated' FROM ranked a
    CROSS JOIN LATERAL (SELECT a.classid, a.oid UNION ALL
                        SELECT 'pg_type'::regclass, t.oid FROM row_type t WHERE a.classid = 'pg_class'::regclass AND t.of = a.oid) base
    JOIN pg_depend d ON d.refclassid = base.classid AND d.refobjid = base.oid
), viewed AS (
    SELECT DISTINCT v.oid, v.relname, v.relnamespace, v.relkind, v.relpersistence, v.relowner, v.reloptions, v.oid::regclass::text AS spelled, a.rank
    FROM standing d JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid AND w.rulename = '_RETURN'
    JOIN pg_class v ON v.oid = w.ev_class LEFT JOIN ranked a ON a.oid = v.oid AND a.classid = 'pg_class'::regclass
    WHERE v.oid NOT IN (SELECT oid FROM rel) AND (d.through <> 'recreated' OR a.oid IS NOT NULL)
), keyed AS (
    SELECT DISTINCT k.oid, k.conname, k.conrelid, k.convalidated, c.relkind, c.relowner, c.oid::regclass::text AS spelled
    FROM rel r JOIN pg_constraint k ON k.confrelid = r.oid AND k.contype = 'f' AND k.conparentid = 0
    JOIN pg_class c ON c.oid = k.conrelid WHERE k.conrelid NOT IN (SELECT oid FROM rel)
), guarded AS (
    SELECT DISTINCT p.oid, p.polname, p.polrelid, p.polqual, p.polwithcheck, c.relkind, c.relowner, c.oid::regclass::text AS spelled
    FROM depends d JOIN pg_policy p ON d.classid = 'pg_policy'::regclass AND p.oid = d.objid JOIN pg_class c ON c.oid = p.polrelid
    WHERE p.polrelid NOT IN (SELECT oid FROM rel)
), ruled AS (
    SELECT DISTINCT w.oid, w.rulename, c.relkind, c.relowner, c.oid::regclass::text AS spelled
    FROM depends d JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid AND w.rulename <> '_RETURN'
    JOIN pg_class c ON c.oid = w.ev_class
    WHERE c.oid NOT IN (SELECT oid FROM rel) AND c.oid NOT IN (SELECT oid FROM recreated_view)
), routines AS (
    SELECT DISTINCT f.oid, f.proname, f.prokind, f.proowner, f.pronamespace, f.proacl, f.prolang, f.proleakproof, f.prosupport, f.oid::regprocedure::text AS spelled, a.rank, a.kept
    FROM standing d JOIN pg_proc f ON d.classid = 'pg_proc'::regclass AND f.oid = d.objid
    LEFT JOIN ranked a ON a.oid = f.oid AND a.classid = 'pg_proc'::regclass
), published AS (
    SELECT p.pubname, p.pubowner, r.spelled,
           coalesce((SELECT ' (' || string_agg(quote_ident(c.attname), ', ' ORDER BY c.attnum) || ')' FROM pg_attribute c
                     WHERE c.attrelid = r.oid AND c.attnum = ANY (x.prattrs)), '')
           || coalesce(' WHERE (' || pg_get_expr(x.prqual, r.oid) || ')', '') AS part
    FROM rel r JOIN pg_publication_rel x ON x.prrelid = r.oid JOIN pg_publication p ON p.oid = x.prpubid
), defaults AS (
    -- What ALTER DEFAULT PRIVILEGES gives to whatever is recreated.
    SELECT DISTINCT d.defaclobjtype AS kind, d.defaclnamespace AS namespace, CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END AS who
    FROM pg_default_acl d, aclexplode(d.defaclacl) a WHERE d.defaclrole = (SELECT oid FROM pg_roles WHERE rolname = current_user)
), found AS (
    SELECT 'view ' || v.spelled AS object, v.rank, CASE WHEN v.rank IS NOT NULL THEN 'DROP VIEW ' || v.spelled || ' RESTRICT' END AS before,
           CASE WHEN v.rank IS NULL THEN
               'CREATE OR REPLACE VIEW ' || v.spelled
               || coalesce((SELECT ' WITH (' || string_agg(quote_ident(option_name) || ' = ' || quote_literal(option_value), ', ') || ')'
                            FROM pg_options_to_table(v.reloptions)), '')
               || ' AS ' || pg_get_viewdef(v.oid)
           ELSE 'CREATE VIEW ' || v.spelled || ' AS ' || rtrim(pg_get_viewdef(v.oid), ';') || '; ALTER VIEW ' || v.spelled || ' OWNER TO ' || quote_ident(pg_get_userbyid(v.relowner))
               || '; REVOKE ALL ON ' || v.spelled || ' FROM PUBLIC, ' || quote_ident(pg_get_userbyid(v.relowner))
               || coalesce((SELECT string_agg(DISTINCT ', ' || who, '') FROM defaults WHERE kind = 'r' AND namespace IN (0, v.relnamespace)), '')
           END AS after,
           v.spelled AS locked, v.relkind::text AS relkind, v.relowner AS owner, v.relnamespace AS namespace,
           CASE WHEN EXISTS (SELECT FROM pg_rewrite w JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
                             WHERE w.ev_class = v.oid AND d.refclassid = 'pg_class'::regclass AND d.refobjid IN (SELECT oid FROM incoming))
                THEN ARRAY['reads relations of two generations at once', 'drop it']
                WHEN v.relpersistence = 't' THEN ARRAY['is a temporary view of another session', 'drop it, or end that session'] END AS obstacle,
           CASE WHEN v.rank IS NOT NULL THEN v.oid END AS view
    FROM viewed v WHERE v.relkind = 'v'
    UNION ALL
    SELECT 'materialized view ' || spelled, NULL, NULL, NULL, NULL, NULL, relowner, NULL,
           ARRAY['reads live relations and would go on reading the backup', 'add it to the Portal''s materializedViews, or let it read {{ staging(...) }}'], NULL
    FROM viewed WHERE relkind = 'm'
    UNION ALL
    SELECT 'foreign key ' || quote_ident(k.conname) || ' of ' || k.spelled, NULL,
           'ALTER TABLE ' || k.spelled || ' DROP CONSTRAINT ' || quote_ident(k.conname),
           'ALTER TABLE ' || k.spelled || ' ADD CONSTRAINT ' || quote_ident(k.conname) || ' ' || pg_get_constraintdef(k.oid)
           || CASE WHEN k.convalidated THEN ' NOT VALID' ELSE '' END
           || coalesce('; COMMENT ON CONSTRAINT ' || quote_ident(k.conname) || ' ON ' || k.spelled || ' IS '
                       || quote_literal(obj_description(k.oid, 'pg_constraint')), ''),
           k.spelled, k.relkind::text, k.relowner, NULL,
           CASE WHEN k.relkind = 'p' THEN ARRAY['belongs to a partitioned table, where Postgres adds no key without checking all rows under the lock', 'drop it'] END, NULL
    FROM keyed k
    UNION ALL
    SELECT 'policy ' || quote_ident(p.polname) || ' on ' || p.spelled, NULL, NULL,
           'ALTER POLICY ' || quote_ident(p.polname) || ' ON ' || p.spelled
           || coalesce(' USING (' || pg_get_expr(p.polqual, p.polrelid) || ')', '')
           || coalesce(' WITH CHECK (' || pg_get_expr(p.polwithcheck, p.polrelid) || ')', ''),
           p.spelled, p.relkind::text, p.relowner, NULL, NULL, NULL
    FROM guarded p
    UNION ALL
    -- Its state and its comment stay as they are.
    SELECT 'rule ' || quote_ident(rulename) || ' on ' || spelled, NULL, NULL, 'CREATE OR REPLACE' || substr(pg_get_ruledef(oid), length('CREATE') + 1),
           spelled, relkind::text, relowner, NULL, NULL, NULL
    FROM ruled
    UNION ALL
    SELECT 'function ' || f.spelled, f.rank, CASE WHEN f.kept
               THEN 'ALTER ROUTINE ' || f.spelled || ' RENAME TO ' || quote_ident(('replaced_' || f.oid || '_' || f.proname)::name)
               WHEN f.rank IS NOT NULL THEN 'DROP ROUTINE ' || f.spelled || ' RESTRICT' END,
           -- A body that is text is not looked at: its names mean what the caller's search path makes of them.
           CASE WHEN f.prokind <> 'a' THEN 'SET LOCAL check_function_bodies = off; ' || pg_get_functiondef(f.oid) END || CASE WHEN f.rank IS NULL THEN '' ELSE
               '; ALTER ROUTINE ' || f.spelled || ' OWNER TO ' || quote_ident(pg_get_userbyid(f.proowner))
               || '; REVOKE ALL ON ROUTINE ' || f.spelled || ' FROM PUBLIC, ' || quote_ident(pg_get_userbyid(f.proowner))
               || coalesce((SELECT string_agg(DISTINCT ', ' || who, '') FROM defaults WHERE kind = 'f' AND namespace IN (0, f.pronamespace)), '')
               || coalesce((SELECT string_agg('; GRANT EXECUTE ON ROUTINE ' || f.spelled || ' TO '
                                              || CASE a.grantee WHEN 0 THEN 'PUBLIC' ELSE quote_ident(pg_get_userbyid(a.grantee)) END
                                              || CASE WHEN a.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END, '')
                            FROM aclexplode(coalesce(f.proacl, acldefault('f', f.proowner))) a), '')
               || coalesce('; COMMENT ON ROUTINE ' || f.spelled || ' IS ' || quote_literal(obj_description(f.oid, 'pg_proc')), '') END,
           NULL, NULL, f.proowner, f.pronamespace,
           CASE WHEN f.prokind = 'a' THEN ARRAY['is an aggregate over the row type, which a swap cannot make again', 'let it take columns']
                WHEN f.rank IS NOT NULL AND EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_proc'::regclass AND d.objid = f.oid AND d.deptype IN ('e', 'x'))
                THEN ARRAY['uses the row type and is bound to an extension', 'drop it, or let it take columns']
                WHEN f.rank IS NOT NULL AND EXISTS (SELECT FROM pg_seclabel l WHERE l.classoid = 'pg_proc'::regclass AND l.objoid = f.oid)
                THEN ARRAY['has security labels, which a swap does not carry over', 'remove them']
                WHEN current_setting('is_superuser') <> 'on' AND (
                     f.proleakproof OR f.prosupport <> 0 OR NOT has_language_privilege(f.prolang, 'USAGE')
                     OR NOT (SELECT l.lanpltrusted FROM pg_language l WHERE l.oid = f.prolang))
                THEN ARRAY['must be recreated in the swap, which its language, LEAKPROOF or SUPPORT allows only a superuser', 'drop or change it'] END, NULL
    FROM routines f
    UNION ALL
    SELECT 'publication ' || quote_ident(pubname) || ' of ' || spelled, NULL, 'ALTER PUBLICATION ' || quote_ident(pubname) || ' DROP TABLE ' || spelled,
           'ALTER PUBLICATION ' || quote_ident(pubname) || ' ADD TABLE ' || spelled || part, NULL, NULL, pubowner, NULL, NULL, NULL
    FROM published
    UNION ALL
    SELECT 'publication ' || quote_ident(p.pubname), NULL, NULL, NULL, NULL, NULL, NULL, NULL,
           ARRAY['already publishes ' || i.oid::regclass::text || ', which is about to go live', 'ALTER PUBLICATION ' || quote_ident(p.pubname)
           || ' DROP TABLE ' || i.oid::regclass::text || ', or its subscribers are sent what is staged'], NULL
    FROM incoming i JOIN pg_publication_rel x ON x.prrelid = i.oid JOIN pg_publication p ON p.oid = x.prpubid
    UNION ALL
    SELECT 'functions that earlier swaps replaced', NULL, 'DROP ROUTINE ' || string_agg(f.oid::regprocedure::text, ', ') || ' RESTRICT', NULL, NULL, NULL,
           (SELECT oid FROM pg_roles WHERE rolname = current_user), NULL, NULL, NULL
    FROM pg_proc f WHERE starts_with(f.proname::text, 'replaced_' || f.oid || '_') AND pg_has_role(f.proowner, 'USAGE') HAVING count(*) > 0
), left_over AS (
    SELECT DISTINCT CASE WHEN w.rulename = '_RETURN' THEN pg_describe_object('pg_class'::regclass, w.ev_class, 0)
                         ELSE pg_describe_object(d.classid, d.objid, d.objsubid) END AS object, d.on_name, d.through
    FROM standing d
    LEFT JOIN pg_rewrite w ON d.classid = 'pg_rewrite'::regclass AND w.oid = d.objid
    LEFT JOIN pg_constraint k ON d.classid = 'pg_constraint'::regclass AND k.oid = d.objid
    LEFT JOIN pg_attrdef v ON d.classid = 'pg_attrdef'::regclass AND v.oid = d.objid
    LEFT JOIN pg_trigger g ON d.classid = 'pg_trigger'::regclass AND g.oid = d.objid
    -- What is a part of the relation itself, and what is found above.
    WHERE NOT CASE d.classid
        WHEN 'pg_rewrite'::regclass THEN w.ev_class IN (SELECT oid FROM recreated_view) OR (d.through <> 'recreated' AND (
             w.ev_class IN (SELECT oid FROM rel) OR w.ev_class IN (SELECT oid FROM viewed) OR w.oid IN (SELECT oid FROM ruled)))
        WHEN 'pg_class'::regclass THEN d.objid IN (SELECT oid FROM recreated_view) OR (d.through = 'relation' AND (
             d.objid IN (SELECT indexrelid FROM pg_index WHERE indrelid IN (SELECT oid FROM rel)) OR d.objid IN (SELECT oid FROM owned)
             OR d.objid IN (SELECT reltoastrelid FROM rel) OR d.objid IN (SELECT oid FROM rel)
             -- Of these obstacles.sql speaks.
             OR d.objid IN (SELECT inhrelid FROM pg_inherits WHERE inhparent IN (SELECT oid FROM rel))))
        WHEN 'pg_constraint'::regclass THEN d.through = 'relation' AND (
             k.conrelid IN (SELECT oid FROM rel) OR (k.contype = 'f' AND k.confrelid IN (SELECT oid FROM rel)))
        WHEN 'pg_attrdef'::regclass THEN v.adrelid = d.on_oid OR (d.through IN ('relation', 'sequence') AND v.adrelid IN (SELECT oid FROM incoming))
        WHEN 'pg_trigger'::regclass THEN g.tgisinternal OR g.tgrelid = d.on_oid OR (d.through = 'relation' AND g.tgrelid IN (SELECT oid FROM rel))
        WHEN 'pg_policy'::regclass THEN d.through <> 'recreated'
        WHEN 'pg_statistic_ext'::regclass THEN d.objid IN (SELECT oid FROM pg_statistic_ext WHERE stxrelid IN (SELECT oid FROM rel))
        WHEN 'pg_type'::regclass THEN d.objid IN (SELECT oid FROM row_type)
        ELSE d.classid IN ('pg_proc'::regclass, 'pg_publication_rel'::regclass) END
    UNION
    SELECT described, described, 'circle' FROM ranked WHERE rank >= 40
), listed AS (
    SELECT f.rank, f.object, f.before, f.after, f.locked, f.relkind, o.owner,
           coalesce(f.obstacle,
               CASE WHEN NOT pg_has_role(f.owner, 'USAGE')
                    THEN ARRAY['belongs to ' || o.owner || ' and must be changed in the swap', 'GRANT ' || o.owner || ' TO ' || o.me
                         || ', or give it to ' || o.me || ' with ALTER ... OWNER TO']
                    WHEN f.namespace IS NOT NULL AND NOT has_schema_privilege(f.namespace, 'CREATE')
                    THEN ARRAY['must be recreated in the swap where ' || o.me || ' may not create', 'GRANT CREATE ON SCHEMA ' || o.schema || ' TO ' || o.me]
                    WHEN f.rank IS NOT NULL AND NOT has_schema_privilege(f.owner, f.namespace, 'CREATE')
                    THEN ARRAY['must be recreated in the swap for ' || o.owner || ', who may not create there', 'GRANT CREATE ON SCHEMA ' || o.schema || ' TO ' || o.owner]
               END) AS obstacle,
           CASE WHEN f.view IS NOT NULL THEN (SELECT n.nspname::text FROM pg_namespace n WHERE n.oid = f.namespace) END AS view_schema,
           (SELECT c.relname::text FROM pg_class c WHERE c.oid = f.view) AS view
    FROM found f, LATERAL (SELECT quote_ident(pg_get_userbyid(f.owner)) AS owner, quote_ident(current_user) AS me, f.namespace::regnamespace::text AS schema) o
    UNION ALL
    SELECT NULL, object, NULL, NULL, NULL, NULL, NULL,
           CASE through WHEN 'type' THEN ARRAY['uses the row type of ' || on_name || ', which a swap cannot exchange', 'name the columns instead']
                        WHEN 'sequence' THEN ARRAY['draws from ' || on_name || ', which goes away with the backup', 'give it a sequence of its own']
                        WHEN 'rebuilt' THEN ARRAY['depends on ' || on_name || ', which uses a row type and so is rebuilt in the swap', 'drop or change it']
                        WHEN 'circle' THEN ARRAY['uses a row type and is defined in a circle with others, which a swap cannot rebuild', 'drop or change it']
                        ELSE ARRAY['depends on ' || on_name || ' in a way that a swap cannot carry over', 'drop or change it'] END, NULL, NULL
    FROM left_over
)
SELECT object, before, after, locked, relkind, owner, obstacle, view_schema, view FROM listed ORDER BY rank NULLS LAST, object
