-- of: contrib
CREATE TABLE places (place earth);
INSERT INTO places VALUES (ll_to_earth(52.5, 13.4)), (ll_to_earth(48.1, 11.6));
SELECT round(earth_distance(min(place::text)::cube, max(place::text)::cube) / 1000) BETWEEN 400 AND 600 FROM places;
