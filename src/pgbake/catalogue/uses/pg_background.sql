CREATE TABLE visit (bird text);
-- A transaction of its own stays where the one that started it is rolled back.
BEGIN;
SELECT completed AND NOT has_error AND row_count = 1 FROM pg_background_run($$INSERT INTO visit VALUES ('heron')$$, timeout_ms := 30000);
ROLLBACK;
SELECT count(*) = 1 FROM visit;
SELECT pid, cookie FROM pg_background_launch('SELECT 6 * 7')
\gset
SELECT answer = 42 FROM pg_background_result(:pid, :cookie) AS (answer int);
