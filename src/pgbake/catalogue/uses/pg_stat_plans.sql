CREATE TABLE t AS SELECT i AS id FROM generate_series(1, 1000) i;
SELECT count(*) = 1 FROM t WHERE id = 7;
SELECT count(*) >= 1 FROM pg_stat_plans WHERE plan LIKE '%Seq Scan on t%' AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database());
