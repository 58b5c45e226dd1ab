-- Audited statements go to a file of their own, in a directory that it makes; not after a crash, where it is off.
CREATE TABLE secret_ibis (id int);
SET pgaudit.log = 'read';
SELECT count(*) = 0 FROM secret_ibis;
RESET pgaudit.log;
SELECT bool_or(pg_read_file('log/' || file) LIKE '%SESSION%READ%SELECT%secret_ibis%') FROM pg_ls_dir('log') file WHERE file LIKE 'audit-%';
SELECT pg_read_file('server.log') NOT LIKE '%SESSION,%READ,SELECT%secret_ibis%';
