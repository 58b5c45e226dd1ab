"""Greeting a daemon of Nix's that cannot be worked with."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from pgbake.errors import HostError
from pgbake.store.daemon import Connection


def number(value: int) -> bytes:
    return value.to_bytes(8, "little")


@contextmanager
def daemon(place: Path, serve: Callable[[socket.socket], object]) -> Iterator[None]:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(place))
        listener.listen(1)

        def run() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(8)  # its greeting; who hangs up before may be told nothing else
                serve(connection)

        thread = threading.Thread(target=run)
        thread.start()
        yield
        thread.join()


@pytest.mark.parametrize(
    ("serve", "message"),
    [
        # 1.21 was that of Nix 2.3.
        (lambda it: it.sendall(number(0x6478696F) + number(0x115)), "Nix is too old: it speaks version 1.21"),
        (lambda it: it.sendall(number(0x6478696F) + number(0x223)), "Nix speaks version 2.35"),
        (lambda it: it.sendall(b"HTTP/1.1 400 Bad Request"), "what answers as Nix's daemon is something else"),
        (lambda _: None, "refuses to work for this user: it hung up"),
    ],
)  # fmt: skip
def test_who_cannot_be_worked_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, serve: Callable[[socket.socket], object], message: str
) -> None:
    monkeypatch.setenv("NIX_DAEMON_SOCKET_PATH", str(tmp_path / "socket"))
    with daemon(tmp_path / "socket", serve), pytest.raises(HostError) as caught:
        Connection()
    assert message in caught.value.message and caught.value.hint
