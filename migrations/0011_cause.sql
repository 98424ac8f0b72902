SET LOCAL lock_timeout = '5s';

-- A rollback that nobody asked for has no target. This is the failure that it answers, because onFailure is Rollback.
ALTER TABLE portal_release.runs ADD COLUMN cause text;
COMMENT ON COLUMN portal_release.runs.cause IS 'The failure after the swap that this rollback answers, as onFailure asks for';
