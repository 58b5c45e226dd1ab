-- create:
-- A program, which wants a server that is down: it tells its own options.
\set output `"$BIN/pg_checksums_ext" --help 2>&1`
SELECT :'output' LIKE '%--online%' OR :'output' LIKE '%PGDATA%';
