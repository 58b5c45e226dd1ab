-- of: contrib
CREATE TABLE pairs (h hstore);
CREATE INDEX ON pairs USING gin (h);
CREATE INDEX ON pairs USING gist (h);
INSERT INTO pairs VALUES ('a=>1, b=>NULL'), ('"c d"=>"e"');
SELECT h -> 'a' = '1' FROM pairs WHERE h ? 'a';
SELECT count(*) = 2 FROM pairs, each(h) WHERE h ? 'a';
