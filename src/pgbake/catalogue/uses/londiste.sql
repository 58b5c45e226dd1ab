-- A table whose changes go into a queue of PgQ's; a consumer of Londiste's would carry them away.
-- create: londiste
SELECT pgq_node.register_location('use', 'root', 'dbname=use', false) IS NOT NULL;
SELECT pgq_node.create_node('use', 'root', 'root', 'worker', NULL, NULL, NULL) IS NOT NULL;
CREATE TABLE t (id int PRIMARY KEY, word text);
SELECT (londiste.local_add_table('use', 'public.t')).ret_code = 200;
INSERT INTO t VALUES (1, 'heron');
SELECT pgq.force_tick('use') IS NOT NULL;
SELECT count(*) = 1 FROM londiste.get_table_list('use') WHERE table_name = 'public.t' AND local;
