CREATE TABLE t (word text);
ALTER TABLE t ALTER word SET STORAGE EXTERNAL;
INSERT INTO t VALUES ('short'), (repeat('x', 10000));
SELECT array_agg(pg_toastinfo(word) ORDER BY length(word))::text = '{"short inline varlena","toasted varlena, uncompressed"}' FROM t;
