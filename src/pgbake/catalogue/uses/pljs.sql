CREATE FUNCTION sum_of(numbers int[]) RETURNS int LANGUAGE pljs AS $$ return numbers.reduce((a, b) => a + b, 0); $$;
SELECT sum_of('{1,2,39}') = 42;
CREATE FUNCTION birds() RETURNS int LANGUAGE pljs AS $$ return pljs.execute('SELECT 6 * $1 AS n', [7])[0].n; $$;
SELECT birds() = 42;
SELECT pljs_version() <> '';
