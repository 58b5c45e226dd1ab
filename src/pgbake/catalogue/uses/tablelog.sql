CREATE TABLE t (id int PRIMARY KEY, word text);
SELECT table_log_init(4, 'public', 't', 'public', 't_log') IS NOT NULL;
INSERT INTO t VALUES (1, 'heron');
UPDATE t SET word = 'ibis';
SELECT count(*) = 3 AND bool_or(word = 'heron') FROM t_log;
