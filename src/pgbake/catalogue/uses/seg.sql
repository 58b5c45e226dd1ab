-- of: contrib
CREATE TABLE segs (s seg);
CREATE INDEX ON segs USING gist (s);
INSERT INTO segs VALUES ('1.5 .. 2.5'), ('~7.0'), ('5(+-)0.3');
SELECT count(*) = 1 FROM segs WHERE s @> '2'::seg;
