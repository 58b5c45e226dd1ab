"""The static server: files and parts of them, nothing outside, and the page."""

from __future__ import annotations

import http.client
import os
import socket
import threading
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pgbake.cache.cache import BinaryCache
from pgbake.cache.pull import pull
from pgbake.cache.push import push
from pgbake.cache.serve import Server
from pgbake.cache.substituters import Substituters
from pgbake.cache.verify import verify
from pgbake.errors import CacheError, HostError
from pgbake.events import silent
from pgbake.formats.keys import SecretKey
from pgbake.store.local import LocalStore
from tests.small_closures import add_graph, add_path, made_up

KEY = SecretKey.generate("test-1")


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Server, list[tuple[str, int, int]]]]:
    """A server of a small cache, and what it logs."""
    top = tmp_path_factory.mktemp("served")
    with LocalStore(top / "store") as store:
        made = add_graph(store, {"libc": (), "demo-postgresql-15.18": ("libc",), "tool-1.0": ("libc",)})
        add_path(store, "large", size=3_000_000)
        cache = BinaryCache(str(top / "cache"))
        push(store, cache, [made["demo-postgresql-15.18"]], [KEY], silent)
        push(store, cache, [made["tool-1.0"], made_up("large")], [KEY], silent)
    (top / "cache/.hidden").write_text("x")
    (top / "cache/.dir").mkdir()
    (top / "cache/.dir/file").write_text("x")
    (top / "cache/digits").write_bytes(b"0123456789")
    (top / "cache/empty").write_bytes(b"")
    (top / "cache/inside").symlink_to("digits")
    (top / "cache/outside").symlink_to(top / "secret")
    (top / "secret").write_text("secret")
    os.mkfifo(top / "cache/pipe")
    log: list[tuple[str, int, int]] = []
    with Server(top / "cache", log=lambda _client, line, status, size: log.append((line, status, size))) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        yield server, log
        server.shutdown()
        thread.join()


def address(server: Server) -> tuple[str, int]:
    host, port = server.server_address[:2]
    return str(host), int(port)


@pytest.fixture
def client(served: tuple[Server, list[tuple[str, int, int]]]) -> Iterator[http.client.HTTPConnection]:
    connection = http.client.HTTPConnection(*address(served[0]), timeout=10)
    yield connection
    connection.close()


def ask(
    client: http.client.HTTPConnection, path: str, method: str = "GET", **headers: str
) -> tuple[int, bytes, http.client.HTTPMessage]:
    client.request(method, path, headers={name.replace("_", "-"): value for name, value in headers.items()})
    answer = client.getresponse()
    return answer.status, answer.read(), answer.headers


@pytest.mark.parametrize(
    ("wanted", "status", "body", "content_range"),
    [
        ("bytes=0-", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=2-4", 206, b"234", "bytes 2-4/10"),
        ("bytes=8-100", 206, b"89", "bytes 8-9/10"),
        ("bytes=-3", 206, b"789", "bytes 7-9/10"),
        ("bytes=-30", 206, b"0123456789", "bytes 0-9/10"),
        ("bytes=10-", 416, b"416 Requested Range Not Satisfiable\n", "bytes */10"),
        ("bytes=4-2", 200, b"0123456789", None),
        ("bytes=0-1,3-4", 200, b"0123456789", None),
        ("bytes=-", 200, b"0123456789", None),
        ("lines=1-2", 200, b"0123456789", None),
    ],
)
def test_parts(
    client: http.client.HTTPConnection, wanted: str, status: int, body: bytes, content_range: str | None
) -> None:
    found, data, headers = ask(client, "/digits", Range=wanted)
    assert (found, data, headers.get("Content-Range")) == (status, body, content_range)


def test_an_unchanged_file_is_not_sent_again(client: http.client.HTTPConnection) -> None:
    status, body, headers = ask(client, "/digits")
    assert (status, body) == (200, b"0123456789")
    etag = headers["ETag"]
    assert ask(client, "/digits", If_None_Match=etag)[:2] == (304, b"")
    assert ask(client, "/digits", If_None_Match=f'"other", W/{etag}')[0] == 304
    assert ask(client, "/digits", If_None_Match='"other"')[0] == 200
    assert ask(client, "/digits", Range="bytes=2-4", If_Range='"other"')[:2] == (200, b"0123456789")
    assert ask(client, "/digits", Range="bytes=2-4", If_Range=etag)[:2] == (206, b"234")


def test_heads_have_no_body_and_connections_stay(client: http.client.HTTPConnection) -> None:
    status, body, headers = ask(client, "/digits", "HEAD")
    assert (status, body, headers["Content-Length"]) == (200, b"", "10")
    first = client.sock
    assert ask(client, "/nothing", "HEAD")[:2] == (404, b"")
    assert ask(client, "/empty")[:2] == (200, b"")
    assert ask(client, "/inside")[:2] == (200, b"0123456789")
    assert client.sock is first


@pytest.mark.parametrize(
    "path",
    [
        "/nothing", "/.hidden", "/.dir/file", "/outside", "/nar", "/nar/", "/nar/../digits", "/../secret",
        "/%2e%2e/secret", "/..%2fsecret", "/digits/", "/digits%00", "/./digits", "/%2e/digits", "/pipe",
        "/\\..\\secret", "/" + "x" * 5000, "/nar/" + "y/" * 3000,
    ],
)  # fmt: skip
def test_nothing_else_is_given(client: http.client.HTTPConnection, path: str) -> None:
    assert ask(client, path)[:2] == (404, b"404 Not Found\n")


def test_other_methods_and_garbage_are_refused(
    client: http.client.HTTPConnection, served: tuple[Server, list[tuple[str, int, int]]]
) -> None:
    assert ask(client, "/digits", "PUT")[0] == 501
    assert ask(client, "/digits", "DELETE")[0] == 501
    with socket.create_connection(address(served[0]), timeout=10) as raw:
        raw.sendall(b"\x16\x03\x01nonsense\r\n\r\n")
        assert b"400" in raw.recv(1000)
    assert ask(client, "/digits")[0] == 200


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.text = ""
        self.open: list[str] = []

    def handle_starttag(self, tag: str, _attributes: object) -> None:
        if tag not in ("meta", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_lists_bundles(client: http.client.HTTPConnection) -> None:
    status, body, headers = ask(client, "/", Host='cache.example.org:81<i>"')
    assert (status, headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    page = _Text()
    page.feed(body.decode())
    assert page.open == []
    text = " ".join(page.text.split())
    for words in ("demo", "15.18", "today", "test-1", str(made_up("demo-postgresql-15.18")), "tool-1.0"):
        assert words in text
    assert text.index("demo") < text.index("tool-1.0")
    assert '[[cache]] url = "http://cache.example.org:81<i>"" [trust] keys = ["test-1:..."]' in text
    assert f"nix-store -r {made_up('demo-postgresql-15.18')} " in text


def test_pgbake_takes_a_closure_from_it(served: tuple[Server, list[tuple[str, int, int]]], tmp_path: Path) -> None:
    server, log = served
    cache = BinaryCache(server.url)
    log.clear()
    with LocalStore(tmp_path / "store") as store:
        goals = [made_up("demo-postgresql-15.18"), made_up("large")]
        done = pull(store, Substituters([cache], lambda _info, _where: None), goals, silent)
        assert {path.name for path, _ in done.pulled} == {"libc", "demo-postgresql-15.18", "large"}
    assert [line for line, status, _ in log if status != 200] == []
    assert "GET /pgbake-index HTTP/1.1" in [line for line, _, _ in log]
    found = verify(BinaryCache(server.url), silent)
    assert (found.findings, len(found.inventory.infos)) == ((), 4)


def test_a_client_that_goes_away_harms_nobody(
    client: http.client.HTTPConnection, served: tuple[Server, list[tuple[str, int, int]]]
) -> None:
    for _ in range(5):
        with socket.create_connection(address(served[0])) as raw:
            raw.sendall(b"GET /digits HTTP/1.1\r\nHost: x\r\n")
    time.sleep(0.1)
    assert ask(client, "/digits")[0] == 200


def test_what_cannot_be_served_is_said(served: tuple[Server, list[tuple[str, int, int]]], tmp_path: Path) -> None:
    with pytest.raises(CacheError, match="there is no cache in"):
        Server(tmp_path)
    directory, port = served[0].directory, address(served[0])[1]
    with pytest.raises(HostError, match=f"port {port}: Address already in use"):
        Server(directory, port=port)
    with pytest.raises(HostError, match=r"cannot listen on no\.such\.host\.invalid"):
        Server(directory, bind="no.such.host.invalid")
