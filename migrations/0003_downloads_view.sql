-- The downloads view changes in the swap's own transaction, and a rollback gives it back the query that it had.
ALTER TABLE portal_release.releases ADD COLUMN downloads_view text;    -- its query while the release is live
ALTER TABLE portal_release.backups ADD COLUMN definition text;         -- of kind 'downloads view': the query that it had before
