-- One number for the state of everything that a plan was made from: which catalogue rows there are, and the transaction that wrote
-- each. It is read with the plan and again under the locks, where nobody can change these rows any more: the same number, the same plan.
--
-- $1 schema, $2 names of the relations in all generations concerned, $3 identities that the swap itself renames beforehand
WITH rel AS (
    SELECT c.oid, c.reltype FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = $1 AND c.relname = ANY ($2)
), seq AS (
    SELECT d.objid AS oid FROM pg_depend d JOIN pg_class s ON s.oid = d.objid AND s.relkind = 'S'
    WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid IN (SELECT oid FROM rel) AND d.classid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
), typ AS (
    SELECT t.oid FROM pg_type t WHERE t.oid IN (SELECT reltype FROM rel)
    UNION ALL SELECT t.typarray FROM pg_type t WHERE t.oid IN (SELECT reltype FROM rel) AND t.typarray <> 0
), dep AS (
    SELECT d.classid, d.objid, d.refobjid, d.xmin FROM pg_depend d
    WHERE d.refclassid = 'pg_class'::regclass AND d.refobjid IN (SELECT oid FROM rel UNION ALL SELECT oid FROM seq)
    UNION ALL
    SELECT d.classid, d.objid, d.refobjid, d.xmin FROM pg_depend d
    WHERE d.refclassid = 'pg_type'::regclass AND d.refobjid IN (SELECT oid FROM typ)
), wide AS (
    SELECT oid FROM rel UNION SELECT oid FROM seq
    UNION SELECT w.ev_class FROM dep JOIN pg_rewrite w ON dep.classid = 'pg_rewrite'::regclass AND w.oid = dep.objid
    UNION SELECT p.polrelid FROM dep JOIN pg_policy p ON dep.classid = 'pg_policy'::regclass AND p.oid = dep.objid
    UNION SELECT k.conrelid FROM pg_constraint k WHERE k.contype = 'f' AND k.confrelid IN (SELECT oid FROM rel)
), seen (class, one, other, xmin) AS (
    SELECT 1, d.objid, d.refobjid, d.xmin FROM dep d
    UNION ALL SELECT 2, c.oid, 0, c.xmin FROM pg_class c WHERE c.oid IN (SELECT oid FROM wide)
    UNION ALL SELECT 3, a.attrelid, a.attnum::int8, a.xmin FROM pg_attribute a WHERE a.attrelid IN (SELECT oid FROM wide) AND a.attnum > 0
    UNION ALL SELECT 4, d.oid, 0, d.xmin FROM pg_attrdef d WHERE d.adrelid IN (SELECT oid FROM wide)
    UNION ALL SELECT 5, i.indexrelid, 0, i.xmin FROM pg_index i WHERE i.indrelid IN (SELECT oid FROM rel)
    UNION ALL SELECT 6, k.oid, 0, k.xmin FROM pg_constraint k
              WHERE k.conrelid IN (SELECT oid FROM wide) AND NOT (k.contype IN ('p', 'u', 'x') AND k.conindid = ANY ($3))
    UNION ALL SELECT 7, t.oid, 0, t.xmin FROM pg_trigger t WHERE t.tgrelid IN (SELECT oid FROM wide)
    UNION ALL SELECT 8, p.oid, 0, p.xmin FROM pg_policy p WHERE p.polrelid IN (SELECT oid FROM wide)
    UNION ALL SELECT 9, w.oid, 0, w.xmin FROM pg_rewrite w WHERE w.ev_class IN (SELECT oid FROM wide)
    UNION ALL SELECT 10, e.oid, 0, e.xmin FROM pg_statistic_ext e WHERE e.stxrelid IN (SELECT oid FROM rel) AND NOT e.oid = ANY ($3)
    UNION ALL SELECT 11, d.objoid, d.objsubid::int8, d.xmin FROM pg_description d WHERE d.classoid = 'pg_class'::regclass AND d.objoid IN (SELECT oid FROM wide)
    UNION ALL SELECT 12, f.oid, 0, f.xmin FROM dep JOIN pg_proc f ON dep.classid = 'pg_proc'::regclass AND f.oid = dep.objid
    UNION ALL SELECT 13, i.inhrelid, i.inhparent, i.xmin FROM pg_inherits i WHERE i.inhrelid IN (SELECT oid FROM rel) OR i.inhparent IN (SELECT oid FROM rel)
    UNION ALL SELECT 14, x.oid, 0, x.xmin FROM pg_publication_rel x WHERE x.prrelid IN (SELECT oid FROM rel)
)
SELECT coalesce(sum(hashint8extended((one::int8 << 32) | xmin::text::int8, class + other::int8 * 31)), 0)::text FROM seen
