-- There is no memcached here: its client library is loaded, and tells that there is none.
SELECT memcache_server_add('127.0.0.1:1') IS NOT NULL;
CREATE FUNCTION failure() RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM memcache_get('heron'); RETURN 'none'; EXCEPTION WHEN OTHERS THEN RETURN SQLERRM; END $$;
SELECT failure() LIKE '%CONNECTION FAILURE%';
