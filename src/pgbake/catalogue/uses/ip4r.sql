CREATE TABLE net (r ip4r);
INSERT INTO net SELECT ('10.' || i || '.0.0/16')::ip4r FROM generate_series(0, 99) i;
CREATE INDEX ON net USING gist (r);
SET enable_seqscan = off;
SELECT count(*) = 1 FROM net WHERE r >>= '10.42.7.9'::ip4;
SELECT ip6r '2001:db8::/32' >>= ip6 '2001:db8::1';
