SET LOCAL lock_timeout = '5s'; -- an operator of before may be at work: it must not queue behind this
-- Every Kubernetes Job of a release, whatever it is for: one table, one engine (src/jobs). The row is written before the Job is created.
CREATE TABLE portal_release.jobs (
    release_id bigint NOT NULL REFERENCES portal_release.releases,
    purpose    text   NOT NULL,                           -- import, gate, postSwap
    item       text   NOT NULL,                           -- name of the import, the gate or the hook
    job        text   UNIQUE,                             -- the Job that runs, or that is kept for inspection; null: there is none
    attempt    int    NOT NULL DEFAULT 0,                 -- the number in the Job's name; never used twice
    state      text   NOT NULL DEFAULT 'Ended' CHECK (state IN ('Running', 'Succeeded', 'Ended')), -- Running: announced, and not over
    run_id     bigint,                                    -- the run that announced it
    PRIMARY KEY (release_id, purpose, item)
);
COMMENT ON TABLE portal_release.jobs IS 'Kubernetes Jobs of releases: name, attempt and state, for each import, gate and hook by a Job';

-- import_jobs keeps what only imports have: rows_before and checkpoint. Its job, attempt and running are those of its row in jobs. They
-- stay, in both tables alike, until a later version drops them here: an operator of before, which may still run during the upgrade or
-- come back after it, reads and writes them, and so do the functions that a Job calls (docs/job-imports.md), with the rights of the
-- Job's role. A checkpoint fires no trigger, so that role needs no right on jobs. What a trigger writes is not mirrored back.
CREATE FUNCTION portal_release.import_job_is_a_job() RETURNS trigger LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
    IF TG_OP = 'INSERT' THEN
        -- A known row stays: its number must not be given again.
        INSERT INTO portal_release.jobs (release_id, purpose, item, job, attempt, state)
        VALUES (NEW.release_id, 'import', NEW.import, NEW.job, NEW.attempt, CASE WHEN NEW.running THEN 'Running' ELSE 'Ended' END)
        ON CONFLICT ON CONSTRAINT jobs_pkey DO NOTHING;
    ELSE
        UPDATE portal_release.jobs AS j
        SET job = NEW.job, attempt = NEW.attempt, state = CASE WHEN NEW.running THEN 'Running' ELSE 'Ended' END
        WHERE j.release_id = NEW.release_id AND j.purpose = 'import' AND j.item = NEW.import;
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION portal_release.job_is_an_import_job() RETURNS trigger LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
    UPDATE portal_release.import_jobs AS i SET job = NEW.job, attempt = NEW.attempt, running = NEW.state = 'Running'
    WHERE i.release_id = NEW.release_id AND i.import = NEW.item;
    RETURN NULL;
END $$;

-- The trigger first: its lock keeps writers out until all rows are here.
CREATE TRIGGER in_jobs AFTER INSERT OR UPDATE OF job, attempt, running ON portal_release.import_jobs
    FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION portal_release.import_job_is_a_job();
INSERT INTO portal_release.jobs (release_id, purpose, item, job, attempt, state)
SELECT release_id, 'import', import, job, attempt, CASE WHEN running THEN 'Running' ELSE 'Ended' END FROM portal_release.import_jobs;
CREATE TRIGGER in_import_jobs AFTER INSERT OR UPDATE ON portal_release.jobs
    FOR EACH ROW WHEN (pg_trigger_depth() = 0 AND NEW.purpose = 'import') EXECUTE FUNCTION portal_release.job_is_an_import_job();
