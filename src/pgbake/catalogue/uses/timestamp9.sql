SELECT '2024-02-29 12:00:00.123456789 +0000'::timestamp9::bigint % 1000000000 = 123456789;
CREATE TABLE t (at timestamp9 PRIMARY KEY);
INSERT INTO t VALUES ('2024-02-29 12:00:00.123456789 +0000'), ('2024-02-29 12:00:00.123456788 +0000');
SELECT min(at)::bigint + 1 = max(at)::bigint AND max(at) - interval '1 second' < min(at) FROM t;
