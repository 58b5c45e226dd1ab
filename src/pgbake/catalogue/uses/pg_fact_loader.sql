SELECT count(*) > 5 FROM pg_tables WHERE schemaname = 'fact_loader';
INSERT INTO fact_loader.fact_tables (fact_table_relid, priority) SELECT 'pg_class'::regclass, 1;
SELECT count(*) = 1 AND bool_and(NOT enabled) FROM fact_loader.fact_tables;
SELECT fact_loader.try_load(1) IS NOT NULL;
