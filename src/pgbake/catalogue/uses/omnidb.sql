CREATE FUNCTION twice(i int) RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN i * 2; END $$;
-- OmniDB itself, which would connect and step, is not here: what it reads and writes is.
SELECT count(*) = 0 FROM omnidb.contexts;
SELECT omnidb.omnidb_enable_debugger('host=127.0.0.1 port=1 dbname=x connect_timeout=1') IS NOT NULL;
SELECT twice(21) = 42;
