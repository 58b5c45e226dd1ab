-- A page from a server on loopback, which serves one request.
\setenv DIR :dir
\! cd "$DIR" && echo heron > bird && python3 -c "import http.server as h; s = h.HTTPServer(('127.0.0.1', 0), h.SimpleHTTPRequestHandler); s.timeout = 60; open('port', 'w').write(str(s.server_port)); s.handle_request()" >/dev/null 2>&1 & for i in 1 2 3 4 5 6 7 8 9 10; do test -s "$DIR/port" && break; sleep 1; done
\set url http://127.0.0.1: `cat "$DIR/port"` /bird
SELECT status = 200 AND content = E'heron\n' FROM http_get(:'url');
