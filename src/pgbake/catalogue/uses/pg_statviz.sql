SELECT pgstatviz.snapshot() IS NOT NULL;
SELECT count(*) = 1 FROM pgstatviz.snapshots;
SELECT count(*) >= 1 FROM pgstatviz.db;
