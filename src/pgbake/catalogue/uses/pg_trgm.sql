-- of: contrib
CREATE TABLE texts (line text);
CREATE INDEX ON texts USING gin (line gin_trgm_ops);
CREATE INDEX ON texts USING gist (line gist_trgm_ops);
INSERT INTO texts VALUES ('wordrow'), ('something else');
SELECT count(*) = 1 FROM texts WHERE line LIKE '%ordr%';
SELECT similarity('word', 'two words') > 0.3;
