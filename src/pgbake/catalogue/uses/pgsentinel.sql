-- database: postgres
-- What sessions do is looked at each second, by a worker that needs the extension in its own database.
SELECT pg_sleep(3) IS NOT NULL;
SELECT count(*) >= 1 FROM pg_active_session_history WHERE datname = current_database() AND query LIKE '%pg_sleep%';
