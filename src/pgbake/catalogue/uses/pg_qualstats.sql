SET pg_qualstats.sample_rate = 1;
CREATE TABLE t AS SELECT i AS id FROM generate_series(1, 1000) i;
SELECT count(*) = 1 FROM t WHERE id = 7;
SELECT count(*) >= 1 FROM pg_qualstats WHERE lrelid = 't'::regclass;
