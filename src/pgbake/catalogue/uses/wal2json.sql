-- create:
-- An output plugin, whose messages are JSON.
SELECT lsn IS NOT NULL FROM pg_create_logical_replication_slot('use_wal2json', 'wal2json');
CREATE TABLE t (id int PRIMARY KEY, word text);
INSERT INTO t VALUES (1, 'heron');
SELECT bool_or(data::json #>> '{change,0,columnvalues,1}' = 'heron') FROM pg_logical_slot_get_changes('use_wal2json', NULL, NULL);
SELECT pg_drop_replication_slot('use_wal2json') IS NOT NULL;
