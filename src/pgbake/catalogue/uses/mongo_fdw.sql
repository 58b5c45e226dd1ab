-- There is no server of MongoDB's here: its client library is loaded, and is told that there is none.
CREATE SERVER m FOREIGN DATA WRAPPER mongo_fdw OPTIONS (address '127.0.0.1', port '1');
CREATE USER MAPPING FOR CURRENT_USER SERVER m;
CREATE FOREIGN TABLE t (_id name, id int) SERVER m OPTIONS (database 'd', collection 'c');
SELECT mongo_fdw_version() >= 50000;
CREATE FUNCTION failure() RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM * FROM t; RETURN 'none'; EXCEPTION WHEN OTHERS THEN RETURN SQLERRM; END $$;
SELECT failure() ~* 'server|connect';
