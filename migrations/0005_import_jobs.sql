-- Imports by a Kubernetes Job with an image of the user's own. A row for each import of a release that a Job makes.
CREATE TABLE portal_release.import_jobs (
    release_id  bigint  NOT NULL,
    import      text    NOT NULL,
    job         text    UNIQUE,                           -- the Job that runs, or that is kept to be looked at; null: there is none
    attempt     int     NOT NULL DEFAULT 0,               -- the number in the Job's name; never used twice
    running     boolean NOT NULL DEFAULT false,           -- it may write: the functions below refuse any other one
    rows_before bigint  NOT NULL,                         -- rows of the staged table before the first attempt
    checkpoint  text    CHECK (octet_length(checkpoint) <= 32768),
    PRIMARY KEY (release_id, import),
    FOREIGN KEY (release_id, import) REFERENCES portal_release.imports ON DELETE CASCADE
);
COMMENT ON TABLE portal_release.import_jobs IS 'Imports that a Kubernetes Job makes: its name, its attempt and how far it got';

-- What an import's Job calls, with the value of its variable PORTAL_JOB. A Job that was given up is refused, and with it the
-- transaction in which it asks.
CREATE FUNCTION portal_release.checkpoint(job text) RETURNS text LANGUAGE plpgsql STABLE SET search_path = '' AS $$
DECLARE
    stored text;
BEGIN
    SELECT i.checkpoint INTO stored FROM portal_release.import_jobs AS i WHERE i.job = checkpoint.job AND i.running;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'Job % does not import, or not any more', checkpoint.job
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Give the value of PORTAL_JOB; a Job that was given up has to end.';
    END IF;
    RETURN stored;
END $$;
COMMENT ON FUNCTION portal_release.checkpoint(text) IS 'What an import''s Job stored last; null before that';

CREATE FUNCTION portal_release.set_checkpoint(job text, checkpoint text) RETURNS void LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
    UPDATE portal_release.import_jobs AS i SET checkpoint = set_checkpoint.checkpoint WHERE i.job = set_checkpoint.job AND i.running;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'Job % does not import, or not any more', set_checkpoint.job
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Give the value of PORTAL_JOB; a Job that was given up has to end.';
    END IF;
END $$;
COMMENT ON FUNCTION portal_release.set_checkpoint(text, text) IS 'Stores how far an import''s Job got, in the transaction that wrote the rows';

CREATE FUNCTION portal_release.reject_row(job text, reason text, key text DEFAULT NULL, "row" jsonb DEFAULT NULL) RETURNS void
LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
    INSERT INTO portal_release.rejected_rows (release_id, import, key, reason, row)
    SELECT i.release_id, i.import, reject_row.key, reject_row.reason, reject_row."row" FROM portal_release.import_jobs AS i
    WHERE i.job = reject_row.job AND i.running;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'Job % does not import, or not any more', reject_row.job
            USING ERRCODE = 'object_not_in_prerequisite_state', HINT = 'Give the value of PORTAL_JOB; a Job that was given up has to end.';
    END IF;
END $$;
COMMENT ON FUNCTION portal_release.reject_row(text, text, text, jsonb) IS 'Notes a row that an import''s Job leaves out, and why; maxRejected of the import says how many may be';
