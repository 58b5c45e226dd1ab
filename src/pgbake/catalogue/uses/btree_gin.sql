-- of: contrib
CREATE TABLE both_of (n int, words tsvector);
CREATE INDEX ON both_of USING gin (n, words);
INSERT INTO both_of VALUES (1, 'a b'), (2, 'c');
SELECT count(*) = 1 FROM both_of WHERE n = 2 AND words @@ 'c';
