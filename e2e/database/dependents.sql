-- What depends on the tables of schema.sql and is carried over by being rewritten, handed over or recreated.
CREATE TABLE history (what text);
CREATE FUNCTION pass() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NEW; END $$;

-- Rules of swapped tables: to an outside table, to a swapped one, with a state.
CREATE RULE noted AS ON DELETE TO sources DO ALSO INSERT INTO history VALUES ('gone: ' || OLD.title);
COMMENT ON RULE noted ON sources IS 'keeps ''history''';
CREATE RULE tidied AS ON DELETE TO sources DO ALSO (DELETE FROM countries_pas j WHERE j.source_id = OLD.id; NOTIFY tidied);
COMMENT ON RULE tidied ON sources IS 'no links to nowhere';
CREATE RULE "kept TO public.countries_pas" AS ON UPDATE TO countries_pas WHERE NEW.country_id < 0 DO INSTEAD NOTHING;
ALTER TABLE countries_pas DISABLE RULE "kept TO public.countries_pas";
CREATE CONSTRAINT TRIGGER linked AFTER INSERT ON countries_pas FROM sources DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pass();
-- And rules from outside, on a table and on a view.
CREATE RULE silenced AS ON DELETE TO comments DO ALSO UPDATE protected_areas SET notes = 'silenced' WHERE id = OLD.area_id;
ALTER TABLE comments ENABLE ALWAYS RULE silenced;
COMMENT ON RULE silenced ON comments IS 'leaves a note';
CREATE RULE sourced AS ON INSERT TO report DO INSTEAD INSERT INTO sources (title, release) VALUES (NEW.title, NEW.release);

-- An INSTEAD OF trigger on a view that keeps its identity.
CREATE FUNCTION rename_area() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN UPDATE public.protected_areas SET name = NEW.name WHERE id = NEW.id; RETURN NEW; END $$;
CREATE VIEW area_labels AS SELECT id, name FROM protected_areas;
CREATE TRIGGER renamed INSTEAD OF UPDATE ON area_labels FOR EACH ROW EXECUTE FUNCTION rename_area();
COMMENT ON TRIGGER renamed ON area_labels IS 'by trigger';
COMMENT ON COLUMN area_labels.name IS 'a label';

CREATE PUBLICATION chosen FOR TABLE sources (id, title, release) WHERE (release <> 'never'), countries_pas, countries WITH (publish = 'insert');

-- Row types in signatures.
ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO :writer;
CREATE FUNCTION label(source sources, suffix text DEFAULT '!') RETURNS text LANGUAGE sql STABLE COST 7 SET search_path = public
    AS $$ SELECT source.title || suffix FROM sources LIMIT 1 $$;
COMMENT ON FUNCTION label IS 'a label; of a source';
REVOKE EXECUTE ON FUNCTION label FROM PUBLIC, :writer;
GRANT EXECUTE ON FUNCTION label TO :reader WITH GRANT OPTION;
CREATE FUNCTION largest() RETURNS SETOF protected_areas LANGUAGE plpgsql ROWS 5 AS
    $$ BEGIN RETURN QUERY SELECT * FROM public.protected_areas ORDER BY area DESC LIMIT 3; END $$;
CREATE PROCEDURE check_totals(totals area_totals[]) LANGUAGE plpgsql AS $$ BEGIN END $$;
CREATE FUNCTION largest_count() RETURNS bigint LANGUAGE sql BEGIN ATOMIC SELECT count(*) FROM largest(); END;
-- Functions with an SQL body that others use.
CREATE VIEW counted AS SELECT area_count() AS areas;
ALTER TABLE comments ADD COLUMN areas bigint DEFAULT area_count() CONSTRAINT some_areas CHECK (area_count() >= 0);
-- Row types only inside keep what uses them where it is.
CREATE FUNCTION titled() RETURNS text LANGUAGE sql BEGIN ATOMIC SELECT (jsonb_populate_record(NULL::sources, '{"title": "no title"}')).title; END;
CREATE VIEW places AS SELECT 'sources'::regclass::oid AS sources, 'sources_id_seq'::regclass::oid AS ids, (NULL::sources).title AS none;

-- Row types in columns of views, and what depends on these.
CREATE VIEW whole WITH (security_barrier = true) AS SELECT s, s.title FROM sources s;
ALTER VIEW whole ALTER COLUMN title SET DEFAULT 'by default';
COMMENT ON VIEW whole IS 'whole rows';
COMMENT ON COLUMN whole.title IS 'the title';
CREATE TRIGGER passed INSTEAD OF UPDATE ON whole FOR EACH ROW EXECUTE FUNCTION pass();
CREATE RULE added AS ON INSERT TO whole DO INSTEAD INSERT INTO sources (title, release) VALUES (NEW.title, 'by a rule');
COMMENT ON RULE added ON whole IS 'through the view';
GRANT SELECT, UPDATE (title) ON whole TO :writer;
REVOKE DELETE ON whole FROM :reader;
REVOKE TRUNCATE ON whole FROM CURRENT_USER;
CREATE VIEW whole_labels AS SELECT label(w.s) AS label FROM whole w;
GRANT SELECT ON whole_labels TO PUBLIC;
CREATE FUNCTION of_whole(whole) RETURNS text LANGUAGE sql AS 'SELECT $1.title';
