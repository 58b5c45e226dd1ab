LOAD 'pgtt';
CREATE GLOBAL TEMPORARY TABLE visit (id int) ON COMMIT PRESERVE ROWS;
INSERT INTO visit VALUES (1);
SELECT count(*) = 1 FROM visit;
\connect
LOAD 'pgtt';
SELECT count(*) = 0 FROM visit;
