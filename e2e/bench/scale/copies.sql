-- Copies of release Jul2026 in the ledger, for the objects in table copies: rows as the operator has written them, under other names.

-- The columns of a table but some, whatever it has by now.
CREATE FUNCTION pg_temp.rest(of regclass, VARIADIC but text[]) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg('o.' || quote_ident(attname), ', ' ORDER BY attnum) FROM pg_attribute
    WHERE attrelid = of AND attnum > 0 AND NOT attisdropped AND attidentity = '' AND attname <> ALL (but)
$$;
CREATE FUNCTION pg_temp.copy(into_ regclass, keys text, copies text, VARIADIC but text[]) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    columns text := pg_temp.rest(into_, VARIADIC but);
BEGIN
    EXECUTE format('INSERT INTO %s (%s, %s) SELECT %s, %s %s', into_, array_to_string(but, ', '), replace(columns, 'o.', ''), keys, columns, copies);
END $$;

SELECT pg_temp.copy('portal_release.releases', 'c.label, c.name, c.uid',
    'FROM portal_release.releases o CROSS JOIN public.copies c WHERE o.label = ''Jul2026''', 'label', 'name', 'uid');
CREATE TEMP TABLE original AS
    SELECT r.id AS release, max(u.id) AS run FROM portal_release.releases r JOIN portal_release.runs u ON u.release_id = r.id WHERE label = 'Jul2026' GROUP BY r.id;
SELECT pg_temp.copy('portal_release.runs', 'r.id',
    'FROM portal_release.runs o JOIN original ON o.id = original.run CROSS JOIN portal_release.releases r JOIN public.copies USING (label)', 'release_id');
SELECT pg_temp.copy('portal_release.phases', 'u.id',
    'FROM portal_release.phases o JOIN original ON o.run_id = original.run
     CROSS JOIN portal_release.runs u JOIN portal_release.releases r ON r.id = u.release_id JOIN public.copies USING (label)', 'run_id');
SELECT pg_temp.copy('portal_release.imports', 'r.id',
    'FROM portal_release.imports o JOIN original ON o.release_id = original.release CROSS JOIN portal_release.releases r JOIN public.copies USING (label)', 'release_id');
