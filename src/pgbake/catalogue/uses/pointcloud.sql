INSERT INTO pointcloud_formats (pcid, srid, schema) VALUES (1, 4326, '<?xml version="1.0" encoding="UTF-8"?>
<pc:PointCloudSchema xmlns:pc="http://pointcloud.org/schemas/PC/1.1" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance">
<pc:dimension><pc:position>1</pc:position><pc:size>4</pc:size><pc:name>X</pc:name><pc:interpretation>int32_t</pc:interpretation><pc:scale>0.01</pc:scale></pc:dimension>
<pc:dimension><pc:position>2</pc:position><pc:size>4</pc:size><pc:name>Y</pc:name><pc:interpretation>int32_t</pc:interpretation><pc:scale>0.01</pc:scale></pc:dimension>
<pc:dimension><pc:position>3</pc:position><pc:size>4</pc:size><pc:name>Z</pc:name><pc:interpretation>int32_t</pc:interpretation><pc:scale>0.01</pc:scale></pc:dimension>
<pc:metadata><Metadata name="compression">dimensional</Metadata></pc:metadata></pc:PointCloudSchema>');
CREATE TABLE p AS SELECT PC_Patch(PC_MakePoint(1, ARRAY[i, i * 2, i % 7])) AS pa FROM generate_series(1, 100) i;
SELECT PC_NumPoints(pa) = 100 AND PC_PatchMax(pa, 'y') = 200 FROM p;
SELECT ST_XMax(pa::geometry) = 100 FROM p;
