-- create: documentdb, documentdb_extended_rum
-- database: postgres
-- Documents are written, indexed, found and counted; pg_cron, which it requires, wants this database.
SELECT set_config('documentdb.localhost_connection_string', 'host=' || current_setting('unix_socket_directories'), false) <> '';
\o /dev/null
SELECT documentdb_api.insert_one('zoo', 'birds', '{"_id": 1, "name": "heron", "legs": 2}');
SELECT documentdb_api.insert_one('zoo', 'birds', '{"_id": 2, "name": "ibis", "legs": 2}');
SELECT documentdb_api_internal.create_indexes_non_concurrently('zoo', '{"createIndexes": "birds", "indexes": [{"key": {"name": 1}, "name": "by_name"}]}', true);
\o
SET documentdb_core.bsonUseEJson = on;
SELECT document FROM documentdb_api_catalog.bson_aggregation_find('zoo', '{"find": "birds", "filter": {"name": "heron"}}')
\gset
SELECT :'document' LIKE '%heron%';
SELECT document FROM documentdb_api_catalog.bson_aggregation_count('zoo', '{"count": "birds", "query": {"legs": 2}}')
\gset
SELECT :'document' LIKE '%"n"%"2"%';
SELECT count(*) >= 1 FROM pg_indexes WHERE schemaname = 'documentdb_data' AND indexdef LIKE '%USING documentdb_rum%';
SELECT documentdb_api.drop_collection('zoo', 'birds');
SELECT count(*) >= 3 FROM pg_opclass JOIN pg_am ON pg_am.oid = opcmethod WHERE amname = 'documentdb_extended_rum';
