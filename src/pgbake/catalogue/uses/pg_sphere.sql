SELECT abs(dist('(0d, 0d)'::spoint, '(90d, 0d)'::spoint) - pi() / 2) < 1e-9;
CREATE TABLE star (p spoint);
INSERT INTO star SELECT spoint(radians(i % 360), radians((i % 180) - 90)) FROM generate_series(0, 719) i;
CREATE INDEX ON star USING gist (p);
SET enable_seqscan = off;
SELECT count(*) = (SELECT count(*) FROM star WHERE p <-> '(10d, 5d)'::spoint <= radians(20)) FROM star WHERE p <@ '<(10d, 5d), 20d>'::scircle;
