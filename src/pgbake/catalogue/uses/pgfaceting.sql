CREATE TABLE doc (id int PRIMARY KEY, kind text);
INSERT INTO doc SELECT i, CASE WHEN i % 3 = 0 THEN 'bird' ELSE 'fish' END FROM generate_series(1, 30) i;
SELECT faceting.add_faceting_to_table('doc', key => 'id', facets => ARRAY[faceting.plain_facet('kind')]);
SELECT cardinality = 10 FROM faceting.top_values('doc'::regclass) WHERE facet_value = 'bird';
