CREATE TABLE t (id int, word text) WITH (autovacuum_enabled = false);
INSERT INTO t VALUES (1, 'here'), (2, 'gone');
DELETE FROM t WHERE id = 2;
SELECT count(*) = 2 AND bool_or(word = 'gone') FROM pg_dirtyread('t') AS t(id int, word text);
