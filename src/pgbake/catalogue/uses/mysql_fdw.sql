-- There is no server of MySQL's here: its client library is loaded, and is told that there is none.
CREATE SERVER m FOREIGN DATA WRAPPER mysql_fdw OPTIONS (host '127.0.0.1', port '1');
CREATE USER MAPPING FOR CURRENT_USER SERVER m OPTIONS (username 'u', password 'p');
CREATE FOREIGN TABLE t (id int) SERVER m OPTIONS (dbname 'd', table_name 't');
SELECT mysql_fdw_version() >= 20000;
CREATE FUNCTION failure() RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM * FROM t; RETURN 'none'; EXCEPTION WHEN OTHERS THEN RETURN SQLERRM; END $$;
SELECT failure() ~* 'failed to connect to MySQL.*127.0.0.1';
