-- of: contrib
CREATE TABLE trees (path ltree);
CREATE INDEX ON trees USING gist (path);
INSERT INTO trees VALUES ('Top.Science.Astronomy'), ('Top.Hobbies');
SELECT count(*) = 1 FROM trees WHERE path <@ 'Top.Science';
SELECT count(*) = 1 FROM trees WHERE path ~ '*.Astro*{1}';
