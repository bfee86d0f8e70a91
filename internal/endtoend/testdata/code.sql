-- What runs: functions, operators, triggers, rules, text search.
\getenv at_least_17 FX_AT_LEAST_17
CREATE SCHEMA code;
CREATE FUNCTION code.add(a int, b int DEFAULT 2) RETURNS int LANGUAGE sql IMMUTABLE PARALLEL SAFE COST 5 BEGIN ATOMIC SELECT a + b; END;
CREATE FUNCTION code.definer(INOUT a int, OUT b text, VARIADIC c int[] DEFAULT '{}') LANGUAGE plpgsql SECURITY DEFINER LEAKPROOF SET search_path = pg_catalog, pg_temp SET work_mem = '5MB'
    AS $body$ BEGIN b := $$quoted 'text' \ $$; END $body$;
CREATE FUNCTION code.rows(n int) RETURNS TABLE (i int, "Odd ""col" text) LANGUAGE sql ROWS 10 AS $$ SELECT g, 'x' FROM generate_series(1, n) g $$;
CREATE FUNCTION code.any_element(a anyelement) RETURNS anyelement LANGUAGE sql AS 'SELECT a';
CREATE PROCEDURE code.proc(INOUT a int DEFAULT 1) LANGUAGE plpgsql AS $$ BEGIN COMMIT; END $$;
COMMENT ON FUNCTION code.add(int, int) IS 'adds'; COMMENT ON PROCEDURE code.proc(int) IS 'commits';
CREATE AGGREGATE code.total(int) (sfunc = code.add, stype = int, initcond = '0', parallel = safe, combinefunc = code.add);
CREATE AGGREGATE code.percent(float8 ORDER BY anyelement) (sfunc = ordered_set_transition, stype = internal, finalfunc = percentile_disc_final, finalfunc_extra);
COMMENT ON AGGREGATE code.total(int) IS 'sums';
CREATE OPERATOR code.|+| (leftarg = int, rightarg = int, function = code.add, commutator = OPERATOR(code.|+|)); COMMENT ON OPERATOR code.|+| (int, int) IS 'adds';
CREATE FUNCTION code.negate(a int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT -a';
CREATE OPERATOR code.!!! (rightarg = int, function = code.negate);
CREATE FUNCTION code.cmp(a int, b int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT CASE WHEN a > b THEN -1 WHEN a < b THEN 1 ELSE 0 END';
CREATE OPERATOR FAMILY code.family USING btree;
CREATE OPERATOR CLASS code.backwards FOR TYPE int USING btree FAMILY code.family AS OPERATOR 1 >, OPERATOR 2 >=, OPERATOR 3 =, OPERATOR 4 <=, OPERATOR 5 <, FUNCTION 1 code.cmp(int, int);
CREATE TABLE code.ordered (a int); INSERT INTO code.ordered VALUES (1), (2); CREATE INDEX ON code.ordered (a code.backwards);
CREATE TYPE code.box AS (v int);
CREATE FUNCTION code.to_box(int) RETURNS code.box LANGUAGE sql IMMUTABLE AS 'SELECT ROW($1)::code.box';
CREATE CAST (int AS code.box) WITH FUNCTION code.to_box(int) AS ASSIGNMENT; COMMENT ON CAST (int AS code.box) IS 'boxes';
CREATE CAST (code.box AS text) WITH INOUT;
CREATE FUNCTION code.from_json(internal) RETURNS internal LANGUAGE internal STRICT IMMUTABLE AS 'jsonb_in';
CREATE CONVERSION code.conv FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8; COMMENT ON CONVERSION code.conv IS 'a conversion';
-- pg_dump takes a language whose handler lies in pg_catalog for that of an extension.
CREATE FUNCTION code.handler() RETURNS language_handler LANGUAGE c AS '$libdir/plpgsql', 'plpgsql_call_handler';
CREATE FUNCTION code.inline_handler(internal) RETURNS void LANGUAGE c STRICT AS '$libdir/plpgsql', 'plpgsql_inline_handler';
CREATE FUNCTION code.validator(oid) RETURNS void LANGUAGE c STRICT AS '$libdir/plpgsql', 'plpgsql_validator';
CREATE TRUSTED LANGUAGE fx_lang HANDLER code.handler INLINE code.inline_handler VALIDATOR code.validator;
ALTER LANGUAGE fx_lang OWNER TO fx_owner; GRANT USAGE ON LANGUAGE fx_lang TO fx_app; COMMENT ON LANGUAGE fx_lang IS 'a language';
CREATE FUNCTION code.in_lang() RETURNS int LANGUAGE fx_lang AS $$ BEGIN RETURN 1; END $$;
CREATE COLLATION code.german (provider = icu, locale = 'de-DE-u-co-phonebk'); CREATE COLLATION code.blind (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
CREATE COLLATION code.plain (locale = 'C'); COMMENT ON COLLATION code.german IS 'a collation';
\if :at_least_17
CREATE COLLATION code.builtin (provider = builtin, locale = 'C.UTF-8');
CREATE COLLATION code.rules (provider = icu, locale = 'und', rules = '&b < a');
\endif
CREATE TABLE code.collated (g text COLLATE code.german, b text COLLATE code.blind UNIQUE, p text COLLATE "C"); INSERT INTO code.collated VALUES ('äÖü', 'Case', 'x');
CREATE INDEX ON code.collated (g, p COLLATE code.blind);
CREATE TEXT SEARCH DICTIONARY code.dict (TEMPLATE = simple, STOPWORDS = english, ACCEPT = false);
CREATE TEXT SEARCH CONFIGURATION code.config (COPY = pg_catalog.english); ALTER TEXT SEARCH CONFIGURATION code.config ALTER MAPPING FOR asciiword WITH code.dict, english_stem;
CREATE TEXT SEARCH PARSER code.parser (START = prsd_start, GETTOKEN = prsd_nexttoken, END = prsd_end, LEXTYPES = prsd_lextype, HEADLINE = prsd_headline);
CREATE TEXT SEARCH TEMPLATE code.template (INIT = dsimple_init, LEXIZE = dsimple_lexize);
COMMENT ON TEXT SEARCH CONFIGURATION code.config IS 'config'; COMMENT ON TEXT SEARCH DICTIONARY code.dict IS 'dict';
CREATE TABLE code.documents (body text, v tsvector GENERATED ALWAYS AS (to_tsvector('code.config', body)) STORED); INSERT INTO code.documents VALUES ('The quick brown foxes jumped'), (NULL);
CREATE INDEX ON code.documents USING gin (v);

-- Triggers and rules. None may run while a database is restored: they raise errors.
CREATE FUNCTION code.fail() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'a trigger fired'; END $$;
CREATE TABLE code.guarded (id int PRIMARY KEY, t text); INSERT INTO code.guarded SELECT i, 'g' FROM generate_series(1, 10) i;
CREATE TRIGGER fires BEFORE INSERT OR UPDATE OF t OR DELETE ON code.guarded FOR EACH ROW WHEN (pg_trigger_depth() = 0) EXECUTE FUNCTION code.fail('argument', E'odd \\ '' argument');
CREATE TRIGGER disabled BEFORE INSERT ON code.guarded FOR EACH ROW EXECUTE FUNCTION code.fail(); ALTER TABLE code.guarded DISABLE TRIGGER disabled;
CREATE TRIGGER always BEFORE INSERT ON code.guarded EXECUTE FUNCTION code.fail(); ALTER TABLE code.guarded ENABLE ALWAYS TRIGGER always;
CREATE TRIGGER replica BEFORE TRUNCATE ON code.guarded EXECUTE FUNCTION code.fail(); ALTER TABLE code.guarded ENABLE REPLICA TRIGGER replica;
CREATE CONSTRAINT TRIGGER constrained AFTER INSERT ON code.guarded DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION code.fail();
CREATE TRIGGER transitions AFTER UPDATE ON code.guarded REFERENCING OLD TABLE AS o NEW TABLE AS n FOR EACH STATEMENT EXECUTE FUNCTION code.fail();
COMMENT ON TRIGGER fires ON code.guarded IS 'fires';
CREATE TABLE code.ruled (a int); INSERT INTO code.ruled VALUES (1), (2);
CREATE RULE no_insert AS ON INSERT TO code.ruled DO INSTEAD NOTHING;
CREATE RULE quiet AS ON DELETE TO code.ruled WHERE old.a > 0 DO INSTEAD NOTHING; COMMENT ON RULE quiet ON code.ruled IS 'a rule';
CREATE RULE off AS ON UPDATE TO code.ruled DO ALSO SELECT 1; ALTER TABLE code.ruled DISABLE RULE off;
CREATE VIEW code.writable AS SELECT a AS b FROM code.ruled; CREATE TRIGGER instead INSTEAD OF INSERT ON code.writable FOR EACH ROW EXECUTE FUNCTION code.fail();
CREATE TABLE code.part (k int) PARTITION BY LIST (k); CREATE TABLE code.part_1 PARTITION OF code.part FOR VALUES IN (1); INSERT INTO code.part VALUES (1);
CREATE TRIGGER on_part AFTER INSERT ON code.part FOR EACH ROW EXECUTE FUNCTION code.fail(); ALTER TABLE code.part_1 DISABLE TRIGGER on_part;
