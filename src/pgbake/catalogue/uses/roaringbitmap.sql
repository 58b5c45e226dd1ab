SELECT rb_cardinality(rb_build('{1,2,3}') & rb_build('{2,3,4}')) = 2;
SELECT rb_to_array(rb_or_agg(rb_build(ARRAY[i]))) = '{1,2,3}' FROM generate_series(1, 3) i;
