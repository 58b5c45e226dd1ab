-- 4.2.3 has new names.
SELECT to_regprocedure('h3_latlng_to_cell(point, integer)') IS NOT NULL AS renamed
\gset
\if :renamed
  \set to_cell h3_latlng_to_cell
\else
  \set to_cell h3_lat_lng_to_cell
\endif
SELECT h3_get_resolution(:to_cell(point(10.75, 59.91), 7)) = 7;
SELECT count(*) = 7 FROM h3_grid_disk('8a63a9a99047fff');
SELECT ST_Distance(h3_cell_to_geometry(:to_cell('SRID=4326;POINT(10.75 59.91)'::geometry, 9)), 'SRID=4326;POINT(10.75 59.91)'::geometry) < 0.01;
