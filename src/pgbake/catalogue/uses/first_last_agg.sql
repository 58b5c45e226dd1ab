SELECT first(v ORDER BY i) = 'a' AND last(v ORDER BY i) = 'c' FROM (VALUES (3, 'c'), (1, 'a'), (2, 'b')) t(i, v);
