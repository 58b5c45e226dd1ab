-- create:
-- A worker tells on a port of its own whether the server is a primary: it listens.
SELECT count(*) = 1 FROM pg_stat_activity WHERE backend_type LIKE 'bgw_replstatus%';
SELECT setting::int > 0 FROM pg_settings WHERE name = 'bgw_replstatus.port';
