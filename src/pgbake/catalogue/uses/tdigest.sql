SELECT abs(tdigest_percentile(v, 100, 0.95) - 950) < 10 FROM generate_series(1, 1000) v;
SELECT abs(tdigest_percentile(d, 0.5) - 500) < 10 FROM (SELECT tdigest(v, 100) AS d FROM generate_series(1, 1000) v GROUP BY v::int % 4) s;
