-- create:
-- An output plugin, whose messages are protocol buffers.
SELECT lsn IS NOT NULL FROM pg_create_logical_replication_slot('use_decoderbufs', 'decoderbufs');
CREATE TABLE t (id int PRIMARY KEY, word text);
INSERT INTO t VALUES (1, 'heron');
SELECT count(*) >= 1 AND bool_or(position('heron'::bytea IN data) > 0) FROM pg_logical_slot_get_binary_changes('use_decoderbufs', NULL, NULL);
SELECT pg_drop_replication_slot('use_decoderbufs') IS NOT NULL;
