LOAD 'age';
SET search_path = ag_catalog, public;
SELECT create_graph('food');
SELECT * FROM cypher('food', $$ CREATE (:Bird {name: 'heron'})-[:EATS]->(:Fish {name: 'roach'}) $$) AS (v agtype);
SELECT name = '"roach"' FROM cypher('food', $$ MATCH (b:Bird)-[:EATS]->(f) RETURN f.name $$) AS (name agtype);
