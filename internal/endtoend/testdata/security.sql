-- Who may do what.
CREATE SCHEMA security AUTHORIZATION fx_owner;
GRANT USAGE ON SCHEMA security TO fx_app; GRANT CREATE ON SCHEMA security TO fx_grantor WITH GRANT OPTION;
COMMENT ON SCHEMA public IS 'changed'; REVOKE ALL ON SCHEMA public FROM PUBLIC; GRANT USAGE ON SCHEMA public TO fx_app;
CREATE TABLE security.revoked (a int); INSERT INTO security.revoked VALUES (1), (2);
ALTER TABLE security.revoked OWNER TO fx_owner; REVOKE ALL ON security.revoked FROM fx_owner; GRANT SELECT ON security.revoked TO fx_app;
CREATE TABLE security.by_superuser (a int CHECK (a > 0)); INSERT INTO security.by_superuser VALUES (1); ALTER TABLE security.by_superuser OWNER TO fx_superuser;
CREATE TABLE security.secret (a int, who text); INSERT INTO security.secret VALUES (1, 'x'), (2, 'y'), (3, 'fx_owner');
ALTER TABLE security.secret OWNER TO fx_owner; ALTER TABLE security.secret ENABLE ROW LEVEL SECURITY; ALTER TABLE security.secret FORCE ROW LEVEL SECURITY;
CREATE POLICY only_own ON security.secret TO fx_app, fx_reader USING (who = CURRENT_USER) WITH CHECK (a > 0);
CREATE POLICY restricting ON security.secret AS RESTRICTIVE FOR UPDATE TO fx_grantor USING (false); COMMENT ON POLICY only_own ON security.secret IS 'a policy';
CREATE TABLE security.no_policy (a int); INSERT INTO security.no_policy VALUES (5); ALTER TABLE security.no_policy OWNER TO fx_owner; ALTER TABLE security.no_policy ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
GRANT SELECT (a), UPDATE (who) ON security.secret TO fx_app; GRANT INSERT (a) ON security.secret TO PUBLIC; REVOKE UPDATE (who) ON security.secret FROM fx_owner;
CREATE TABLE security.chain (a int); ALTER TABLE security.chain OWNER TO fx_owner; INSERT INTO security.chain VALUES (1);
GRANT SELECT, INSERT ON security.chain TO fx_grantor WITH GRANT OPTION;
GRANT USAGE ON SCHEMA security TO fx_grantor;
SET SESSION AUTHORIZATION fx_grantor; GRANT SELECT ON security.chain TO fx_app WITH GRANT OPTION; GRANT CREATE ON SCHEMA security TO fx_reader; RESET SESSION AUTHORIZATION;
SET SESSION AUTHORIZATION fx_app; GRANT SELECT ON security.chain TO "fx Odd ""role"" \ ' %s"; RESET SESSION AUTHORIZATION;
GRANT ALL ON security.chain TO pg_read_all_settings; GRANT TRUNCATE, TRIGGER, REFERENCES ON security.chain TO PUBLIC;
CREATE TABLE security.other_owner (a int REFERENCES structure.a); ALTER TABLE security.other_owner OWNER TO "fx Odd ""role"" \ ' %s"; INSERT INTO security.other_owner VALUES (1);
CREATE TABLE security.unreachable (a int); INSERT INTO security.unreachable VALUES (7); ALTER TABLE security.unreachable OWNER TO fx_setting;
CREATE SEQUENCE security.seq; ALTER SEQUENCE security.seq OWNER TO fx_owner; GRANT USAGE ON SEQUENCE security.seq TO fx_app; SELECT nextval('security.seq');
CREATE FUNCTION security.f() RETURNS int LANGUAGE sql SECURITY DEFINER AS 'SELECT 1'; ALTER FUNCTION security.f() OWNER TO fx_owner; REVOKE ALL ON FUNCTION security.f() FROM PUBLIC; GRANT EXECUTE ON FUNCTION security.f() TO fx_app;
CREATE TYPE security.kind AS ENUM ('x'); ALTER TYPE security.kind OWNER TO fx_owner; REVOKE USAGE ON TYPE security.kind FROM PUBLIC; GRANT USAGE ON TYPE security.kind TO fx_app;
-- Its owner may not call the function that its own constraint calls.
CREATE FUNCTION security.guard(a int) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT a > 0'; REVOKE EXECUTE ON FUNCTION security.guard(int) FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE fx_owner IN SCHEMA security GRANT SELECT ON TABLES TO fx_app WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES FOR ROLE fx_owner REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
ALTER DEFAULT PRIVILEGES FOR ROLE fx_app GRANT USAGE ON SEQUENCES TO PUBLIC; ALTER DEFAULT PRIVILEGES GRANT USAGE ON TYPES TO fx_app; ALTER DEFAULT PRIVILEGES FOR ROLE fx_owner GRANT USAGE ON SCHEMAS TO fx_app;
ALTER DEFAULT PRIVILEGES FOR ROLE fx_owner REVOKE ALL ON TABLES FROM fx_owner;

-- Owners of every kind of object.
ALTER AGGREGATE code.total(int) OWNER TO fx_owner; ALTER OPERATOR code.|+| (int, int) OWNER TO fx_owner; ALTER COLLATION code.german OWNER TO fx_owner; ALTER CONVERSION code.conv OWNER TO fx_owner;
ALTER TEXT SEARCH CONFIGURATION code.config OWNER TO fx_owner; ALTER TEXT SEARCH DICTIONARY code.dict OWNER TO fx_owner; ALTER STATISTICS structure.stat OWNER TO fx_owner; ALTER OPERATOR FAMILY code.family USING btree OWNER TO fx_owner;
ALTER OPERATOR CLASS code.backwards USING btree OWNER TO fx_owner; ALTER VIEW structure.v OWNER TO fx_owner; ALTER PROCEDURE code.proc(int) OWNER TO fx_app; ALTER DOMAIN types.short OWNER TO fx_owner; ALTER TYPE types.pair OWNER TO fx_app;
GRANT SELECT ON structure.indexed TO fx_owner; GRANT USAGE ON SCHEMA structure TO fx_owner, fx_app; -- without which what reads the view could not be refreshed
CREATE MATERIALIZED VIEW security.own_view AS SELECT t FROM structure.indexed WHERE id < 5; ALTER MATERIALIZED VIEW security.own_view OWNER TO fx_owner; GRANT SELECT ON security.own_view TO fx_app;

-- Large objects: content, owner, grants, comment; empty, sparse, and one over many pages.
SELECT lo_create(70001), lo_create(70002), lo_create(70003), lo_create(70004), lo_create(4294967295);
SELECT lo_put(70001, 0, decode(repeat('00ff5c0a09', 100000), 'hex'));
SELECT lo_put(70002, 10000000, 'sparse'), lo_put(70002, 5000, 'hole before');
SELECT lo_truncate64(lo_open(70004, 393216), 4096);
COMMENT ON LARGE OBJECT 70001 IS E'a large object''s \\ comment';
ALTER LARGE OBJECT 70002 OWNER TO fx_owner; GRANT SELECT ON LARGE OBJECT 70002 TO fx_app WITH GRANT OPTION;
GRANT UPDATE ON LARGE OBJECT 70003 TO PUBLIC; REVOKE ALL ON LARGE OBJECT 70003 FROM postgres;
