CREATE FUNCTION twice(i int) RETURNS int LANGUAGE plpgsql AS $$
BEGIN
  RETURN i * 2;
END $$;
SELECT pldbg_create_listener() AS session
\gset
SELECT pldbg_set_global_breakpoint(:session, 'twice(int)'::regprocedure, 3, NULL);
SELECT count(*) = 1 FROM pldbg_get_breakpoints(:session);
SELECT position('i * 2' in pldbg_get_source(:session, 'twice(int)'::regprocedure)) > 0;
SELECT pldbg_drop_breakpoint(:session, 'twice(int)'::regprocedure, 3);
