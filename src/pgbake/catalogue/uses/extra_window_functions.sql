SELECT array_agg(x)::text = '{1,1,3,3}' FROM (
  SELECT lag_ignore_nulls(v, 0) OVER w AS y, coalesce(v, lag_ignore_nulls(v) OVER w) AS x
  FROM (VALUES (1, 1), (2, NULL), (3, 3), (4, NULL)) t(i, v) WINDOW w AS (ORDER BY i)) s;
