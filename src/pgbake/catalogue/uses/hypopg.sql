CREATE TABLE t AS SELECT i AS id, md5(i::text) AS word FROM generate_series(1, 20000) i;
ANALYZE t;
SELECT count(*) = 1 FROM hypopg_create_index('CREATE INDEX ON t (id)');
CREATE FUNCTION plan() RETURNS text LANGUAGE plpgsql AS $$ DECLARE r json; BEGIN EXECUTE 'EXPLAIN (FORMAT json) SELECT * FROM t WHERE id = 7' INTO r; RETURN r::text; END $$;
SELECT plan() LIKE '%Index%' AND plan() LIKE '%btree_t_id%';
SELECT hypopg_reset() IS NOT NULL AND plan() NOT LIKE '%Index%';
