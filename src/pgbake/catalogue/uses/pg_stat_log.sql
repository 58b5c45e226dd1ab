SELECT count(*) = 0 FROM pg_stat_log WHERE database_name = current_database() AND sqlerrcode = '22012';
\set ON_ERROR_STOP 0
\o /dev/null
SELECT 1 / 0;
\o
\set ON_ERROR_STOP 1
-- Counts are told to others at the end of a session at the latest.
\connect
SELECT count(*) = 1 AND bool_and(count = 1 AND elevel = 'ERROR') FROM pg_stat_log WHERE database_name = current_database() AND sqlerrcode = '22012';
