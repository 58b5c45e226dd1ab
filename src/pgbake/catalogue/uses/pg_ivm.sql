CREATE TABLE visit (bird text, legs int);
INSERT INTO visit VALUES ('heron', 2), ('ibis', 2);
SELECT pgivm.create_immv('count_of', 'SELECT bird, count(*) AS n FROM visit GROUP BY bird') = 2;
INSERT INTO visit VALUES ('heron', 2);
DELETE FROM visit WHERE bird = 'ibis';
SELECT count(*) = 1 AND bool_and(bird = 'heron' AND n = 2) FROM count_of;
