-- Names that need quoting everywhere they are written.
CREATE SCHEMA "Odd ""schema"" \ ' ünïcode $$ %s";
CREATE TABLE "Odd ""schema"" \ ' ünïcode $$ %s"."Tab	le ""x"" ' \ %s select;--" ("col ""c"" ' \" int PRIMARY KEY, "select" text, "ünïcode_name_that_is_sixty_three_bytes_long_xxxxxxxxxxxxxxxxx" int, "new
line" text DEFAULT E'd\\efault\n''', "," int, "(" int, " " text, "😀" text, "a.b" int);
INSERT INTO "Odd ""schema"" \ ' ünïcode $$ %s"."Tab	le ""x"" ' \ %s select;--" VALUES (1, 'one', 2, E'n\n', 3, 4, ' ', '😀', 5);
ALTER TABLE "Odd ""schema"" \ ' ünïcode $$ %s"."Tab	le ""x"" ' \ %s select;--" OWNER TO "fx Odd ""role"" \ ' %s";
COMMENT ON COLUMN "Odd ""schema"" \ ' ünïcode $$ %s"."Tab	le ""x"" ' \ %s select;--"."select" IS E'comment with ''quotes'', \\backslash\\ and\nnewline\n\\.\n-- Dumped from nothing\n';
GRANT SELECT ("select") ON "Odd ""schema"" \ ' ünïcode $$ %s"."Tab	le ""x"" ' \ %s select;--" TO fx_app;
CREATE INDEX "in""dex" ON "Odd ""schema"" \ ' ünïcode $$ %s"."Tab	le ""x"" ' \ %s select;--" ("new
line");
CREATE TABLE "Odd ""schema"" \ ' ünïcode $$ %s"."new
line; DROP TABLE x" (a int); INSERT INTO "Odd ""schema"" \ ' ünïcode $$ %s"."new
line; DROP TABLE x" VALUES (1);
CREATE TABLE "Odd ""schema"" \ ' ünïcode $$ %s"."xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx63" (a serial); INSERT INTO "Odd ""schema"" \ ' ünïcode $$ %s"."xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx63" VALUES (DEFAULT);
CREATE SEQUENCE "Odd ""schema"" \ ' ünïcode $$ %s"."seq'\""uence"; SELECT nextval($$"Odd ""schema"" \ ' ünïcode $$ || '$$' || $$ %s"."seq'\""uence"$$);
CREATE VIEW "Odd ""schema"" \ ' ünïcode $$ %s"."view ""v""" AS SELECT "col ""c"" ' \" AS "a ""b" FROM "Odd ""schema"" \ ' ünïcode $$ %s"."Tab	le ""x"" ' \ %s select;--";
CREATE MATERIALIZED VIEW "Odd ""schema"" \ ' ünïcode $$ %s"."mat ""v"" \" AS SELECT * FROM "Odd ""schema"" \ ' ünïcode $$ %s"."view ""v""";
CREATE FUNCTION "Odd ""schema"" \ ' ünïcode $$ %s"."f ""u"" ' \"("arg ""a""" int) RETURNS int LANGUAGE sql AS 'SELECT 1';
CREATE TYPE "Odd ""schema"" \ ' ünïcode $$ %s"."type ""t""" AS ENUM (E'la''bel', '"', '\', ' ');
CREATE TABLE "Odd ""schema"" \ ' ünïcode $$ %s"."TABLE DATA" (t "Odd ""schema"" \ ' ünïcode $$ %s"."type ""t"""); INSERT INTO "Odd ""schema"" \ ' ünïcode $$ %s"."TABLE DATA" VALUES ('\'), ('"'), (' ');
CREATE TABLE "Odd ""schema"" \ ' ünïcode $$ %s"."ACL - SCHEMA x" (a int CONSTRAINT "CHECK CONSTRAINT" CHECK (a > 0)); INSERT INTO "Odd ""schema"" \ ' ünïcode $$ %s"."ACL - SCHEMA x" VALUES (1);
CREATE TABLE public."EVENT TRIGGER x" (a int); COMMENT ON TABLE public."EVENT TRIGGER x" IS 'EVENT TRIGGER'; INSERT INTO public."EVENT TRIGGER x" VALUES (1);
CREATE SCHEMA "user"; CREATE TABLE "user"."table" ("order" int, "group" int); INSERT INTO "user"."table" VALUES (1, 2);
CREATE SCHEMA " "; CREATE TABLE " "." " (" " int); INSERT INTO " "." " VALUES (1);
CREATE SCHEMA "PG_like"; CREATE TABLE "PG_like".t (a int); INSERT INTO "PG_like".t VALUES (1);
