-- There is no server of Sybase's or Microsoft's here: its client library is loaded, and is told that there is none.
CREATE SERVER m FOREIGN DATA WRAPPER tds_fdw OPTIONS (servername '127.0.0.1', port '1', database 'd');
CREATE USER MAPPING FOR CURRENT_USER SERVER m OPTIONS (username 'u', password 'p');
CREATE FOREIGN TABLE t (id int) SERVER m OPTIONS (table_name 'dbo.t');
CREATE FUNCTION failure() RETURNS text LANGUAGE plpgsql AS $$ BEGIN PERFORM * FROM t; RETURN 'none'; EXCEPTION WHEN OTHERS THEN RETURN SQLERRM; END $$;
SELECT failure() ~* 'DB-Library.*(connect|refused)';
