SELECT abs(hll_cardinality(hll_add_agg(hll_hash_integer(i % 10000))) - 10000) < 300 FROM generate_series(1, 50000) i;
CREATE TABLE day (d int, who hll);
INSERT INTO day SELECT d, hll_add_agg(hll_hash_text('u' || u)) FROM generate_series(1, 3) d, generate_series(d * 100, d * 100 + 199) u GROUP BY d;
SELECT abs(hll_cardinality(hll_union_agg(who)) - 400) < 12 FROM day;
