-- There is no pgpool here: its client library answers that there is none.
SELECT pgpool_regclass('pg_class') = 'pg_class'::regclass;
CREATE FUNCTION failure() RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM pcp_node_count('127.0.0.1', 1, 'u', 'p'); RETURN 'none'; EXCEPTION WHEN OTHERS THEN RETURN SQLERRM; END $$;
SELECT failure() ILIKE '%connect%';
