-- Text whose order depends on the database's locale.
CREATE TABLE words (w text PRIMARY KEY);
INSERT INTO words VALUES ('zebra'), ('Apfel'), ('äpfel'), ('Öl'), ('ol'), ('straße'), ('STRASSE'), ('2'), ('10');
CREATE INDEX ON words (upper(w)); CREATE INDEX ON words (w COLLATE "C");
CREATE MATERIALIZED VIEW sorted AS SELECT w, upper(w) AS u FROM words ORDER BY w;
CREATE TABLE part (w text) PARTITION BY RANGE (w); CREATE TABLE part_a PARTITION OF part FOR VALUES FROM (MINVALUE) TO ('m'); CREATE TABLE part_b PARTITION OF part FOR VALUES FROM ('m') TO (MAXVALUE);
INSERT INTO part SELECT w FROM words;
