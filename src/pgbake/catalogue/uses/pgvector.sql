CREATE TABLE item (id int, e vector(3));
INSERT INTO item SELECT i, ARRAY[i, i * i, 1]::vector FROM generate_series(1, 100) i;
CREATE INDEX ON item USING hnsw (e vector_l2_ops);
SET enable_seqscan = off;
SELECT id = 7 FROM item ORDER BY e <-> '[7, 49, 1]' LIMIT 1;
SELECT abs(('[1, 0]'::vector <=> '[0, 1]'::vector) - 1) < 1e-6;
