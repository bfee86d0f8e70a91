-- Constraints whose functions read other tables, which must be there, and readable, while rows are loaded.
CREATE SCHEMA reading;
-- All of the superuser's.
CREATE TABLE reading.limits (most int); INSERT INTO reading.limits VALUES (50);
CREATE FUNCTION reading.below_limit(a int) RETURNS bool LANGUAGE sql STABLE SET search_path = reading AS 'SELECT EXISTS (SELECT FROM limits WHERE a < most)';
CREATE TABLE reading.limited (a int, t text, CHECK (reading.below_limit(a))); INSERT INTO reading.limited SELECT i, repeat('x', 1000) FROM generate_series(1, 40) i;
-- A table of another role, readable by a grant.
CREATE TABLE reading.zones (z text); INSERT INTO reading.zones VALUES ('utc'); ALTER TABLE reading.zones OWNER TO fx_app; GRANT SELECT ON reading.zones TO fx_owner; GRANT USAGE ON SCHEMA reading TO fx_owner, fx_app;
CREATE FUNCTION reading.is_zone(t text) RETURNS bool LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN EXISTS (SELECT FROM reading.zones WHERE z = t); END $$;
CREATE DOMAIN reading.zone AS text CHECK (reading.is_zone(VALUE));
CREATE TABLE reading.located (z reading.zone, t text); INSERT INTO reading.located SELECT 'utc', repeat('y', 1000) FROM generate_series(1, 50); ALTER TABLE reading.located OWNER TO fx_owner;
