SELECT plan(2) = '1..2';
SELECT ok(1 + 1 = 2, 'sum') = 'ok 1 - sum';
SELECT has_table('pg_catalog', 'pg_class', 'there') = 'ok 2 - there';
