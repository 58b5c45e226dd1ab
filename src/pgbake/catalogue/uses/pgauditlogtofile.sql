-- Audited statements go to a file of their own.
COPY (SELECT 1) TO PROGRAM 'mkdir -p log';
CREATE TABLE secret_ibis (id int);
SET pgaudit.log = 'read';
SELECT count(*) = 0 FROM secret_ibis;
RESET pgaudit.log;
SELECT bool_or(pg_read_file('log/' || file) LIKE '%AUDIT: SESSION,%READ,SELECT%secret_ibis%') FROM pg_ls_dir('log') file WHERE file LIKE 'audit-%';
