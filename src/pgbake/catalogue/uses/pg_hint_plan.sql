CREATE TABLE t AS SELECT i AS id FROM generate_series(1, 10) i;
CREATE INDEX t_id ON t (id);
ANALYZE t;
CREATE FUNCTION plan(query text) RETURNS text LANGUAGE plpgsql AS $$ DECLARE j json; BEGIN EXECUTE query INTO j; RETURN j -> 0 -> 'Plan' ->> 'Node Type'; END $$;
SELECT plan('EXPLAIN (FORMAT JSON) SELECT * FROM t WHERE id = 3') = 'Seq Scan';
SELECT plan('EXPLAIN (FORMAT JSON) /*+ IndexScan(t t_id) */ SELECT * FROM t WHERE id = 3') = 'Index Scan';
