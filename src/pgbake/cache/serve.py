"""Serving a directory as a binary cache over HTTP/1.1, for a laptop or CI; and a page for people at its root.

Only regular files below the directory are given, and none whose name begins with a dot, or that lies in a directory
of such a name; links are followed only where they stay below it. There is nothing to configure: in front of a cache
that the world reads stands a web server, or a bucket.
"""

from __future__ import annotations

import html
import os
import re
import socket
import stat
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from email.utils import formatdate
from functools import cached_property
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from socketserver import TCPServer
from typing import Any, BinaryIO
from urllib.parse import unquote, urlsplit

from pgbake.cache.cache import CACHE_INFO, BinaryCache
from pgbake.cache.inventory import take_inventory
from pgbake.cache.page import render
from pgbake.errors import CacheError, HostError, PgbakeError
from pgbake.events import silent

_RANGE = re.compile(r"bytes=([0-9]{0,18})-([0-9]{0,18})")
#: Seconds after which a connection that says nothing is closed.
_IDLE = 60
_PIECE = 1 << 20
#: Seconds for which the page is kept.
_PAGE_KEPT = 2.0

_TYPES = {
    ".narinfo": "text/x-nix-narinfo",
    ".json": "application/json",
    ".nar": "application/x-nix-nar",
    "": "text/plain",
}

#: Told of each request: the client, the request's line, the status and the bytes of the answer.
Log = Callable[[str, str, int, int], object]


class Server(ThreadingHTTPServer):
    """A server of one directory; it listens from its creation, and serves while :meth:`serve_forever` runs."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, directory: Path, bind: str = "127.0.0.1", port: int = 0, log: Log | None = None) -> None:
        """Listen.

        :param bind: address or host name; IPv6 too.
        :param port: 0 lets the kernel choose.
        :param log: called from several threads.
        :raises CacheError: there is no cache in the directory.
        :raises HostError: the address cannot be listened on.
        """
        if not (directory / CACHE_INFO).is_file():
            raise CacheError(
                f"there is no cache in {directory}: it has no {CACHE_INFO}",
                hint=f"push to it first: pgbake push --to file://{directory.absolute()}",
            )
        self.directory = directory.resolve()
        self.log = log
        self.address_family = socket.AF_INET6 if ":" in bind else socket.AF_INET
        self._page: tuple[float, bytes] = (float("-inf"), b"")
        self._turn = threading.Lock()
        try:
            super().__init__((bind, port), _Handler)
        except (OSError, OverflowError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            raise HostError(
                f"cannot listen on {bind}, port {port}: {reason}",
                hint="name another port with --port; 0 chooses one that is free",
            ) from error

    def server_bind(self) -> None:
        """Bind without asking the name service what this machine is called."""
        TCPServer.server_bind(self)

    @cached_property
    def url(self) -> str:
        """Where it is reached from this machine."""
        host, port = self.server_address[:2]
        shown = str(host)
        return f"http://{f'[{shown}]' if ':' in shown else shown}:{port}"

    def page(self, url: str) -> bytes:
        """Return the page for people.

        :param url: by which the reader has come.
        """
        with self._turn:
            made, page = self._page
            if time.monotonic() - made > _PAGE_KEPT:
                page = self._make_page()
                self._page = time.monotonic(), page
        return page.replace(b"{URL}", html.escape(url).encode())

    def _make_page(self) -> bytes:
        try:
            found = take_inventory(BinaryCache(str(self.directory)), silent)
        except PgbakeError as error:
            return f"<!doctype html><title>pgbake</title><p>{html.escape(error.message)}".encode()
        return render(found, "{URL}", time.time()).encode()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing of clients that go away."""
        if not isinstance(sys.exc_info()[1], ConnectionError | TimeoutError):
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server_version = "pgbake"
    sys_version = ""
    timeout = _IDLE
    disable_nagle_algorithm = True
    wbufsize = 1 << 16
    server: Server

    def do_GET(self) -> None:
        self._answer(with_body=True)

    def do_HEAD(self) -> None:
        self._answer(with_body=False)

    def _answer(self, with_body: bool) -> None:
        if "Content-Length" in self.headers or "Transfer-Encoding" in self.headers:
            self.close_connection = True  # a body, which nobody reads, must not be taken for the next request
        path = unquote(urlsplit(self.path).path)
        if path in ("", "/", "/index.html"):
            host = self.headers.get("Host") or urlsplit(self.server.url).netloc
            return self._page(self.server.page(f"http://{host}"), with_body)
        try:
            with self._opened(path) as file:
                self._file(file, path, with_body)
        except (OSError, ValueError) as error:
            if isinstance(error, ConnectionError | TimeoutError):
                raise
            self._status(HTTPStatus.NOT_FOUND)

    @contextmanager
    def _opened(self, path: str) -> Iterator[BinaryIO]:
        names = path.removeprefix("/").split("/")
        if any(not name or name.startswith(".") or "\0" in name for name in names):
            raise FileNotFoundError
        file = self.server.directory.joinpath(*names).resolve(strict=True)
        if not file.is_relative_to(self.server.directory):
            raise FileNotFoundError
        # Without waiting for the other end, should it be a pipe.
        descriptor = os.open(file, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(descriptor, "rb") as stream:
            if not stat.S_ISREG(os.fstat(descriptor).st_mode):
                raise FileNotFoundError
            yield stream

    def _file(self, file: BinaryIO, path: str, with_body: bool) -> None:
        status = os.fstat(file.fileno())
        etag = f'"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"'
        headers = {
            "ETag": etag,
            "Last-Modified": formatdate(status.st_mtime, usegmt=True),
            "Accept-Ranges": "bytes",
        }
        known = [tag.strip().removeprefix("W/") for tag in self.headers.get("If-None-Match", "").split(",")]
        if etag in known or "*" in known:
            return self._status(HTTPStatus.NOT_MODIFIED, headers)
        headers["Content-Type"] = _TYPES.get(Path(path).suffix, "application/octet-stream")
        wanted = self.headers.get("Range")
        if wanted is None or self.headers.get("If-Range", etag) != etag:
            return self._send(HTTPStatus.OK, headers, file if with_body else None, 0, status.st_size)
        part = _range(wanted, status.st_size)
        if part is None:  # several, or none that we know: all of it is an answer, too
            return self._send(HTTPStatus.OK, headers, file if with_body else None, 0, status.st_size)
        start, end = part
        if start >= end:
            headers["Content-Range"] = f"bytes */{status.st_size}"
            return self._status(HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE, headers)
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{status.st_size}"
        return self._send(HTTPStatus.PARTIAL_CONTENT, headers, file if with_body else None, start, end - start)

    def _send(self, status: HTTPStatus, headers: dict[str, str], file: BinaryIO | None, start: int, size: int) -> None:
        self._begin(status, {**headers, "Content-Length": str(size)}, size)
        if file is None or not size:
            return
        self.wfile.flush()
        left, offset = size, start
        while left:
            try:
                sent = os.sendfile(self.connection.fileno(), file.fileno(), offset, min(left, _PIECE * 16))
            except BlockingIOError:  # the socket has a timeout, so it does not block by itself
                self._await_room()
                continue
            if not sent:  # it was cut off under us
                self.close_connection = True
                return
            left -= sent
            offset += sent

    def _await_room(self) -> None:
        import select

        if not select.select([], [self.connection], [], _IDLE)[1]:
            raise TimeoutError

    def _page(self, page: bytes, with_body: bool) -> None:
        headers = {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Length": str(len(page)),
            "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline'",
        }
        self._begin(HTTPStatus.OK, headers, len(page))
        if with_body:
            self.wfile.write(page)

    def _status(self, status: HTTPStatus, headers: dict[str, str] | None = None) -> None:
        body = b"" if status == HTTPStatus.NOT_MODIFIED else f"{status.value} {status.phrase}\n".encode()
        length = {} if status == HTTPStatus.NOT_MODIFIED else {"Content-Length": str(len(body))}
        self._begin(status, {"Content-Type": "text/plain", **(headers or {}), **length}, len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _begin(self, status: HTTPStatus, headers: dict[str, str], size: int) -> None:
        if self.server.log is not None:
            self.server.log(self.client_address[0], self.requestline, status.value, size)
        self.send_response_only(status)
        self.send_header("Date", self.date_time_string())
        for name, value in headers.items():
            self.send_header(name, value)
        self.end_headers()

    def log_message(self, *_: Any) -> None:
        """Leave it to the server's log."""

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """Answer what could not be read, and close the connection."""
        self.close_connection = True
        with suppress(ConnectionError):
            status = HTTPStatus(code)
            body = f"{status.value} {message or status.phrase}\n".encode("ascii", "replace")
            self._begin(
                status,
                {"Content-Type": "text/plain", "Content-Length": str(len(body)), "Connection": "close"},
                len(body),
            )
            if getattr(self, "command", None) != "HEAD":
                self.wfile.write(body)


def _range(text: str, size: int) -> tuple[int, int] | None:
    """Return begin and end of the bytes that a Range header asks for; None where it is not one range of bytes."""
    match = _RANGE.fullmatch(text.strip())
    if not match or not (match[1] or match[2]):
        return None
    if not match[1]:
        return max(0, size - int(match[2])), size
    end = min(int(match[2]) + 1, size) if match[2] else size
    return (int(match[1]), end) if not match[2] or int(match[2]) >= int(match[1]) else None
