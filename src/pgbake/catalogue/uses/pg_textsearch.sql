CREATE TABLE page (id int, content text);
INSERT INTO page VALUES (1, 'A heron stands in water'), (2, 'The heron sees another heron, a grey heron'), (3, 'An ibis flies');
INSERT INTO page SELECT i, 'Nothing of interest' FROM generate_series(4, 500) i;
CREATE INDEX page_idx ON page USING bm25 (content) WITH (text_config = 'english');
SET enable_seqscan = off;
SELECT array_agg(id) = '{2,1}' FROM (SELECT id FROM page ORDER BY content <@> to_bm25query('herons', 'page_idx') LIMIT 2) q;
