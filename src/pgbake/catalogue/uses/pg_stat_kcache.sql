CREATE TABLE t AS SELECT i AS id, md5(i::text) AS word FROM generate_series(1, 100000) i;
SELECT count(DISTINCT word) = 100000 FROM t;
SELECT count(*) >= 1 FROM pg_stat_kcache_detail WHERE query LIKE 'SELECT count(DISTINCT word)%' AND exec_user_time + exec_system_time > 0;
