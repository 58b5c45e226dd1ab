-- of: contrib
CREATE TABLE cubes (c cube);
CREATE INDEX ON cubes USING gist (c);
INSERT INTO cubes VALUES ('(0,0),(1,1)'), ('(2.5,3,4)');
SELECT count(*) = 1 FROM cubes WHERE c @> '(0.5,0.5)'::cube;
SELECT cube_distance('(0)', '(3)') = 3;
