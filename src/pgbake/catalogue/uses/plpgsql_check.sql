CREATE FUNCTION wrong() RETURNS int LANGUAGE plpgsql AS $$ BEGIN RETURN (SELECT nowhere FROM pg_class LIMIT 1); END $$;
SELECT count(*) >= 1 FROM plpgsql_check_function('wrong()') line WHERE line LIKE '%nowhere%';
