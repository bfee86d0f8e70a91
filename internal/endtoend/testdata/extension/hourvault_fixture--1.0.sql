-- Rows that CREATE EXTENSION brings are not marked as the user's; those of the user are configuration.
CREATE TABLE setting (id serial PRIMARY KEY, name text NOT NULL UNIQUE, value text, builtin boolean NOT NULL DEFAULT false);
INSERT INTO setting (name, value, builtin) VALUES ('zero', '0', true), ('one', '1', true);
CREATE TABLE detail (setting_id int NOT NULL REFERENCES setting, note text);
CREATE TABLE a_note (detail_of int REFERENCES setting, note text);
CREATE TABLE no_configuration (id int);
SELECT pg_catalog.pg_extension_config_dump('a_note', '');
SELECT pg_catalog.pg_extension_config_dump('detail', 'WHERE note IS NOT NULL');
SELECT pg_catalog.pg_extension_config_dump('setting', 'WHERE NOT builtin');
SELECT pg_catalog.pg_extension_config_dump('setting_id_seq', '');
CREATE FUNCTION answer() RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT 42';
CREATE TYPE grade AS ENUM ('low', 'high');
