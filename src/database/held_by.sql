-- What depends on the relations of each backup without being a part of it. $1: schema; $2, $3: timestamps and relation names.
WITH rel AS (
    SELECT t.stamp, c.oid, c.reltype FROM unnest($2::text[], $3::text[]) AS t(stamp, name)
    JOIN pg_class c ON c.relname = t.name JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = $1
), own AS (
    SELECT stamp, 'pg_class'::regclass AS classid, oid AS objid FROM rel
    UNION SELECT stamp, 'pg_type'::regclass, reltype FROM rel
    UNION SELECT stamp, 'pg_type'::regclass, t.typarray FROM rel JOIN pg_type t ON t.oid = rel.reltype
    UNION SELECT stamp, 'pg_class'::regclass, i.indexrelid FROM rel JOIN pg_index i ON i.indrelid = rel.oid
    UNION SELECT stamp, 'pg_constraint'::regclass, k.oid FROM rel JOIN pg_constraint k ON k.conrelid = rel.oid
    UNION SELECT stamp, 'pg_attrdef'::regclass, a.oid FROM rel JOIN pg_attrdef a ON a.adrelid = rel.oid
    UNION SELECT stamp, 'pg_rewrite'::regclass, r.oid FROM rel JOIN pg_rewrite r ON r.ev_class = rel.oid
    UNION SELECT stamp, 'pg_policy'::regclass, p.oid FROM rel JOIN pg_policy p ON p.polrelid = rel.oid
    UNION SELECT stamp, 'pg_trigger'::regclass, g.oid FROM rel JOIN pg_trigger g ON g.tgrelid = rel.oid
    UNION SELECT stamp, 'pg_statistic_ext'::regclass, e.oid FROM rel JOIN pg_statistic_ext e ON e.stxrelid = rel.oid
    UNION SELECT stamp, 'pg_class'::regclass, s.oid FROM rel
          JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = rel.oid AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
          JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
)
SELECT own.stamp, array_agg(DISTINCT CASE WHEN d.classid = 'pg_rewrite'::regclass
            THEN (SELECT pg_describe_object('pg_class'::regclass, r.ev_class, 0) FROM pg_rewrite r WHERE r.oid = d.objid)
            ELSE pg_describe_object(d.classid, d.objid, d.objsubid) END)
FROM own JOIN pg_depend d ON d.refclassid = own.classid AND d.refobjid = own.objid AND d.deptype = 'n'
WHERE NOT EXISTS (SELECT FROM own o WHERE o.stamp = own.stamp AND o.classid = d.classid AND o.objid = d.objid)
GROUP BY own.stamp
