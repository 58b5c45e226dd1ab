-- create:
-- program: pg_catcheck
-- A program, which reads the catalogs of a database and finds nothing wrong.
\set output `"$BIN/pg_catcheck" 2>&1 | tail -1`
SELECT :'output' LIKE '%done (0 inconsistencies, 0 warnings, 0 errors)%';
