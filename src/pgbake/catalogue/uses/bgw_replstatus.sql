-- create: plpython3u
-- A worker tells on a port of its own whether the server is a primary.
CREATE FUNCTION ask(port int) RETURNS text LANGUAGE plpython3u AS $$
import socket
with socket.create_connection(("127.0.0.1", port), 10) as peer:
    return peer.recv(100).decode().strip()
$$;
SELECT ask(current_setting('bgw_replstatus.port')::int) = 'MASTER';
