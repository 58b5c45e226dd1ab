-- What is audited goes to the server's log, or to pgauditlogtofile's where the bundle has that too.
CREATE TABLE secret_heron (id int);
SET pgaudit.log = 'read';
SELECT count(*) = 0 FROM secret_heron;
RESET pgaudit.log;
SELECT bool_or(line LIKE '%SESSION%READ%SELECT%secret_heron%') FROM (SELECT 'server.log' UNION ALL SELECT 'log/' || name FROM pg_ls_dir('log', true, false) name WHERE name LIKE 'audit-%') AS files (file), regexp_split_to_table(pg_read_file(file), E'\n') line;
