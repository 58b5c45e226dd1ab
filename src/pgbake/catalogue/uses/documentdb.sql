-- create: documentdb
-- database: postgres
-- Documents are written, found and counted; pg_cron, which it requires, wants this database.
SELECT documentdb_api.insert_one('zoo', 'birds', '{"_id": 1, "name": "heron", "legs": 2}') IS NOT NULL;
SELECT documentdb_api.insert_one('zoo', 'birds', '{"_id": 2, "name": "ibis", "legs": 2}') IS NOT NULL;
SELECT count(*) = 1 AND bool_and(document::text LIKE '%heron%') FROM documentdb_api_catalog.bson_aggregation_find('zoo', '{"find": "birds", "filter": {"name": "heron"}}');
SELECT document::text LIKE '%"n"%2%' FROM documentdb_api_catalog.bson_aggregation_count('zoo', '{"count": "birds", "query": {"legs": 2}}');
SELECT documentdb_api.drop_collection('zoo', 'birds');
