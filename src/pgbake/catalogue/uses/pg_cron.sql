-- database: postgres
-- A job is scheduled and run by the worker, within its minute.
CREATE TABLE done (at timestamptz);
SELECT cron.schedule('use', '* * * * *', 'INSERT INTO done VALUES (now())') > 0;
DO $$ BEGIN FOR i IN 1..65 LOOP EXIT WHEN EXISTS (SELECT FROM done); COMMIT; PERFORM pg_sleep(1); END LOOP; END $$;
SELECT count(*) >= 1 FROM done;
SELECT cron.unschedule('use');
