SET LOCAL lock_timeout = '5s'; -- an operator of before may be at work: it must not queue behind this
-- Fields of cluster objects that a release has changed and will change back, as they were before: one table for every purpose.
CREATE TABLE portal_release.former_states (
    portal      text        NOT NULL REFERENCES portal_release.portals,
    purpose     text        NOT NULL,                     -- what it was changed for: Freeze, Deploy
    kind        text        NOT NULL,                     -- of the object: Deployment, StatefulSet, CronJob, ...
    name        text        NOT NULL,
    field       text        NOT NULL,                     -- replicas, suspend, ...
    value       jsonb       NOT NULL,                     -- as it was before the first change
    release_id  bigint      NOT NULL REFERENCES portal_release.releases,
    recorded_at timestamptz NOT NULL DEFAULT now(),
    PRIMARY KEY (portal, purpose, kind, name, field)
);
COMMENT ON TABLE portal_release.former_states IS 'What releases have changed in the cluster and will change back: the values of before';

-- It replaces frozen_workloads. An operator of before, which may still run during the upgrade or come back after it, reads and writes
-- that one: until a later version drops it, both say the same, whichever is written. One trigger a table; what a trigger of the other
-- writes is not mirrored back.
CREATE FUNCTION portal_release.frozen_workload_is_a_former_state() RETURNS trigger LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
    IF TG_OP <> 'INSERT' THEN
        DELETE FROM portal_release.former_states AS f
        WHERE f.portal = OLD.portal AND f.purpose = 'Freeze' AND f.kind = OLD.kind AND f.name = OLD.name AND f.field IN ('replicas', 'suspend');
    END IF;
    IF TG_OP <> 'DELETE' THEN
        INSERT INTO portal_release.former_states (portal, purpose, kind, name, field, value, release_id, recorded_at)
        VALUES (NEW.portal, 'Freeze', NEW.kind, NEW.name,
                CASE NEW.kind WHEN 'CronJob' THEN 'suspend' ELSE 'replicas' END,
                CASE NEW.kind WHEN 'CronJob' THEN to_jsonb(NEW.replicas = 0) ELSE to_jsonb(NEW.replicas) END,
                NEW.release_id, NEW.recorded_at)
        ON CONFLICT ON CONSTRAINT former_states_pkey DO UPDATE SET value = excluded.value, release_id = excluded.release_id;
    END IF;
    RETURN NULL;
END $$;

CREATE FUNCTION portal_release.former_state_is_a_frozen_workload() RETURNS trigger LANGUAGE plpgsql SET search_path = '' AS $$
BEGIN
    IF TG_OP <> 'INSERT' AND OLD.purpose = 'Freeze' AND OLD.field IN ('replicas', 'suspend') THEN
        DELETE FROM portal_release.frozen_workloads AS f WHERE f.portal = OLD.portal AND f.kind = OLD.kind AND f.name = OLD.name;
    END IF;
    IF TG_OP <> 'DELETE' AND NEW.purpose = 'Freeze' AND NEW.field IN ('replicas', 'suspend') THEN
        INSERT INTO portal_release.frozen_workloads (portal, kind, name, replicas, release_id, recorded_at)
        VALUES (NEW.portal, NEW.kind, NEW.name,
                CASE NEW.field WHEN 'suspend' THEN (NOT NEW.value::boolean)::int ELSE NEW.value::int END,
                NEW.release_id, NEW.recorded_at)
        ON CONFLICT ON CONSTRAINT frozen_workloads_pkey DO UPDATE SET replicas = excluded.replicas, release_id = excluded.release_id;
    END IF;
    RETURN NULL;
END $$;

-- The triggers first: their lock keeps writers out until all rows are here.
CREATE TRIGGER in_former_states AFTER INSERT OR UPDATE OR DELETE ON portal_release.frozen_workloads
    FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION portal_release.frozen_workload_is_a_former_state();
INSERT INTO portal_release.former_states (portal, purpose, kind, name, field, value, release_id, recorded_at)
SELECT portal, 'Freeze', kind, name,
       CASE kind WHEN 'CronJob' THEN 'suspend' ELSE 'replicas' END,
       CASE kind WHEN 'CronJob' THEN to_jsonb(replicas = 0) ELSE to_jsonb(replicas) END,
       release_id, recorded_at
FROM portal_release.frozen_workloads;
CREATE TRIGGER in_frozen_workloads AFTER INSERT OR UPDATE OR DELETE ON portal_release.former_states
    FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION portal_release.former_state_is_a_frozen_workload();
