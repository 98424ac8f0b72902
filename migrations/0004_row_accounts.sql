-- Every row is accounted for: rows_read = rows + rows_rejected + rows_collapsed once an import has succeeded.
ALTER TABLE portal_release.imports
    ADD COLUMN rows_read      bigint NOT NULL DEFAULT 0,      -- what the queries returned; at the end what the source holds, where the Portal counts it
    ADD COLUMN rows_rejected  bigint NOT NULL DEFAULT 0,      -- refused by a rule of the Portal or by the database: portal_release.rejected_rows
    ADD COLUMN rows_collapsed bigint NOT NULL DEFAULT 0,      -- folded into other rows by the query, or known to the look-up table already
    ADD COLUMN source_rows    bigint,                         -- what the Portal's `reads` counted
    ADD COLUMN began_at       timestamptz,                    -- this attempt
    ADD COLUMN began_rows     bigint NOT NULL DEFAULT 0,      -- rows and rejected rows that it found there
    ADD COLUMN moved_at       timestamptz,                    -- when rows last arrived
    ADD COLUMN again          boolean NOT NULL DEFAULT false; -- its staged table is to be emptied, and it is to run once more

CREATE TABLE portal_release.rejected_rows (
    id          bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    release_id  bigint      NOT NULL REFERENCES portal_release.releases,
    import      text        NOT NULL,
    key         text,                                         -- the import's key, where it has one
    sqlstate    text,                                         -- why the database refused it; null: a rule of the Portal did
    reason      text        NOT NULL,
    row         jsonb,                                        -- what the query returned; long values are cut and say so
    rejected_at timestamptz NOT NULL DEFAULT now()
);
CREATE INDEX rejected_rows_of_import ON portal_release.rejected_rows (release_id, import);
COMMENT ON TABLE portal_release.rejected_rows IS 'Rows that a release left out, and why; kept when it is over, deleted when it is aborted or imports again';
