-- of: contrib
SELECT pg_stat_statements_reset() IS NOT NULL;
SELECT 1 + 1 = 2;
SELECT 2 + 2 = 4;
SELECT sum(calls) = 2 FROM pg_stat_statements WHERE query LIKE 'SELECT $1 + $2 = $3' AND dbid = (SELECT oid FROM pg_database WHERE datname = current_database());
