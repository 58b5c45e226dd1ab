\set file :dir/places.csv
\setenv FILE :file
CREATE TABLE place (name text, n int);
INSERT INTO place VALUES ('Bergen', 3), ('Oslo', 5);
COPY place TO :'file' WITH (FORMAT csv, HEADER);
CREATE SERVER files FOREIGN DATA WRAPPER ogr_fdw OPTIONS (datasource :'file', format 'CSV');
IMPORT FOREIGN SCHEMA ogr_all FROM SERVER files INTO public;
SELECT sum(n::int) = 8 AND bool_or(name = 'Bergen') FROM places;
