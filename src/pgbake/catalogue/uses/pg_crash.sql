-- It kills whom it is told to, and in a bundle nobody before somebody says so: its worker lives, and all others.
-- create:
SELECT current_setting('crash.signals') = '0' AND current_setting('crash.delay') = '1s';
SELECT pg_sleep(2) IS NOT NULL;
SELECT pg_read_file('server.log') LIKE '%pg_crash background worker started%';
