-- create:
-- An ordinary user may create what the administrator lists.
CREATE ROLE use_pgextwlist LOGIN;
ALTER DATABASE :"DBNAME" OWNER TO use_pgextwlist;
ALTER ROLE use_pgextwlist IN DATABASE :"DBNAME" SET local_preload_libraries = '';
LOAD 'pgextwlist';
SET extwlist.extensions = 'pg_prewarm';
SET ROLE use_pgextwlist;
CREATE EXTENSION pg_prewarm;
SELECT count(*) = 1 FROM pg_extension WHERE extname = 'pg_prewarm';
RESET ROLE;
