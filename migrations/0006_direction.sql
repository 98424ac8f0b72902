-- A run is a list of (phase, direction): a rollback undoes what a release did.
ALTER TABLE portal_release.phases
    ADD COLUMN direction text CHECK (direction IN ('Do', 'Undo')); -- null: from a version without directions, whose rollbacks undid the swap and did everything else
