CREATE FUNCTION loops() RETURNS int LANGUAGE plpgsql AS $$ DECLARE s int := 0; BEGIN FOR i IN 1..1000 LOOP s := s + i; END LOOP; RETURN s; END $$;
SELECT pl_profiler_set_enabled_local(true);
SELECT loops() = 500500;
SELECT pl_profiler_set_enabled_local(false) IS NOT NULL;
SELECT max(exec_count) >= 1000 FROM pl_profiler_linestats_local() WHERE func_oid = 'loops()'::regprocedure;
