-- A database with what PostgreSQL offers. @ stands for the database's name, which also begins the names of its roles.
CREATE ROLE "@_owner" NOLOGIN;
CREATE ROLE "@_app" NOLOGIN;
CREATE ROLE "@_grantor" NOLOGIN;
CREATE ROLE "@ odd ""role""" NOLOGIN;

CREATE EXTENSION hstore;
CREATE EXTENSION citext;
CREATE EXTENSION postgres_fdw;
CREATE SCHEMA app AUTHORIZATION "@_owner";
CREATE SCHEMA "Odd ""schema"" \ ' ünïcode";
GRANT USAGE ON SCHEMA app TO "@_app";
GRANT USAGE ON SCHEMA "Odd ""schema"" \ ' ünïcode" TO "@_owner";

CREATE COLLATION app.german (provider = icu, locale = 'de-DE');
CREATE TYPE app.mood AS ENUM ('sad', 'ok', 'it''s "fine"');
CREATE TYPE app.pair AS (a int, b text);
CREATE TYPE app.floatrange AS RANGE (subtype = float8);
CREATE FUNCTION app.is_short(t text) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT pg_catalog.length(t) < 100';
CREATE DOMAIN app.short AS text CHECK (app.is_short(VALUE)) DEFAULT 'd';
CREATE FUNCTION app.add(a int, b int DEFAULT 2) RETURNS int LANGUAGE sql IMMUTABLE BEGIN ATOMIC SELECT a + b; END;
CREATE AGGREGATE app.total(int) (sfunc = app.add, stype = int, initcond = '0');
CREATE OPERATOR app.<+> (leftarg = int, rightarg = int, function = app.add);
CREATE PROCEDURE app.proc() LANGUAGE plpgsql AS $$ BEGIN NULL; END $$;
CREATE TEXT SEARCH CONFIGURATION app.english (COPY = pg_catalog.english);

CREATE TABLE app.edge (
    id int PRIMARY KEY, b bool, i2 int2, i8 int8, n numeric, f4 float4, f8 float8, t text, vc varchar(5), c char(5), d date,
    ts timestamp, tstz timestamptz, tm time, tmtz timetz, iv interval, by bytea, u uuid, j json, jb jsonb, x xml,
    ip inet, mac macaddr, bits varbit, p point, poly polygon, tsv tsvector, m money,
    arr text[], arr2 int[][], r int4range, mr int4multirange, fr app.floatrange, mood app.mood, moods app.mood[],
    pair app.pair, pairs app.pair[], short app.short, h hstore, ci citext, g text COLLATE app.german);
INSERT INTO app.edge (id) VALUES (0);
INSERT INTO app.edge (id, n, f4, f8, t, d, ts, tstz, iv, arr, arr2, r, mr, fr) VALUES
    (1, 'NaN', 'NaN', 'NaN', '', '-infinity', '-infinity', 'infinity', '-178000000 years', '{}', '{}', 'empty', '{}', '(,)'),
    (2, '-0.000', '-0', '-0', E'\\.', '4713-01-01 BC', '4713-01-01 00:00:00 BC', '294276-12-31 23:59:59.999999+00', '1 mon -1 day 00:00:00.000001', '{NULL,"NULL","",\\}', '{{1,2},{3,4}}', '[1,5)', '{[1,2),[5,6)}', '[-1e300,1e300]'),
    (3, 1e200, 'Infinity', '-Infinity', E'\\N', '5874897-12-31', '1970-01-01 00:00:00.000001', '2000-06-30 12:00:00+14', '0', NULL, '[0:1]={1,2}', '(,5)', NULL, NULL),
    (4, -1e-200, 1e-45, 4.9e-324, E'tab\there\nnewline\rreturn\\backslash "quote" ''apostrophe'' \x7f', NULL, NULL, NULL, NULL, ARRAY['a"b', E'c\\d', 'e,f', '{g}', NULL], NULL, NULL, NULL, NULL);
INSERT INTO app.edge (id, by, t) SELECT 5, string_agg(set_byte('\x00'::bytea, 0, i), ''::bytea), repeat('ä€😀', 20000) FROM generate_series(0, 255) i;
INSERT INTO app.edge VALUES (6, true, -32768, -9223372036854775808, 1.10, 1.1, 0.1, 't', 'vc', 'c', 'today', now(), now(), '24:00', '12:34:56.789+05:30',
    '1 day', '', gen_random_uuid(), '{"a" : 1,"a":2}', '{"b":[1,null]}', '<a/>text', '10.1.2.3/8', '08:00:2b:01:02:03', B'0101', '(1,-0)', '((0,0),(1,1),(1,0))',
    'a:1A b', 12.34, '{a}', NULL, NULL, NULL, NULL, 'ok', '{sad,"it''s \"fine\""}', ROW(1, E'x"y\\z'), ARRAY[ROW(NULL, ''), NULL]::app.pair[], 'short', 'a=>1,"b c"=>NULL', 'CiText', 'äÖü');
ALTER TABLE app.edge OWNER TO "@_owner";

CREATE TABLE app.evolved (gone text, id bigint GENERATED ALWAYS AS IDENTITY, also_gone int, twice int GENERATED ALWAYS AS (val * 2) STORED, val int);
INSERT INTO app.evolved (gone, also_gone, val) SELECT 'x', i, i FROM generate_series(1, 500) i;
ALTER TABLE app.evolved DROP COLUMN gone, DROP COLUMN also_gone, ADD COLUMN later int DEFAULT 7;
DELETE FROM app.evolved WHERE val % 7 = 0;
ALTER TABLE app.evolved OWNER TO "@_owner";
CREATE TABLE app.nothing (); INSERT INTO app.nothing SELECT FROM generate_series(1, 3);
CREATE TABLE app.generated_only (g int GENERATED ALWAYS AS (1 + 1) STORED); INSERT INTO app.generated_only SELECT FROM generate_series(1, 4);
CREATE TABLE app.no_rows (a int);
CREATE UNLOGGED TABLE app.unlogged (a int); INSERT INTO app.unlogged VALUES (1);

CREATE TABLE app.parent (id serial, v text DEFAULT 'p'); CREATE TABLE app.child (extra int) INHERITS (app.parent);
INSERT INTO app.parent (v) VALUES ('only parent'); INSERT INTO app.child (v, extra) VALUES ('only child', 1);
CREATE TABLE app.part (k int, region text, v text) PARTITION BY RANGE (k);
CREATE TABLE app.part_low PARTITION OF app.part FOR VALUES FROM (MINVALUE) TO (100) PARTITION BY LIST (region);
CREATE TABLE app.part_low_eu PARTITION OF app.part_low FOR VALUES IN ('eu');
CREATE TABLE app.part_low_rest PARTITION OF app.part_low DEFAULT;
CREATE TABLE app.part_high (v text, region text, gone int, k int); ALTER TABLE app.part_high DROP COLUMN gone;
ALTER TABLE app.part ATTACH PARTITION app.part_high FOR VALUES FROM (100) TO (MAXVALUE);
INSERT INTO app.part SELECT i, CASE i % 3 WHEN 0 THEN 'eu' WHEN 1 THEN 'us' END, 'v' || i FROM generate_series(1, 200) i;
CREATE INDEX ON app.part (v);

CREATE TABLE app.a (id int PRIMARY KEY, b_id int); CREATE TABLE app.b (id int PRIMARY KEY, a_id int REFERENCES app.a DEFERRABLE INITIALLY DEFERRED, self int REFERENCES app.b);
INSERT INTO app.a VALUES (1, 1), (2, NULL); INSERT INTO app.b VALUES (1, 2, 1); SET CONSTRAINTS ALL IMMEDIATE;
ALTER TABLE app.a ADD FOREIGN KEY (b_id) REFERENCES app.b NOT VALID;
ALTER TABLE app.a OWNER TO "@_owner"; ALTER TABLE app.b OWNER TO "@_app"; GRANT REFERENCES ON app.b TO "@_owner";

CREATE TABLE "Odd ""schema"" \ ' ünïcode"."Tab	le ""x"" ' \ %s select" ("col ""c"" ' \" int, "select" text, "ünïcode_name_that_is_sixty_three_bytes_long_xxxxxxxxxxxxxxxxxx" int);
INSERT INTO "Odd ""schema"" \ ' ünïcode"."Tab	le ""x"" ' \ %s select" VALUES (1, 'one', 2);
ALTER TABLE "Odd ""schema"" \ ' ünïcode"."Tab	le ""x"" ' \ %s select" OWNER TO "@ odd ""role""";
COMMENT ON COLUMN "Odd ""schema"" \ ' ünïcode"."Tab	le ""x"" ' \ %s select"."select" IS E'comment with ''quotes'', \\backslash\\ and\nnewline';

CREATE SEQUENCE app.called START 10 INCREMENT 5; SELECT nextval('app.called'), nextval('app.called');
CREATE SEQUENCE app.uncalled AS smallint START -5 MINVALUE -100 INCREMENT -3 CYCLE;
CREATE SEQUENCE app.minimum MINVALUE -9223372036854775808 START -9223372036854775808; SELECT nextval('app.minimum');
ALTER SEQUENCE app.called OWNER TO "@_owner";

CREATE TABLE app.revoked (a int); INSERT INTO app.revoked VALUES (1), (2);
ALTER TABLE app.revoked OWNER TO "@_owner"; REVOKE ALL ON app.revoked FROM "@_owner"; GRANT SELECT ON app.revoked TO "@_app";
CREATE TABLE app.secret (a int, who text); INSERT INTO app.secret VALUES (1, 'x'), (2, 'y');
ALTER TABLE app.secret OWNER TO "@_owner"; ALTER TABLE app.secret ENABLE ROW LEVEL SECURITY; ALTER TABLE app.secret FORCE ROW LEVEL SECURITY;
CREATE POLICY only_own ON app.secret TO "@_app" USING (who = CURRENT_USER);
GRANT SELECT (a), UPDATE (who) ON app.secret TO "@_app";
GRANT SELECT ON app.edge TO "@_grantor" WITH GRANT OPTION;
SET SESSION AUTHORIZATION "@_grantor";
RESET SESSION AUTHORIZATION;
ALTER DEFAULT PRIVILEGES FOR ROLE "@_owner" IN SCHEMA app GRANT SELECT ON TABLES TO "@_app";
ALTER DEFAULT PRIVILEGES FOR ROLE "@_owner" REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
REVOKE EXECUTE ON FUNCTION app.is_short(text) FROM PUBLIC;

CREATE FUNCTION app.note() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION 'a trigger fired'; END $$;
CREATE TRIGGER fires BEFORE UPDATE ON app.evolved FOR EACH ROW EXECUTE FUNCTION app.note();
CREATE TRIGGER off BEFORE INSERT ON app.evolved FOR EACH ROW EXECUTE FUNCTION app.note(); ALTER TABLE app.evolved DISABLE TRIGGER off;
CREATE TRIGGER always_fires BEFORE DELETE ON app.no_rows EXECUTE FUNCTION app.note(); ALTER TABLE app.no_rows ENABLE ALWAYS TRIGGER always_fires;
CREATE RULE quiet AS ON DELETE TO app.no_rows DO INSTEAD NOTHING;
CREATE TABLE app.ddl_log (tag text, at timestamptz DEFAULT now());
CREATE FUNCTION app.log_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO app.ddl_log (tag) VALUES (tg_tag); END $$;
COMMENT ON FUNCTION app.log_ddl() IS 'logs';
CREATE EVENT TRIGGER "@_ddl" ON ddl_command_end EXECUTE FUNCTION app.log_ddl();
COMMENT ON EVENT TRIGGER "@_ddl" IS 'an event trigger';

CREATE VIEW app.v AS SELECT id, t FROM app.edge;
CREATE MATERIALIZED VIEW app.z_first AS SELECT id, t FROM app.v;
CREATE UNIQUE INDEX ON app.z_first (id);
CREATE VIEW app.between AS SELECT count(*) AS n FROM app.z_first;
CREATE MATERIALIZED VIEW app.a_second AS SELECT n FROM app.between;
CREATE MATERIALIZED VIEW app.unpopulated AS SELECT 1 AS one WITH NO DATA;
CREATE STATISTICS app.stat (dependencies) ON k, region FROM app.part;
CREATE INDEX expression ON app.edge (app.add(id, 1)) WHERE id > 0;
ALTER TABLE app.a REPLICA IDENTITY FULL;
ALTER TABLE app.edge ALTER COLUMN t SET STORAGE EXTERNAL, ALTER COLUMN t SET STATISTICS 50;
ALTER TABLE app.edge SET (fillfactor = 70, autovacuum_enabled = false);
CLUSTER app.a USING a_pkey;
CREATE PUBLICATION "@_pub" FOR TABLE app.a WITH (publish = 'insert, update');

CREATE SERVER far FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'nowhere.invalid');
CREATE USER MAPPING FOR "@_app" SERVER far OPTIONS (user 'u', password 'p''w=\');
CREATE FOREIGN TABLE app.remote (a int OPTIONS (column_name 'A')) SERVER far;

SELECT lo_create(70001), lo_create(70002), lo_create(70003), lo_create(70004);
SELECT lo_put(70001, 0, decode(repeat('00ff5c0a09', 100000), 'hex'));
SELECT lo_put(70002, 10000000, 'sparse'), lo_put(70002, 5000, 'hole before');
SELECT lo_truncate64(lo_open(70004, 393216), 4096);
COMMENT ON LARGE OBJECT 70001 IS 'a large object';
ALTER LARGE OBJECT 70002 OWNER TO "@_owner"; GRANT SELECT ON LARGE OBJECT 70002 TO "@_app" WITH GRANT OPTION;
GRANT UPDATE ON LARGE OBJECT 70003 TO PUBLIC; REVOKE ALL ON LARGE OBJECT 70003 FROM postgres;

COMMENT ON DATABASE "@" IS E'the database''s\ncomment';
ALTER DATABASE "@" OWNER TO "@_owner";
ALTER DATABASE "@" CONNECTION LIMIT 42;
REVOKE TEMPORARY ON DATABASE "@" FROM PUBLIC;
GRANT CREATE ON DATABASE "@" TO "@_grantor" WITH GRANT OPTION;
SET SESSION AUTHORIZATION "@_grantor";
GRANT CREATE ON DATABASE "@" TO "@_app";
RESET SESSION AUTHORIZATION;
ALTER DATABASE "@" SET search_path = '$user', app, 'Odd "schema" \ '' ünïcode';
ALTER DATABASE "@" SET array_nulls = off;
ALTER DATABASE "@" SET xmloption = document;
ALTER DATABASE "@" SET bytea_output = escape;
ALTER DATABASE "@" SET datestyle = 'German';
ALTER DATABASE "@" SET statement_timeout = '1ms';
ALTER DATABASE "@" SET role = '@_app';
ALTER ROLE "@_app" IN DATABASE "@" SET work_mem = '7MB';
ALTER DATABASE "@" SET default_transaction_read_only = on;
