CREATE TABLE statements (name text, statement text);
INSERT INTO statements VALUES ('answer', 'PREPARE answer AS SELECT 42 AS n');
SET preprepare.relation = 'public.statements';
SELECT prepare_all() IS NOT NULL;
SELECT count(*) = 1 FROM pg_prepared_statements WHERE name = 'answer';
