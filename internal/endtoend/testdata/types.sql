-- Every built-in type with edge values; types of the database's own; what the text format of COPY must escape.
CREATE SCHEMA types;
CREATE EXTENSION hstore;
CREATE EXTENSION citext;
CREATE EXTENSION ltree;

CREATE TYPE types.mood AS ENUM ('sad', 'ok', 'it''s "fine"', '');
ALTER TYPE types.mood ADD VALUE 'better' BEFORE 'ok';
CREATE TYPE types.pair AS (a int, b text, gone int);
CREATE TYPE types.nested AS (p types.pair, m types.mood[], r int4range);
ALTER TYPE types.pair DROP ATTRIBUTE gone;
CREATE TYPE types.floatrange AS RANGE (subtype = float8, subtype_diff = float8mi, multirange_type_name = types.manyfloats);
CREATE FUNCTION types.is_short(t text) RETURNS bool LANGUAGE sql IMMUTABLE AS 'SELECT pg_catalog.length(t) < 100';
CREATE DOMAIN types.short AS text DEFAULT 'd' NOT NULL CONSTRAINT "no 'long' one" CHECK (types.is_short(VALUE));
CREATE DOMAIN types.shorter AS types.short CHECK (VALUE <> 'x');
CREATE DOMAIN types.numbers AS int[] CHECK (cardinality(VALUE) < 10);
ALTER DOMAIN types.numbers ADD CONSTRAINT later CHECK (VALUE[1] IS DISTINCT FROM 99) NOT VALID;
CREATE TYPE types.shell;
COMMENT ON TYPE types.shell IS 'never defined';
COMMENT ON DOMAIN types.short IS 'short';
COMMENT ON CONSTRAINT "no 'long' one" ON DOMAIN types.short IS 'on a domain';
COMMENT ON TYPE types.pair IS 'pair';
COMMENT ON COLUMN types.pair.b IS 'second of pair';
-- A base type of its own, over the functions of text.
CREATE TYPE types.my;
CREATE FUNCTION types.my_in(cstring) RETURNS types.my LANGUAGE internal IMMUTABLE STRICT AS 'textin';
CREATE FUNCTION types.my_out(types.my) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
CREATE TYPE types.my (INPUT = types.my_in, OUTPUT = types.my_out, LIKE = text, CATEGORY = 'S', DELIMITER = ';');

CREATE TABLE types.edge (
    id int PRIMARY KEY, b bool, i2 int2, i4 int4, i8 int8, n numeric, n5 numeric(5, 2), f4 float4, f8 float8, mo money,
    t text, vc varchar(5), c char(5), c1 "char", na name, by bytea, d date, ts timestamp, ts3 timestamp(3), tstz timestamptz,
    tm time, tmtz timetz, iv interval, ivy interval year to month, u uuid, j json, jb jsonb, jp jsonpath, x xml,
    ip inet, ci cidr, mac macaddr, mac8 macaddr8, bi bit(5), bits varbit, p point, ln line, ls lseg, bx box, pa path, po polygon, ci2 circle,
    tsv tsvector, tsq tsquery, o oid, xi xid, xi8 xid8, cmd cid, ti tid, lsn pg_lsn, snap pg_snapshot, oldsnap txid_snapshot,
    iv2 int2vector, ov oidvector, rc regclass, rp regproc, rpr regprocedure, rop regoper, ropr regoperator, rt regtype, rr regrole, rn regnamespace, rcf regconfig, rdi regdictionary,
    rco regcollation, acl aclitem, refc refcursor,
    arr text[], arr2 int[][], r4 int4range, r8 int8range, rnum numrange, rts tsrange, rtz tstzrange, rd daterange,
    m4 int4multirange, mnum nummultirange, mts tstzmultirange, fr types.floatrange, mf types.manyfloats,
    mood types.mood, moods types.mood[], pair types.pair, pairs types.pair[], nest types.nested,
    short types.short DEFAULT 'd', shorts types.shorter[], numbers types.numbers, my types.my, mys types.my[],
    h hstore, cit citext, lt ltree, lq lquery, rowtype types.my[]);
INSERT INTO types.edge (id) VALUES (0);
INSERT INTO types.edge (id, i2, i4, i8, n, n5, f4, f8, mo, t, vc, c, d, ts, tstz, tm, tmtz, iv, p, arr, arr2, r4, rnum, m4, fr, mf) VALUES
    (1, -32768, -2147483648, -9223372036854775808, 'NaN', 'NaN', 'NaN', 'NaN', '-92233720368547758.08', '', '', '', '-infinity', '-infinity', '-infinity', '00:00', '00:00:00+15:59', '-178000000 years', '(NaN,-0)', '{}', '{}', 'empty', '(,)', '{}', '(,)', '{}'),
    (2, 32767, 2147483647, 9223372036854775807, '-0.000', '-999.99', '-0', '-0', '92233720368547758.07', E'\\.', E'\\.', E'\\.', '4713-01-01 BC', '4713-01-01 00:00:00 BC', '4713-11-24 00:00:00 BC', '24:00', '24:00:00-15:59', '1 mon -1 day 00:00:00.000001', '(Infinity,-Infinity)', '{NULL,"NULL","null","","\\\\","{}"," "}', '{{1,2},{3,NULL}}', '[1,5)', '[-1e-400,1e300]', '{[1,2),[5,6)}', '[-1e300,1e300]', '{[-Infinity,-0],(1,2)}'),
    (3, 0, 0, 0, 'Infinity', 0, 'Infinity', '-Infinity', 0, E'\\N', E'\\N', E'\\N', '5874897-12-31', '294276-12-31 23:59:59.999999', 'infinity', '23:59:59.999999', '00:00', '178000000 years', '(1e-310,0)', E'{"a\\nb","c\td"}', '[-1:0][2:3]={{1,2},{3,4}}', '(,5)', '[0,0]', NULL, NULL, NULL),
    (4, 1, 1, 1, '-Infinity', 0.005, 1e-45, 4.9e-324, 0.01, E'\\.\n\\.\n', E'\n\\.\n', E'\t', 'infinity', 'infinity', '0001-12-31 23:59:59.999999 BC', '00:00:00.000001', NULL, '00:00:00', NULL, NULL, NULL, '[2147483647,)', NULL, NULL, NULL, NULL),
    (5, 2, 2, 2, 1e131071, NULL, 3.4028235e38, 1.7976931348623157e308, NULL, E'tab\there\nnewline\rreturn\b\f\v\\backslash "quote" ''apostrophe'' \x7f \x01 , ; \\r\\n', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, ARRAY['a"b', E'c\\d', 'e,f', '{g}', NULL, E'\n'], NULL, NULL, NULL, NULL, NULL, NULL),
    (6, 3, 3, 3, ('0.' || repeat('0', 16382) || '1')::numeric, NULL, 0.1, 0.1, NULL, 'x', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL);
INSERT INTO types.edge (id, by, t) SELECT 7, string_agg(set_byte('\x00'::bytea, 0, i), ''::bytea), repeat('ä€😀', 20000) FROM generate_series(0, 255) i;
INSERT INTO types.edge (id, by, t, jb, x) VALUES (8, '', repeat(' ', 3000), '{"\u00e4": "\u20ac \\ \" \n", "n": -0.0, "big": 12345678901234567890.123, "e": {}, "a": []}', '<?xml version="1.0"?><!-- c --><a b="&lt;"><![CDATA[ ]]></a>');
INSERT INTO types.edge VALUES (9, true, -1, 1, 1, 1.10, 1.1, 1.1, 1.1, 12.34, 't', 'vc', 'c', E'\'', 'select', '\x00', 'today', now(), now(), now(),
    '12:34:56.789', '12:34:56.789+05:30', '1 year 2 mons -3 days 04:05:06.7', '2 years 3 mons', gen_random_uuid(), '{"a" : 1,"a":2}', '{"b":[1,null]}', '$.a[*] ? (@ > 1)', 'text<a/>text',
    '10.1.2.3/8', '2001:db8::/32', '08:00:2b:01:02:03', '08:00:2b:01:02:03:04:05', B'01010', B'', '(1,-0)', '{1,-1,0}', '[(1,2),(3,4)]', '(1,1),(0,0)', '[(0,0),(1,1)]', '((0,0),(1,1),(1,0))', '<(0,0),1>',
    $$a:1A b 'c d':3B '\\e'''$$, $$a & !(b | 'c d':*A) <-> e$$, 4294967295, '4294967295', '18446744073709551615', '7', '(4294967295,65535)', 'FFFFFFFF/FFFFFFFF', '10:20:10,14,15', '10:20:10,14,15',
    '1 2 3', '1 2 3', 'pg_class', 'now', 'abs(int4)', '||/', '+(int4,int4)', 'int4[]', 'fx_owner', 'pg_catalog', 'english', 'simple',
    '"C"', 'fx_owner=r*w/postgres', 'cursor',
    '{a}', NULL, '[1,2]', '(,)', '(1.5,)', '["2000-01-01 00:00:00",infinity]', '(,"0044-03-15 12:00:00+00 BC"]', '[2000-01-01,2000-02-01)',
    '{(,1),(5,)}', '{[1.1,2.2]}', '{}', '[0.1,0.2)', '{[1,2],[3,4]}',
    'ok', '{sad,"it''s \"fine\"",""}', ROW(1, E'x"y\\z,(\n)'), ARRAY[ROW(NULL, ''), NULL]::types.pair[], ROW(ROW(NULL, NULL), '{ok}', 'empty'),
    'short', '{a,""}', '{1,2}', 'my;\type', '{a;"b;c"}', 'a=>1,"b c"=>NULL,"=>"=>"\""', 'CiText', 'Top.Science', '*.a{1,2}', NULL);
INSERT INTO types.edge (id, x, ts3, ivy, arr2) VALUES (10, '', '2000-01-01 00:00:00.9996', '-1 mon', '[0:1]={1,2}');

-- One row per byte and per Unicode edge; order is not that of the key.
CREATE TABLE types.bytes (i int, b bytea);
INSERT INTO types.bytes SELECT i, set_byte('\x00'::bytea, 0, i) FROM generate_series(0, 255) i ORDER BY (i * 37) % 256;
CREATE TABLE types.characters (i int, c text, v varchar(1), b char(1));
INSERT INTO types.characters SELECT i, chr(i), chr(i), chr(i) FROM generate_series(1, 1114111, 97) i WHERE i NOT BETWEEN 55296 AND 57343;
INSERT INTO types.characters SELECT i, chr(i), chr(i), chr(i) FROM generate_series(1, 300) i;
CREATE TABLE types.lines (t text);
INSERT INTO types.lines VALUES (E'\\.'), (''), (NULL), (E'\\N'), (E'\\\\.'), (E'\n'), (E'\r\n'), ('\.' || E'\n' || '\.'), (E'\t'), ('--'), (E'\\restrict x'), ('COPY x FROM stdin;');
-- Stored outside of the row, each way; and a row that fills its block.
CREATE TABLE types.toasted (id int, plain text, extended text, external text, main text);
ALTER TABLE types.toasted ALTER plain SET STORAGE PLAIN, ALTER external SET STORAGE EXTERNAL, ALTER main SET STORAGE MAIN;
ALTER TABLE types.toasted ALTER extended SET COMPRESSION pglz;
INSERT INTO types.toasted SELECT i, repeat('p', i * 300), repeat(md5(i::text), 3000), repeat(md5(i::text), 3000), repeat('m', i * 500) FROM generate_series(1, 20) i;
-- Rows that moved: updates, deletes, re-use of space by what came later.
CREATE TABLE types.churned (id int, t text);
INSERT INTO types.churned SELECT i, repeat('x', i % 100) FROM generate_series(1, 3000) i;
DELETE FROM types.churned WHERE id % 3 = 0;
UPDATE types.churned SET t = 'updated' WHERE id % 5 = 0;
VACUUM types.churned;
INSERT INTO types.churned SELECT -i, 'filler' FROM generate_series(1, 500) i;
