"""A static web server on loopback that misbehaves as it is told to, and a proxy that is far away."""

from __future__ import annotations

import asyncio
import contextlib
import fnmatch
import re
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote

_RANGE = re.compile(r"bytes=(\d+)-(\d*)")
_REQUEST = re.compile(rb"(?:GET|HEAD|PUT|POST|DELETE) (\S+) HTTP/1.1\r\n")


@dataclass
class Fault:
    """What goes wrong with requests for some names.

    :param names: a pattern as the shell's: ``nar/*``.
    :param times: how many requests it meets; -1 for all.
    :param status: the answer, instead of the object.
    :param cut_at: bytes of the object's body after which the connection ends.
    :param stall_at: bytes after which nothing comes any more, until the server ends.
    :param flip_at: the byte of the object that is another one.
    """

    names: str
    times: int = -1
    status: int | None = None
    cut_at: int | None = None
    stall_at: int | None = None
    flip_at: int | None = None


@dataclass
class WebServer:
    """Serves the files below ``root``.

    :param latency: seconds that each answer takes at least.
    :param ranges: whether it answers requests for a part of an object with that part.
    :param etags: whether it tells them, and answers 304 to who has the object already.
    :param password: what it wants to be told in ``Authorization``; empty for nothing.
    """

    root: Path
    url: str = ""
    latency: float = 0
    ranges: bool = True
    etags: bool = True
    password: str = ""
    faults: list[Fault] = field(default_factory=list)
    #: Names in the order in which they were asked for, and the range wanted.
    asked: list[tuple[str, str]] = field(default_factory=list)
    #: Requests that were under way at once, at most; and now.
    most_at_once: int = 0
    at_once: int = 0
    stopped: threading.Event = field(default_factory=threading.Event)
    turn: threading.Lock = field(default_factory=threading.Lock)

    @property
    def counts(self) -> Counter[str]:
        """How often each name was asked for."""
        return Counter(name for name, _ in self.asked)

    def next_fault(self, name: str) -> Fault | None:
        """Return what is to go wrong with a request, used up by it."""
        with self.turn:
            for fault in self.faults:
                if fault.times and fnmatch.fnmatchcase(name, fault.names):
                    fault.times -= 1
                    return fault
        return None


@contextmanager
def web_server(root: Path) -> Iterator[WebServer]:
    """Run a server of the files below ``root``, which may change at any time."""
    server = WebServer(root)

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            with server.turn:
                server.at_once += 1
                server.most_at_once = max(server.most_at_once, server.at_once)
            try:
                _answer(self, server)
            finally:
                with server.turn:
                    server.at_once -= 1

        do_HEAD = do_GET

        def log_message(self, format: str, *args: Any) -> None:
            pass

    class Httpd(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

        def handle_error(self, request: Any, client_address: Any) -> None:
            pass  # a client that goes away is what some tests want

    httpd = Httpd(("127.0.0.1", 0), Handler)
    server.url = f"http://127.0.0.1:{httpd.server_port}"
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.stopped.set()
        httpd.shutdown()
        httpd.server_close()
        thread.join()


def _answer(request: BaseHTTPRequestHandler, server: WebServer) -> None:
    name = unquote(request.path.partition("?")[0].lstrip("/"))
    wanted = request.headers.get("Range", "")
    with server.turn:
        server.asked.append((name, wanted))
    if server.latency:
        time.sleep(server.latency)
    fault = server.next_fault(name) or Fault("")
    file = server.root / name
    if fault.status is not None:
        return _refuse(request, fault.status)
    if server.password and request.headers.get("Authorization") != server.password:
        return _refuse(request, 401)
    if not file.is_file():
        return _refuse(request, 404)
    body = bytearray(file.read_bytes())
    if fault.flip_at is not None:
        body[fault.flip_at] ^= 0x10
    etag = f'"{file.stat().st_mtime_ns:x}-{len(body):x}"'
    if server.etags and request.headers.get("If-None-Match") == etag:
        return _refuse(request, 304)
    first, last = 0, len(body) - 1
    found = _RANGE.fullmatch(wanted) if server.ranges else None
    if found:
        first, last = int(found[1]), min(last, int(found[2] or last))
        if first > last:
            return _refuse(request, 416)
    request.send_response(206 if found else 200)
    if found:
        request.send_header("Content-Range", f"bytes {first}-{last}/{len(body)}")
    if server.etags:
        request.send_header("ETag", etag)
    request.send_header("Last-Modified", formatdate(file.stat().st_mtime, usegmt=True))
    request.send_header("Content-Length", str(last + 1 - first))
    request.end_headers()
    if request.command == "HEAD":
        return None
    end = min((at for at in (fault.cut_at, fault.stall_at) if at is not None), default=None)
    request.wfile.write(body[first : last + 1] if end is None else body[first : max(first, end)])
    if fault.stall_at is not None:
        request.wfile.flush()
        server.stopped.wait(120)
    if end is not None:
        request.close_connection = True
    return None


def _refuse(request: BaseHTTPRequestHandler, status: int) -> None:
    request.send_response(status)
    request.send_header("Content-Length", "0")
    request.end_headers()


class FarProxy:
    """A way to a server on which everything takes its time, and which may break.

    ``address`` is its ``HOST:PORT``; ``requests`` the paths that were asked for through it, in order.
    """

    def __init__(self, target: str, delay: float) -> None:
        """``target``: ``HOST:PORT`` of the server; ``delay``: seconds that each direction takes."""
        self._host, _, port = target.rpartition(":")
        self._port = int(port)
        self._delay = delay
        self.address = ""
        self.requests: list[str] = []
        self.most_at_once = 0
        #: Bytes from the server after which a connection is cut, and how many more connections that happens to.
        self.cut_after = 0
        self.cuts = 0
        self._open: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    def __enter__(self) -> FarProxy:
        self._thread.start()
        server = self._call(asyncio.start_server(self._serve, "127.0.0.1", 0))
        self.address = f"127.0.0.1:{server.sockets[0].getsockname()[1]}"
        return self

    def __exit__(self, *_exc: object) -> None:
        self._call(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def cut_all(self) -> None:
        """Cut all connections that are open now."""
        self._call(self._cut())

    def _call(self, work: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _cut(self) -> None:
        for writer in self._open:
            writer.transport.abort()

    async def _end(self) -> None:
        await self._cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._tasks.add(task)
        writers = [to_client]
        try:
            server, to_server = await asyncio.open_connection(self._host, self._port)
            writers.append(to_server)
            self._open |= set(writers)
            self.most_at_once = max(self.most_at_once, len(self._open) // 2)
            await asyncio.gather(self._carry(client, to_server, False), self._carry(server, to_client, True))
        except (OSError, asyncio.CancelledError):
            pass
        finally:
            self._tasks.discard(task)
            self._open -= set(writers)
            for writer in writers:
                writer.transport.abort()

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, answers: bool) -> None:
        under_way: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        arriving = asyncio.ensure_future(self._arrive(under_way, target))
        left = None
        if answers and self.cuts:
            self.cuts -= 1
            left = self.cut_after
        try:
            while data := await source.read(1 << 16):
                if not answers and (request := _REQUEST.match(data)):
                    self.requests.append(request[1].decode())
                if left is not None:
                    data = data[:left]
                    left -= len(data)
                under_way.put_nowait((time.monotonic() + self._delay, data))
                if left == 0:
                    await under_way.join()
                    raise ConnectionAbortedError
            under_way.put_nowait((time.monotonic() + self._delay, b""))
            await arriving
        finally:
            arriving.cancel()

    async def _arrive(self, under_way: asyncio.Queue[tuple[float, bytes]], target: asyncio.StreamWriter) -> None:
        while True:
            due, data = await under_way.get()
            await asyncio.sleep(due - time.monotonic())
            if not data:
                with contextlib.suppress(OSError):
                    target.write_eof()
                return
            target.write(data)
            await target.drain()
            under_way.task_done()
