LOAD 'age';
SET search_path = ag_catalog, public;
SELECT create_graph('g');
SELECT * FROM cypher('g', $$ CREATE (:Bird {name: 'heron'})-[:EATS]->(:Fish {name: 'roach'}) $$) AS (v agtype);
SELECT name = '"roach"' FROM cypher('g', $$ MATCH (b:Bird)-[:EATS]->(f) RETURN f.name $$) AS (name agtype);
