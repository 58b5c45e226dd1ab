CREATE FUNCTION spread(float8[]) RETURNS float8 LANGUAGE plr AS 'sd(arg1)';
SELECT abs(spread('{1,2,3,4}') - stddev(v)) < 1e-9 FROM unnest('{1,2,3,4}'::float8[]) v;
CREATE FUNCTION slope() RETURNS float8 LANGUAGE plr AS 'unname(coef(lm(c(2, 4, 6) ~ c(1, 2, 3)))[2])';
SELECT abs(slope() - 2) < 1e-9;
CREATE FUNCTION solved() RETURNS float8 LANGUAGE plr AS 'solve(matrix(c(2, 0, 0, 4), 2))[2, 2]';
SELECT solved() = 0.25;
