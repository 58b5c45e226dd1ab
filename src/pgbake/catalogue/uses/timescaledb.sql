CREATE TABLE reading (at timestamptz NOT NULL, v float);
SELECT count(*) = 1 FROM create_hypertable('reading', 'at');
INSERT INTO reading SELECT '2026-01-01'::timestamptz + i * interval '1 hour', i FROM generate_series(0, 24 * 30 - 1) i;
SELECT count(*) >= 4 FROM show_chunks('reading');
SELECT count(*) = 30 FROM (SELECT time_bucket('1 day', at, 'UTC') FROM reading GROUP BY 1) q;
