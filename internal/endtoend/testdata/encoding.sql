-- A database in an encoding of one byte: names and values in which bytes above 127 are characters of their own. No byte of
-- this file is one, so that it means the same under every client_encoding.
SELECT format('CREATE SCHEMA %I', 'caf' || chr(233)) \gexec
SELECT format('CREATE TYPE %I.%I AS ENUM (%L, %L)', 'caf' || chr(233), chr(228), chr(246), 'plain') \gexec
SELECT format('CREATE TABLE %I.%I (%I int PRIMARY KEY, %I text DEFAULT %L, m %I.%I)', 'caf' || chr(233), chr(252), chr(255), 'na' || chr(239) || 've', chr(241), 'caf' || chr(233), chr(228)) \gexec
SELECT format('INSERT INTO %I.%I SELECT i, chr(i), %L FROM generate_series(1, 255) i', 'caf' || chr(233), chr(252), chr(246)) \gexec
SELECT format('COMMENT ON TABLE %I.%I IS %L', 'caf' || chr(233), chr(252), chr(191) || '?') \gexec
SELECT format('CREATE INDEX %I ON %I.%I (%I)', chr(223), 'caf' || chr(233), chr(252), 'na' || chr(239) || 've') \gexec
SELECT format('CREATE SEQUENCE %I.%I', 'caf' || chr(233), chr(254)) \gexec
SELECT format('CREATE MATERIALIZED VIEW %I.%I AS SELECT * FROM %I.%I', 'caf' || chr(233), chr(253), 'caf' || chr(233), chr(252)) \gexec
SELECT format('CREATE FUNCTION %I.%I() RETURNS text LANGUAGE sql AS %L', 'caf' || chr(233), chr(230), 'SELECT ''' || chr(248) || '''') \gexec
SELECT format('CREATE ROLE %I', 'r' || chr(244) || 'le') WHERE NOT EXISTS (SELECT FROM pg_roles WHERE rolname = 'r' || chr(244) || 'le') \gexec
SELECT format('ALTER TABLE %I.%I OWNER TO %I', 'caf' || chr(233), chr(252), 'r' || chr(244) || 'le') \gexec
SELECT format('COMMENT ON DATABASE %I IS %L', current_database(), chr(169)) \gexec
SELECT format('ALTER DATABASE %I SET search_path = %I', current_database(), 'caf' || chr(233)) \gexec
SELECT lo_from_bytea(123, '\x00ff'); SELECT format('COMMENT ON LARGE OBJECT 123 IS %L', chr(231)) \gexec
