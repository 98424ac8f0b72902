-- What a rollback would take away, and a function that tells readers which release they see.

ALTER TABLE portal_release.portals
    ADD COLUMN live_since timestamptz,                    -- when the data that readers see became live
    ADD COLUMN written    jsonb;                          -- what was written to the live tables since then, when it was last counted

ALTER TABLE portal_release.runs
    ADD COLUMN accept_data_loss boolean NOT NULL DEFAULT false, -- the acceptDataLoss that the run was opened with
    ADD COLUMN incoming_rows    jsonb;                    -- of a rollback or roll forward: rows of the tables that become live, by name

CREATE TABLE portal_release.live_tables (
    portal       text        NOT NULL REFERENCES portal_release.portals,
    name         text        NOT NULL,
    relation_oid oid         NOT NULL,                    -- another relation under the name was made live by somebody else
    rows         bigint,                                  -- when it became live
    snapshot     pg_snapshot NOT NULL,                    -- of the swap: what it does not see was written later
    PRIMARY KEY (portal, name)
);
COMMENT ON TABLE portal_release.live_tables IS 'The live tables as they were when they became live: what has changed since would be lost in a rollback';

-- Always one row: nulls when the data is from before the operator. STABLE: it is answered from the snapshot of the statement that
-- calls it, so it speaks of the very data that this statement reads.
CREATE FUNCTION portal_release.current_release(of_portal text DEFAULT NULL,
        OUT portal text, OUT release_id bigint, OUT label text, OUT live_since timestamptz)
    LANGUAGE plpgsql STABLE PARALLEL RESTRICTED SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    known text[];
BEGIN
    IF of_portal IS NULL THEN
        SELECT array_agg(p.portal ORDER BY p.portal) INTO known FROM portal_release.portals p;
        IF cardinality(known) > 1 THEN
            RAISE EXCEPTION 'this database has several portals: %', array_to_string(known, ', ')
                USING HINT = 'Name one: portal_release.current_release(''namespace/name'').', ERRCODE = 'invalid_parameter_value';
        END IF;
        of_portal := known[1];
    END IF;
    SELECT p.portal, r.id, r.label, coalesce(p.live_since, r.swapped_at) INTO portal, release_id, label, live_since
    FROM portal_release.portals p LEFT JOIN portal_release.releases r ON r.id = p.current_release
    WHERE p.portal = of_portal;
    IF NOT FOUND AND of_portal IS NOT NULL THEN
        RAISE EXCEPTION 'this database has no portal %', of_portal
            USING HINT = 'Portals are named namespace/name.', ERRCODE = 'invalid_parameter_value';
    END IF;
END $$;
COMMENT ON FUNCTION portal_release.current_release IS 'The release that the calling statement reads: to be selected beside the data';
GRANT USAGE ON SCHEMA portal_release TO PUBLIC;
GRANT EXECUTE ON FUNCTION portal_release.current_release TO PUBLIC;
