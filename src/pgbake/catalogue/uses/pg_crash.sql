-- It kills what it is told to, and here nothing: its worker waits, and its settings are there.
-- create:
SELECT current_setting('shared_preload_libraries') LIKE '%pg_crash%' AND current_setting('crash.signals') = '';
SELECT current_setting('crash.delay') <> '';
