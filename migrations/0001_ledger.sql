-- The ledger: the truth about every release of the portals in this database. The status of a PortalRelease is a
-- projection of it. What a phase did and the row that says so commit in one transaction.

CREATE TABLE portal_release.portals (
    portal          text        PRIMARY KEY,              -- namespace/name of the Portal
    epoch           bigint      NOT NULL DEFAULT 0,       -- fencing token: every change checks it in its own transaction
    holder          text,                                 -- the operator process that took the epoch
    current_release bigint,                               -- what readers see; null before the first release
    staging_release bigint,                               -- whose data the staging_* relations hold
    changed_at      timestamptz NOT NULL DEFAULT now()
);
COMMENT ON TABLE portal_release.portals IS 'One row a portal: fencing epoch, current release, owner of the staging relations';

CREATE TABLE portal_release.releases (
    id              bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    portal          text        NOT NULL REFERENCES portal_release.portals,
    label           text        NOT NULL,
    name            text        NOT NULL,                 -- name of the PortalRelease
    uid             text        NOT NULL,                 -- its uid
    state           text        NOT NULL CHECK (state IN ('Pending', 'Running', 'Suspended', 'DryRunComplete', 'Live',
                                    'Superseded', 'RollingBack', 'RolledBack', 'Aborted', 'Failed')),
    message         text        NOT NULL DEFAULT '',
    reason          text,
    retry_seen      bigint      NOT NULL DEFAULT 0,       -- the spec.retry that the last run answered
    abort_seen      text,                                 -- the spec.abort.reason that a later retry has overruled
    staging         jsonb       NOT NULL DEFAULT '{}',    -- what the staging was built from: hashes, contents of the views
    manifest        text,                                 -- the manifest, byte for byte
    manifest_sha256 text,
    backup          text,                                 -- YYMMDDHHMM of the backup that its swap made
    parked          text,                                 -- where its data is after a rollback: 'staging' or a backup's timestamp
    created_at      timestamptz NOT NULL DEFAULT now(),
    started_at      timestamptz,
    swapped_at      timestamptz,
    completed_at    timestamptz,
    UNIQUE (portal, label)
);
ALTER TABLE portal_release.portals
    ADD FOREIGN KEY (current_release) REFERENCES portal_release.releases,
    ADD FOREIGN KEY (staging_release) REFERENCES portal_release.releases;

CREATE TABLE portal_release.runs (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    release_id bigint      NOT NULL REFERENCES portal_release.releases,
    portal     text        NOT NULL REFERENCES portal_release.portals,
    kind       text        NOT NULL CHECK (kind IN ('Release', 'Rollback', 'RollForward')),
    target     text,                                      -- a rollback's destination: Previous or a backup's timestamp
    ending     text,                                      -- set when the run is being wound up: the state to end in
    message    text        NOT NULL DEFAULT '',
    recheck    boolean     NOT NULL DEFAULT false,       -- the staging is from before a standstill: compare it with its source first
    opened_at  timestamptz NOT NULL DEFAULT now(),
    closed_at  timestamptz
);
CREATE UNIQUE INDEX one_open_run_per_portal ON portal_release.runs (portal) WHERE closed_at IS NULL;
CREATE INDEX runs_of_release ON portal_release.runs (release_id, id);

CREATE TABLE portal_release.phases (
    run_id       bigint      NOT NULL REFERENCES portal_release.runs,
    phase        text        NOT NULL,
    position     int         NOT NULL,
    state        text        NOT NULL CHECK (state IN ('Pending', 'Running', 'Succeeded', 'Failed', 'Skipped', 'Undone')),
    attempts     int         NOT NULL DEFAULT 0,          -- how often it was begun
    failures     int         NOT NULL DEFAULT 0,          -- how often it ended with an error since it last succeeded
    started_at   timestamptz,
    completed_at timestamptz,
    message      text        NOT NULL DEFAULT '',
    PRIMARY KEY (run_id, phase)
);

CREATE TABLE portal_release.imports (
    release_id   bigint      NOT NULL REFERENCES portal_release.releases,
    import       text        NOT NULL,
    position     int         NOT NULL,
    state        text        NOT NULL CHECK (state IN ('Pending', 'Running', 'Succeeded', 'Skipped')),
    rows         bigint      NOT NULL DEFAULT 0,
    rows_total   bigint,
    attempts     int         NOT NULL DEFAULT 0,
    completed_at timestamptz,
    PRIMARY KEY (release_id, import)
);

CREATE TABLE portal_release.checkpoints (
    release_id   bigint      NOT NULL REFERENCES portal_release.releases,
    import       text        NOT NULL,
    position     int         NOT NULL,
    key_range    jsonb       NOT NULL,
    rows         bigint,                                  -- null until the range is imported
    completed_at timestamptz,
    PRIMARY KEY (release_id, import, position)
);

CREATE TABLE portal_release.backups (
    portal        text        NOT NULL REFERENCES portal_release.portals,
    backup        text        NOT NULL,                   -- YYMMDDHHMM
    kind          text        NOT NULL,                   -- table, index, constraint, sequence, materialized view
    name          text        NOT NULL,                   -- the live name
    backup_name   text        NOT NULL,                   -- its name as a backup; hashed where it would pass 63 bytes
    relation_oid  oid,
    holds_release bigint      REFERENCES portal_release.releases,        -- whose data it is; null: from before the operator
    made_by       bigint      REFERENCES portal_release.releases,        -- whose swap made it
    created_at    timestamptz NOT NULL DEFAULT now(),
    gone_at       timestamptz,                            -- when it was dropped or restored
    gone_because  text,
    PRIMARY KEY (portal, backup, kind, name)
);

CREATE TABLE portal_release.frozen_workloads (
    portal      text        NOT NULL REFERENCES portal_release.portals,
    kind        text        NOT NULL,
    name        text        NOT NULL,
    replicas    int         NOT NULL,                     -- as it was before the freeze
    release_id  bigint      NOT NULL REFERENCES portal_release.releases,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (portal, kind, name)
);

CREATE TABLE portal_release.release_events (
    id         bigint      GENERATED ALWAYS AS IDENTITY PRIMARY KEY,
    release_id bigint      NOT NULL REFERENCES portal_release.releases,
    run_id     bigint      REFERENCES portal_release.runs,
    at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    event      text        NOT NULL,
    phase      text,
    message    text        NOT NULL DEFAULT '',
    epoch      bigint
);
CREATE INDEX release_events_of_release ON portal_release.release_events (release_id, id);
COMMENT ON TABLE portal_release.release_events IS 'The audit trail: never updated, never deleted';
