SET LOCAL lock_timeout = '5s'; -- an operator of before may be at work: it must not queue behind this
-- What a run works from: written when its first phase starts, and again at safe points only. A Portal, a release or a ConfigMap that
-- is edited meanwhile changes nothing in the middle of a run. No value of a Secret is ever in it.
CREATE TABLE portal_release.definitions (
    run_id     bigint      PRIMARY KEY REFERENCES portal_release.runs,
    portal     jsonb,                                     -- the Portal's spec, without what is read live; of what may hold a secret the SHA-256
    release    jsonb,                                     -- the PortalRelease's spec, without what is read live
    sources    jsonb,                                     -- queries and Job templates from ConfigMaps, by name and key; all three: null of a release's former runs
    spec_hash  text        NOT NULL,                      -- SHA-256 of portal and release: compared with the objects as they are now
    hash       text        NOT NULL,                      -- SHA-256 of all of it
    stale      boolean     NOT NULL DEFAULT false,        -- the run has come to a safe point: the next phase resolves it again
    edited     text,                                      -- spec_hash of objects edited since, once people have been told of it
    defined_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE portal_release.definitions IS 'What each run works from: the specs and queries as they were when it began';

-- An operator of before that reopens a run does not know of definitions.
CREATE FUNCTION portal_release.reopened_run_is_resolved_again() RETURNS trigger LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
    UPDATE portal_release.definitions AS d SET stale = true WHERE d.run_id = NEW.id;
    RETURN NULL;
END $$;
CREATE TRIGGER in_definitions AFTER UPDATE OF closed_at ON portal_release.runs
    FOR EACH ROW WHEN (OLD.closed_at IS NOT NULL AND NEW.closed_at IS NULL) EXECUTE FUNCTION portal_release.reopened_run_is_resolved_again();
