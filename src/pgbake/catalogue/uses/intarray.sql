-- of: contrib
CREATE TABLE numbers (a int[]);
CREATE INDEX ON numbers USING gist (a gist__int_ops);
CREATE INDEX ON numbers USING gin (a gin__int_ops);
INSERT INTO numbers VALUES ('{1,2,3}'), ('{4}');
SELECT count(*) = 1 FROM numbers WHERE a @@ '1&(2|9)'::query_int;
SELECT sort('{3,1,2}'::int[]) = '{1,2,3}';
