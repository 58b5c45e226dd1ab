CREATE TABLE code (p prefix_range PRIMARY KEY, name text);
INSERT INTO code VALUES ('33', 'France'), ('336', 'mobile'), ('49', 'Germany');
CREATE INDEX ON code USING gist (p);
SELECT name = 'mobile' FROM code WHERE p @> '33612345' ORDER BY length(p) DESC LIMIT 1;
