CREATE TABLE t (id int PRIMARY KEY, word text);
INSERT INTO t SELECT i, repeat('x', 500) FROM generate_series(1, 2000) i;
DELETE FROM t WHERE id % 2 = 0;
SELECT pg_relation_size('t') AS before
\gset
\set output `"$BIN/pg_repack" -t t "$PGDATABASE" 2>&1`
SELECT :'output' LIKE '%repacking table "public.t"%';
SELECT pg_relation_size('t') < :before AND count(*) = 1000 FROM t;
