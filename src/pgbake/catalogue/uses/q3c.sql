SELECT abs(q3c_dist(0, 0, 0, 10) - 10) < 1e-9;
CREATE TABLE star AS SELECT (i % 360)::float8 AS ra, (i % 170 - 85)::float8 AS dec FROM generate_series(0, 3599) i;
CREATE INDEX ON star (q3c_ang2ipix(ra, dec));
SELECT count(*) = (SELECT count(*) FROM star WHERE q3c_dist(ra, dec, 40, 5) < 8) FROM star WHERE q3c_radial_query(ra, dec, 40, 5, 8);
