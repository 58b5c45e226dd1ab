-- database: postgres
-- A job is scheduled and run by the worker: each second since 1.5, else within its minute.
CREATE TABLE IF NOT EXISTS done (at timestamptz);
SELECT CASE WHEN string_to_array(split_part(extversion, '-', 1), '.')::int[] >= '{1,5}' THEN '1 second' ELSE '* * * * *' END AS often FROM pg_extension WHERE extname = 'pg_cron'
\gset
SELECT cron.schedule('use', :'often', 'INSERT INTO done VALUES (now())') > 0;
DO $$ BEGIN FOR i IN 1..140 LOOP EXIT WHEN EXISTS (SELECT FROM done); COMMIT; PERFORM pg_sleep(0.5); END LOOP; END $$;
SELECT count(*) >= 1 FROM done;
SELECT cron.unschedule('use');
