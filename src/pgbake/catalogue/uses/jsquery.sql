CREATE TABLE doc (d jsonb);
INSERT INTO doc SELECT jsonb_build_object('id', i, 'tags', jsonb_build_array('a' || i % 3, 'x')) FROM generate_series(1, 300) i;
CREATE INDEX ON doc USING gin (d jsonb_path_value_ops);
SET enable_seqscan = off;
SELECT count(*) = 100 FROM doc WHERE d @@ 'tags.# = "a1"'::jsquery;
SELECT count(*) = 10 FROM doc WHERE d @@ 'id <= 10'::jsquery;
