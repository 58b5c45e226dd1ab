-- What is audited goes to the server's log.
CREATE TABLE secret_heron (id int);
SET pgaudit.log = 'read';
SELECT count(*) = 0 FROM secret_heron;
RESET pgaudit.log;
SELECT bool_or(line LIKE '%AUDIT: SESSION,%READ,SELECT%secret_heron%') FROM regexp_split_to_table(pg_read_file('server.log'), E'\n') line;
