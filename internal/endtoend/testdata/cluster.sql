-- What belongs to a whole server: roles, and tablespaces. Run once per cluster.
CREATE ROLE fx_owner NOLOGIN CONNECTION LIMIT 7;
CREATE ROLE fx_app LOGIN;
CREATE ROLE fx_grantor NOLOGIN;
CREATE ROLE fx_reader NOLOGIN NOINHERIT;
CREATE ROLE fx_setting LOGIN;
CREATE ROLE "fx Odd ""role"" \ ' %s" NOLOGIN;
CREATE ROLE fx_superuser SUPERUSER NOLOGIN;
CREATE ROLE fx_unrelated NOLOGIN;
GRANT fx_reader TO fx_app;
GRANT pg_monitor TO fx_reader;
SET allow_in_place_tablespaces = on;
CREATE TABLESPACE fx_space OWNER fx_owner LOCATION '';
CREATE TABLESPACE "fx Other \ space" LOCATION '';
GRANT CREATE ON TABLESPACE "fx Other \ space" TO fx_owner;
