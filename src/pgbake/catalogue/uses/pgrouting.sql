-- create: pgrouting
CREATE TABLE way (id int, source int, target int, cost float);
INSERT INTO way VALUES (1, 1, 2, 1), (2, 2, 3, 1), (3, 1, 3, 5), (4, 3, 4, 1);
SELECT array_agg(node ORDER BY path_seq)::text = '{1,2,3,4}' AND max(agg_cost) = 3 FROM pgr_dijkstra('SELECT * FROM way', 1, 4, true);
