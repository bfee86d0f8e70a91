-- Publications, subscriptions, foreign data, extensions with configuration, event triggers.
\getenv at_least_18 FX_AT_LEAST_18
CREATE SCHEMA far;
CREATE TABLE far.published (id int PRIMARY KEY, t text, u text); INSERT INTO far.published VALUES (1, 't', 'u');
CREATE PUBLICATION fx_some FOR TABLE far.published (id, t) WHERE (id > 0), structure.a WITH (publish = 'insert, update', publish_via_partition_root = true);
CREATE PUBLICATION fx_schema FOR TABLES IN SCHEMA far; CREATE PUBLICATION fx_all FOR ALL TABLES; CREATE PUBLICATION fx_empty;
ALTER PUBLICATION fx_some OWNER TO fx_superuser; COMMENT ON PUBLICATION fx_all IS 'all';
CREATE SUBSCRIPTION fx_sub CONNECTION 'host=nowhere.invalid dbname=x password=''it\''s''' PUBLICATION one, "Two" WITH (connect = false, slot_name = 'fx_slot', binary = true, streaming = on);
CREATE SUBSCRIPTION "fx Odd ""sub" CONNECTION 'host=nowhere.invalid' PUBLICATION p WITH (connect = false, slot_name = NONE, create_slot = false, enabled = false);
COMMENT ON SUBSCRIPTION fx_sub IS 'a subscription';

CREATE EXTENSION postgres_fdw; CREATE EXTENSION file_fdw;
CREATE FOREIGN DATA WRAPPER fx_wrapper OPTIONS (debug 'true'); GRANT USAGE ON FOREIGN DATA WRAPPER fx_wrapper TO fx_app;
CREATE SERVER fx_far TYPE 'x' VERSION '1' FOREIGN DATA WRAPPER postgres_fdw OPTIONS (host 'nowhere.invalid', dbname 'o''dd'); ALTER SERVER fx_far OWNER TO fx_superuser;
GRANT USAGE ON FOREIGN SERVER fx_far TO fx_app; COMMENT ON SERVER fx_far IS 'far away';
CREATE SERVER "fx Odd ""server" FOREIGN DATA WRAPPER fx_wrapper;
CREATE USER MAPPING FOR fx_app SERVER fx_far OPTIONS (user 'u', password E'p''w=\\ä');
CREATE USER MAPPING FOR PUBLIC SERVER fx_far OPTIONS (user 'everybody', password_required 'true');
CREATE USER MAPPING FOR "fx Odd ""role"" \ ' %s" SERVER "fx Odd ""server" OPTIONS ("Odd ""name" 'v=w');
CREATE USER MAPPING FOR CURRENT_USER SERVER fx_far;
CREATE FOREIGN TABLE far.remote (a int OPTIONS (column_name 'A') NOT NULL, b text DEFAULT 'x' CHECK (b <> '')) SERVER fx_far OPTIONS (schema_name 's', table_name 't'); COMMENT ON FOREIGN TABLE far.remote IS 'remote';
CREATE TABLE far.part (a int) PARTITION BY RANGE (a); CREATE TABLE far.part_here PARTITION OF far.part FOR VALUES FROM (0) TO (10);
CREATE FOREIGN TABLE far.part_there PARTITION OF far.part FOR VALUES FROM (10) TO (20) SERVER fx_far; INSERT INTO far.part VALUES (1);

CREATE SCHEMA fixture_ext; CREATE EXTENSION hourvault_fixture; COMMENT ON EXTENSION hourvault_fixture IS 'commented';
INSERT INTO fixture_ext.setting (name, value) VALUES ('own', 'x'), ('own two', NULL);
INSERT INTO fixture_ext.detail VALUES (3, 'of own'), (1, 'of a builtin one'), (2, NULL); INSERT INTO fixture_ext.a_note VALUES (4, 'note');
CREATE TABLE far.graded (g fixture_ext.grade, a int DEFAULT fixture_ext.answer()); INSERT INTO far.graded VALUES ('high');
GRANT SELECT ON fixture_ext.setting TO fx_app;

CREATE TABLE far.ddl_log (tag text);
CREATE FUNCTION far.log_ddl() RETURNS event_trigger LANGUAGE plpgsql AS $$ BEGIN INSERT INTO far.ddl_log VALUES (tg_tag); END $$;
CREATE EVENT TRIGGER fx_ddl ON ddl_command_end EXECUTE FUNCTION far.log_ddl(); ALTER EVENT TRIGGER fx_ddl OWNER TO fx_superuser; COMMENT ON EVENT TRIGGER fx_ddl IS 'logs';
CREATE EVENT TRIGGER fx_off ON sql_drop WHEN TAG IN ('DROP TABLE', 'DROP VIEW') EXECUTE FUNCTION far.log_ddl(); ALTER EVENT TRIGGER fx_off DISABLE;
CREATE EVENT TRIGGER fx_always ON table_rewrite EXECUTE FUNCTION far.log_ddl(); ALTER EVENT TRIGGER fx_always ENABLE ALWAYS;
CREATE EVENT TRIGGER fx_replica ON ddl_command_start EXECUTE FUNCTION far.log_ddl(); ALTER EVENT TRIGGER fx_replica ENABLE REPLICA;
ALTER EVENT TRIGGER fx_ddl DISABLE; TRUNCATE far.ddl_log; ALTER EVENT TRIGGER fx_ddl ENABLE;
