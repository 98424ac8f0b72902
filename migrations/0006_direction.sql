SET LOCAL lock_timeout = '5s'; -- an operator of before may be at work: it must not queue behind this
-- A run is a list of (phase, direction): a rollback undoes what a release did.
ALTER TABLE portal_release.phases
    ADD COLUMN direction text CHECK (direction IN ('Do', 'Undo')); -- null: from a version without directions, whose rollbacks undid the swap and did everything else
