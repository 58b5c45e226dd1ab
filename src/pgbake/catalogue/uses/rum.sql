CREATE TABLE doc (id int, v tsvector);
INSERT INTO doc SELECT i, to_tsvector('english', 'word' || i || ' heron' || CASE WHEN i % 10 = 0 THEN ' ibis' ELSE '' END) FROM generate_series(1, 500) i;
CREATE INDEX ON doc USING rum (v rum_tsvector_ops);
SET enable_seqscan = off;
SELECT count(*) = 50 FROM doc WHERE v @@ to_tsquery('english', 'heron & ibis');
SELECT count(*) = 5 FROM (SELECT v <=> to_tsquery('english', 'ibis') AS d FROM doc WHERE v @@ to_tsquery('english', 'ibis') ORDER BY d LIMIT 5) s;
