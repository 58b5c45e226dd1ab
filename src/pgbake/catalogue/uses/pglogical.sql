-- create: pglogical
SELECT pglogical.create_node('use', 'dbname=' || current_database()) > 0;
CREATE TABLE t (id int PRIMARY KEY, word text);
SELECT pglogical.replication_set_add_table('default', 't');
SELECT lsn IS NOT NULL FROM pg_create_logical_replication_slot('use_pglogical', 'pglogical_output');
INSERT INTO t VALUES (1, 'heron');
SELECT bool_or(data LIKE '%heron%') FROM pg_logical_slot_get_changes('use_pglogical', NULL, NULL, 'min_proto_version', '1', 'max_proto_version', '1', 'startup_params_format', '1', 'proto_format', 'json', 'pglogical.replication_set_names', 'default');
SELECT pg_drop_replication_slot('use_pglogical') IS NOT NULL;
