-- A debugger's client: it listens, and finds functions and their source.
CREATE FUNCTION twice(i int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN i * 2; END $$;
SELECT pldbg_create_listener() > 0;
SELECT count(*) = 1 AND bool_and(proxyapiver > 0) FROM pldbg_get_proxy_info();
SELECT count(*) = 1 AND bool_and(targetname = 'twice' AND target = 'twice(int)'::regprocedure) FROM pldbg_get_target_info('twice(int)'::regprocedure::oid::text, 'o');
