-- Roles of the made-up product, common to its workspaces, and the role that takes backups, with the privileges that
-- docs/security.md names and no others.
CREATE ROLE helpdesk_owner NOLOGIN;
CREATE ROLE helpdesk_web LOGIN;
CREATE ROLE helpdesk_reports LOGIN;
CREATE ROLE hourvault LOGIN BYPASSRLS;
GRANT pg_read_all_data TO hourvault;
