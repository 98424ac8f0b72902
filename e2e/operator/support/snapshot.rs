//! What readers of the portal's database find, as text: two runs that ended alike have the same lines.
//!
//! Surrogate ids are omitted. They come from sequences, and a transaction that was rolled back takes its numbers with it, so a
//! killed release leaves gaps that an undisturbed one has not. A row is compared without its own `id`, and each reference to
//! another row's `id` as what that row says.

use super::Stage;

/// Functions that describe relations, in a schema of their own.
const FUNCTIONS: &str = r"
CREATE SCHEMA IF NOT EXISTS e2e;
-- Columns that hold a number without a meaning: an id from a sequence, and references to an id.
CREATE OR REPLACE FUNCTION e2e.surrogates(rel regclass) RETURNS text[] LANGUAGE sql AS $$
  SELECT coalesce(array_agg(DISTINCT column_name), '{}') FROM (
    SELECT attname::text FROM pg_attribute LEFT JOIN pg_attrdef ON adrelid = attrelid AND adnum = attnum
    WHERE attrelid = rel AND attname = 'id' AND (attidentity <> '' OR pg_get_expr(adbin, adrelid) LIKE 'nextval(%')
    UNION ALL
    SELECT a.attname::text FROM pg_constraint c
    JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
    JOIN pg_attribute f ON f.attrelid = c.confrelid AND f.attnum = c.confkey[1]
    WHERE c.conrelid = rel AND c.contype = 'f' AND cardinality(c.conkey) = 1 AND f.attname = 'id'
  ) AS columns(column_name)
$$;
CREATE OR REPLACE FUNCTION e2e.content(rel regclass) RETURNS text LANGUAGE plpgsql AS $$
DECLARE referenced text; result text;
BEGIN
  SELECT coalesce(string_agg(format(' || jsonb_build_object(%L, (SELECT to_jsonb(r) - %L::text[] FROM %s r WHERE r.id = t.%I))',
           a.attname, e2e.surrogates(c.confrelid), c.confrelid::regclass, a.attname), '' ORDER BY a.attname), '') INTO referenced
  FROM pg_constraint c
  JOIN pg_attribute a ON a.attrelid = c.conrelid AND a.attnum = c.conkey[1]
  JOIN pg_attribute f ON f.attrelid = c.confrelid AND f.attnum = c.confkey[1]
  WHERE c.conrelid = rel AND c.contype = 'f' AND cardinality(c.conkey) = 1 AND f.attname = 'id';
  EXECUTE format('SELECT count(*) || '' rows '' || coalesce(md5(string_agg(line, '''' ORDER BY line)), '''') FROM (
      SELECT md5(((to_jsonb(t) - %L::text[])%s)::text) AS line FROM %s t) AS lines', e2e.surrogates(rel), referenced, rel) INTO result;
  RETURN result;
END $$;
CREATE OR REPLACE FUNCTION e2e.next_id_is_free(seq regclass, rel regclass, col name) RETURNS boolean LANGUAGE plpgsql AS $$
DECLARE free boolean;
BEGIN
  EXECUTE format('SELECT coalesce((SELECT max(%I) FROM %s), 0) < (SELECT last_value + CASE WHEN is_called THEN 1 ELSE 0 END FROM %s)', col, rel, seq) INTO free;
  RETURN free;
END $$;
CREATE OR REPLACE VIEW e2e.relations AS
  SELECT c.* FROM pg_class c
  WHERE c.relnamespace = 'public'::regnamespace
    AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e');
";

/// One line for each thing that is to be the same.
const LINES: &str = r"
  SELECT format('%s %s: %s, owner %s, grants %s, options %s', relkind, relname, CASE WHEN relkind IN ('r', 'm', 'v') THEN e2e.content(oid) END,
                relowner::regrole, relacl, reloptions) AS line FROM e2e.relations WHERE relkind IN ('r', 'm', 'v')
  UNION ALL
  SELECT format('column %s.%s %s%s default %s%s%s grants %s', r.relname, a.attname, format_type(a.atttypid, a.atttypmod),
                CASE WHEN a.attnotnull THEN ' not null' END, pg_get_expr(d.adbin, d.adrelid), a.attidentity, a.attgenerated, a.attacl)
  FROM e2e.relations r JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum > 0 AND NOT a.attisdropped
  LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum WHERE r.relkind IN ('r', 'm', 'v')
  UNION ALL
  SELECT format('constraint %s.%s %s valid %s', r.relname, c.conname, pg_get_constraintdef(c.oid), c.convalidated)
  FROM e2e.relations r JOIN pg_constraint c ON c.conrelid = r.oid
  UNION ALL
  SELECT format('index %s', pg_get_indexdef(oid)) FROM e2e.relations WHERE relkind = 'i'
  UNION ALL
  SELECT format('trigger %s', pg_get_triggerdef(t.oid)) FROM e2e.relations r JOIN pg_trigger t ON t.tgrelid = r.oid AND NOT t.tgisinternal
  UNION ALL
  SELECT format('definition of %s %s', relname, pg_get_viewdef(oid)) FROM e2e.relations WHERE relkind IN ('m', 'v')
  UNION ALL
  SELECT format('sequence %s of %s.%s, its next number is free: %s', s.relname, t.relname, a.attname, e2e.next_id_is_free(s.oid, t.oid, a.attname))
  FROM e2e.relations s
  JOIN pg_depend d ON d.objid = s.oid AND d.classid = 'pg_class'::regclass AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')
  JOIN pg_class t ON t.oid = d.refobjid JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum = d.refobjsubid
  WHERE s.relkind = 'S'";

/// Everything in the portal's schema: content, structure, grants. Timestamps of backups are omitted, and the hashes in long names
/// of their relations, which come from the timestamp.
pub async fn of(stage: &Stage) -> Vec<String> {
    stage.execute(FUNCTIONS).await;
    let sql = format!(
        "SELECT regexp_replace(regexp_replace(line, '\\m(bk[0-9]{{10}}_\\w+_)[0-9a-f]{{8}}\\M', '\\1HASH', 'g'), 'bk[0-9]{{10}}', 'bkSTAMP', 'g') COLLATE \"C\" FROM ({LINES}) AS lines ORDER BY 1"
    );
    sqlx::query_scalar(sqlx::AssertSqlSafe(sql)).fetch_all(&stage.database).await.expect("the schema can be described")
}

/// Both must be the same; the panic shows what differs.
pub fn assert_same(what: &str, now: &[String], wanted: &[String]) {
    let only = |these: &[String], others: &[String]| {
        let lines: Vec<String> = these.iter().filter(|line| !others.contains(line)).map(|line| format!("  {line}")).collect();
        lines.join("\n")
    };
    assert!(
        now == wanted && wanted.len() > 200,
        "{what}: {} lines\nonly here:\n{}\nonly in the reference:\n{}",
        now.len(),
        only(now, wanted),
        only(wanted, now)
    );
}
