SELECT h3_get_resolution(h3_latlng_to_cell(point(10.75, 59.91), 7)) = 7;
SELECT count(*) = 7 FROM h3_grid_disk('8a63a9a99047fff');
SELECT ST_Distance(h3_cell_to_geometry(h3_latlng_to_cell('SRID=4326;POINT(10.75 59.91)'::geometry, 9)), 'SRID=4326;POINT(10.75 59.91)'::geometry) < 0.01;
