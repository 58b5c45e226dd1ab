CREATE TABLE t (id int PRIMARY KEY, word text);
INSERT INTO t SELECT i, repeat('x', 100) FROM generate_series(1, 20000) i;
DELETE FROM t WHERE id > 100;
SELECT pg_relation_size('t') AS before
\gset
SELECT squeeze.squeeze_table('public', 't');
SELECT pg_relation_size('t') < :before / 10;
SELECT count(*) = 100 FROM t;
