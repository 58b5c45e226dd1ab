"""A web server on loopback that misbehaves as it is told to."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server:
    """Serves ``files``; ``faults`` of a path are used up, one a request, before it is served well.

    A fault is a status (``503``), ``cut`` (half of the content, then the connection's end), ``silent``
    (headers only, then nothing), ``whole`` (no regard for Range), ``untold`` (no Content-Length, cut),
    ``shifted`` (another range than was asked for), ``slow``.
    """

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}/debian"
        self.files: dict[str, bytes] = {}
        self.faults: defaultdict[str, list[int | str]] = defaultdict(list)
        #: Path and Range header of each request.
        self.asked: list[tuple[str, str]] = []
        self.retry_after: str | None = None
        self.stopped = threading.Event()


@contextmanager
def serving() -> Iterator[Server]:
    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            answer(self, server)

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Httpd(ThreadingHTTPServer):
        daemon_threads = True

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that goes away is what some tests want

    httpd = Httpd(("127.0.0.1", 0), Handler)
    server = Server(httpd.server_port)
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopped.set()
        httpd.shutdown()
        httpd.server_close()
        thread.join()


def answer(request: BaseHTTPRequestHandler, server: Server) -> None:
    path = request.path.removeprefix("/debian/")
    asked = request.headers.get("Range", "")
    server.asked.append((path, asked))
    fault = server.faults[path].pop(0) if server.faults[path] else ""
    content = server.files.get(path)
    if isinstance(fault, int) or content is None:
        request.send_response(fault if isinstance(fault, int) else 404)
        if server.retry_after is not None:
            request.send_header("Retry-After", server.retry_after)
        request.send_header("Content-Length", "0")
        request.end_headers()
        return
    start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and fault != "whole" else 0
    if start >= len(content) and start:
        request.send_response(416)
        request.send_header("Content-Length", "0")
        request.end_headers()
        return
    request.send_response(206 if start else 200)
    if start:
        told = start - 1 if fault == "shifted" else start
        request.send_header("Content-Range", f"bytes {told}-{len(content) - 1}/{len(content)}")
    body = content[start:]
    if fault == "untold":
        request.send_header("Connection", "close")
    else:
        request.send_header("Content-Length", str(len(body)))
    request.end_headers()
    if fault in ("cut", "untold"):
        request.wfile.write(body[: len(body) // 2])
        request.close_connection = True
    elif fault == "silent":
        server.stopped.wait(60)
        request.close_connection = True
    elif fault == "slow":
        for position in range(0, len(body), max(1, len(body) // 20)):
            request.wfile.write(body[position : position + max(1, len(body) // 20)])
            time.sleep(0.02)
    else:
        request.wfile.write(body)
