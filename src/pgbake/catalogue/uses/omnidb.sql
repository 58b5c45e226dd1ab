-- OmniDB itself, which would connect and step, is not here: the module tells that nobody listens.
-- create: omnidb_plpgsql_debugger
CREATE FUNCTION twice(i int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN i * 2; END $$;
SELECT count(*) = 0 FROM omnidb.contexts;
SELECT omnidb.omnidb_enable_debugger('host=127.0.0.1 port=1 dbname=x connect_timeout=1') IS NOT NULL;
\set ON_ERROR_STOP 0
\o /dev/null
SELECT twice(21);
\o
SELECT :'LAST_ERROR_MESSAGE' LIKE 'omnidb: Connection to database failed%';
