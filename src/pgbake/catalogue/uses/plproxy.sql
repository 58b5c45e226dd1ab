-- Calls a function of this very server, over a connection of its own.
CREATE FUNCTION here(i int) RETURNS int LANGUAGE sql AS $$ SELECT i * 2 $$;
SELECT format('CREATE FUNCTION there(i int) RETURNS int LANGUAGE plproxy AS %L', format('CONNECT ''host=%s port=%s user=postgres dbname=%s''; SELECT here(i);', split_part(current_setting('unix_socket_directories'), ',', 1), current_setting('port'), current_database()))
\gexec
SELECT there(21) = 42;
