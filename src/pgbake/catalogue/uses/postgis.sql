-- create: postgis, postgis_raster, postgis_topology, postgis_sfcgal, postgis_tiger_geocoder, address_standardizer
SELECT round(ST_X(ST_Transform('SRID=4326;POINT(10 60)'::geometry, 3857))) = 1113195;
SELECT round(ST_Distance('POINT(10.75 59.91)'::geography, 'POINT(5.32 60.39)'::geography) / 1000) BETWEEN 300 AND 310;
SELECT ST_AsText(ST_Union('POLYGON((0 0,1 0,1 1,0 1,0 0))'::geometry, 'POLYGON((1 0,2 0,2 1,1 1,1 0))'::geometry)) LIKE 'POLYGON%' AND postgis_full_version() LIKE '%GEOS%PROJ%';
SELECT (ST_SummaryStats(ST_SetValue(ST_AddBand(ST_MakeEmptyRaster(10, 10, 0, 0, 1), '8BUI'::text, 1, 0), 3, 3, 101))).sum = 200;
SELECT ST_Volume(ST_Extrude('POLYGON((0 0,1 0,1 1,0 1,0 0))'::geometry, 0, 0, 2)) = 2;
SELECT topology.CreateTopology('town', 4326) > 0;
SELECT length(ST_AsMVT(q)) > 0 FROM (SELECT ST_AsMVTGeom('POINT(25 17)'::geometry, ST_MakeBox2D('POINT(0 0)', 'POINT(4096 4096)')) AS g) q;
SET postgis.gdal_enabled_drivers = 'ENABLE_ALL';
SELECT ST_AsPNG(ST_AddBand(ST_MakeEmptyRaster(4, 4, 0, 0, 1), '8BUI'::text, 1, 0)) IS NOT NULL;
