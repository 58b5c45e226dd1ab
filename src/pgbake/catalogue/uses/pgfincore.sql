CREATE TABLE t AS SELECT i AS id, md5(i::text) AS word FROM generate_series(1, 10000) i;
CHECKPOINT;
SELECT sum(rel_os_pages) > 50 AND sum(pages_mem) >= 0 FROM pgfincore('t');
