-- Copies tables of another database; here the source is another table of the same server, by dblink.
-- create: dblink
CREATE SCHEMA mimeo;
CREATE EXTENSION mimeo SCHEMA mimeo;
CREATE TABLE public.bird (id int PRIMARY KEY, word text);
INSERT INTO public.bird VALUES (1, 'heron');
INSERT INTO mimeo.dblink_mapping_mimeo (data_source, username, pwd)
SELECT format('host=%s port=%s dbname=%s', split_part(current_setting('unix_socket_directories'), ',', 1), current_setting('port'), current_database()), 'postgres', '';
CREATE SCHEMA copy;
SELECT mimeo.snapshot_maker('public.bird', (SELECT data_source_id FROM mimeo.dblink_mapping_mimeo), 'copy.bird') IS NOT NULL;
SELECT mimeo.refresh_snap('copy.bird') IS NOT NULL;
SELECT count(*) = 1 AND bool_and(word = 'heron') FROM copy.bird;
