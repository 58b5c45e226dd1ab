"""A client of Nix's worker protocol: how a store that a real Nix owns is written, and its builds are started.

After a greeting, each side writes numbers (64 bits, little-endian) and texts (length, bytes, zeros up to a multiple of
8). A request is an operation's number and its arguments. What comes back are messages on the work, each begun by a
number of its own, up to ``LAST`` or ``ERROR``, and then the answer (``src/libstore/worker-protocol.hh`` and
``daemon.cc`` of Nix). pgbake speaks version 1.35, or an older one of the daemon's, down to 1.32 (Nix 2.4).

The other end is the daemon's socket; for root on a machine where no daemon runs, ``nix-daemon --stdio``, which works on
the store itself. What the daemon lets this user do is the daemon's decision: paths that certify themselves may be added
by all, settings be changed by trusted users only.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import threading
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from pgbake.errors import HostError, StoreError
from pgbake.formats.storepath import StorePath
from pgbake.store.database import PathInfo

#: Where the daemon listens, unless ``NIX_DAEMON_SOCKET_PATH`` says otherwise.
SOCKET = "/nix/var/nix/daemon-socket/socket"
_PROGRAMS = ("/nix/var/nix/profiles/default/bin/nix-daemon", "/run/current-system/sw/bin/nix-daemon")

_HELLO, _HELLO_BACK = 0x6E697863, 0x6478696F
_VERSION = (1 << 8) | 35
_OLDEST = 32
_WHO_TRUSTS = 35
_SAYS_VERSION = 33

_ADD_TO_STORE, _BUILD_PATHS, _ADD_TEMP_ROOT, _ADD_INDIRECT_ROOT, _SET_OPTIONS = 7, 9, 11, 12, 19
_COLLECT_GARBAGE, _ADD_NAR = 20, 39
_DELETE_THESE = 3

_NEXT, _LAST, _ERROR = 0x6F6C6D67, 0x616C7473, 0x63787470
_START, _STOP, _RESULT = 0x53545254, 0x53544F50, 0x52534C54

#: Types of activities and of their results (``src/libutil/logging.hh``).
BUILD, SUBSTITUTE = 105, 108
LOG_LINE, SET_PHASE = 101, 104

_CHUNK = 1 << 16


class DaemonError(Exception):
    """Nix refused, or failed, what it was asked; the message is Nix's own."""


@dataclass(frozen=True, slots=True)
class Activity:
    """Something that Nix began.

    :param type: such as :data:`BUILD`.
    :param fields: of a build: its derivation, and the machine that it runs on ("" for this one).
    """

    id: int
    type: int
    text: str
    fields: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Result:
    """Something that an activity told, such as a line of a build's log."""

    id: int
    type: int
    fields: tuple[int | str, ...]


@dataclass(frozen=True, slots=True)
class Stopped:
    """An activity ended."""

    id: int


@dataclass(frozen=True, slots=True)
class Message:
    """A line of Nix's own, such as that a builder cannot be reached."""

    text: str


Told = Activity | Result | Stopped | Message


def _ignore(_told: Told) -> None:
    """Look at nothing that Nix tells."""


class Connection:
    """One connection to Nix. Safe to use from several threads: a request waits for the one before it.

    :ivar nix_version: such as ``2.8.0``; "" where it does not say.
    :ivar trusted: whether this user may change settings; None where it does not say.
    """

    def __init__(self) -> None:
        """Connect, and greet.

        :raises HostError: there is no daemon, it refuses this user, or it is too old.
        """
        self._turn = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._from, self._to = self._connect()
        self.nix_version = ""
        self.trusted: bool | None = None
        self._greet()

    def _connect(self) -> tuple[IO[bytes], IO[bytes]]:
        place = os.environ.get("NIX_DAEMON_SOCKET_PATH", SOCKET)
        refused: OSError | None = None
        connection = socket.socket(socket.AF_UNIX)
        try:
            connection.connect(place)
        except OSError as error:
            connection.close()
            refused = error
        else:
            self._socket = connection
            return connection.makefile("rb"), connection.makefile("wb")
        program = shutil.which("nix-daemon") or next((name for name in _PROGRAMS if Path(name).exists()), None)
        if os.geteuid() != 0 or program is None:
            raise HostError(
                f"Nix's daemon does not answer at {place}: {refused.strerror}",
                hint="as root: systemctl start nix-daemon; or build without Nix: --engine local",
            )
        self._process = subprocess.Popen(
            [program, "--stdio"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            start_new_session=True,
        )  # fmt: skip
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        return self._process.stdout, self._process.stdin

    def _greet(self) -> None:
        try:
            self._write(_HELLO)
            self._to.flush()
            if self._number() != _HELLO_BACK:
                raise HostError("what answers as Nix's daemon is something else", hint="look at `nix-daemon --version`")
            theirs = self._number()
            version = min(theirs, _VERSION)
            if theirs >> 8 > 1:
                raise HostError(
                    f"this machine's Nix speaks version {theirs >> 8}.{theirs & 0xFF} of its protocol, which this "
                    "pgbake does not know",
                    hint="install a newer pgbake; or build without Nix: --engine local",
                )
            if version >> 8 != 1 or version & 0xFF < _OLDEST:
                raise HostError(
                    f"this machine's Nix is too old: it speaks version {theirs >> 8}.{theirs & 0xFF} of its protocol, "
                    f"and pgbake at least 1.{_OLDEST}",
                    hint="install Nix 2.4 or later; or build without Nix: --engine local",
                )
            # No CPU affinity, no space reserved: both obsolete.
            self._write(_VERSION, 0, 0)
            self._to.flush()
            if version & 0xFF >= _SAYS_VERSION:
                self.nix_version = self._text()
            if version & 0xFF >= _WHO_TRUSTS:
                self.trusted = {1: True, 2: False}.get(self._number())
            self._listen(_ignore)
        except (OSError, EOFError) as error:
            why = self._last_words() or str(error) or "it hung up"
            raise HostError(
                f"Nix's daemon refuses to work for this user: {why}",
                hint="in its nix.conf, allowed-users must name you; or build without Nix: --engine local",
            ) from error
        except DaemonError as error:
            raise HostError(f"Nix cannot work: {error}", hint="or build without Nix: --engine local") from error

    def _last_words(self) -> str:
        if self._process is None or self._process.stderr is None:
            return ""
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(5)
            return self._process.stderr.read().decode(errors="replace").strip().rpartition("\n")[2]
        return ""

    def close(self) -> None:
        """Hang up; what is under way ends."""
        for stream in (self._to, self._from):
            with suppress(OSError):
                stream.close()
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
            self._socket.close()
        if self._process is not None:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(10)
                return
            self._process.kill()
            self._process.wait()

    def interrupt(self) -> None:
        """End what another thread waits for, by hanging up on Nix: it stops the builds of this connection."""
        if self._socket is not None:
            with suppress(OSError):
                self._socket.shutdown(socket.SHUT_RDWR)
        elif self._process is not None:
            self._process.terminate()

    # --- requests ---------------------------------------------------------------------------------

    def set_options(
        self,
        settings: Mapping[str, str],
        *,
        keep_going: bool,
        keep_failed: bool,
        cores: int,
        max_silent: int,
        tell: Callable[[Told], None] = _ignore,
        talkative: bool = False,
    ) -> None:
        """Say how builds of this connection are made.

        :param settings: of Nix's configuration, over the daemon's own; it passes over what this user may not set, and
            says so to ``tell``: some versions only if ``talkative``.
        :param cores: for each build, as ``NIX_BUILD_CORES``; 0 means all.
        :param max_silent: seconds without output after which a build is stopped; 0: never.
        """
        # keep-failed, keep-going, fallback, verbosity, builds at once (as configured, by the settings), silent seconds,
        # build hook, verbose builds, two obsolete ones, cores, substitutes.
        others = dict(settings)
        jobs = int(others.pop("max-jobs", 1))  # which everybody may choose
        verbosity = 6 if talkative else 3
        numbers = (int(keep_failed), int(keep_going), 0, verbosity, jobs, max_silent, 1, 0, 0, 0, cores, 1)
        self._ask(_SET_OPTIONS, *numbers, len(others), *[word for pair in others.items() for word in pair], tell=tell)

    def add(
        self, name: str, method: str, references: Iterable[StorePath], dump: Callable[[Callable[[Any], object]], object]
    ) -> StorePath:
        """Add a content-addressed path, and return it.

        :param method: ``text:sha256``, ``fixed:sha256`` or ``fixed:r:sha256``.
        :param dump: writes the contents, which are a NAR for the last of these.
        :raises StoreError: Nix refuses it.
        """
        names = sorted(str(path) for path in references)

        def answer() -> StorePath:
            path = StorePath.parse(self._text())
            self._text(), self._text()  # deriver, hash
            self._texts()
            self._number(), self._number(), self._number()  # registered, size, ultimate
            self._texts(), self._text()  # signatures, content address
            return path

        try:
            added: StorePath = self._ask(
                _ADD_TO_STORE, name, method, len(names), *names, 0, body=lambda: self._frames(dump), answer=answer
            )
            return added
        except DaemonError as error:
            raise StoreError(f"Nix does not take {name} into its store: {error}") from error

    def add_nar(self, info: PathInfo, dump: Callable[[Callable[[Any], object]], object]) -> None:
        """Add a path with what is known of it; all that it refers to is there.

        Signatures are not to be looked at once more; where this user is not trusted, Nix does all the same.

        :param dump: writes its NAR.
        :raises StoreError: Nix refuses it.
        """
        references = sorted(str(path) for path in info.references)
        try:
            self._ask(
                _ADD_NAR, str(info.path), str(info.deriver or ""), info.nar_sha256.hex(), len(references), *references,
                0, info.nar_size, 0, len(info.signatures), *info.signatures, info.ca or "", 0, 1,
                body=lambda: self._frames(dump),
            )  # fmt: skip
        except DaemonError as error:
            raise StoreError(
                f"Nix does not take {info.path.name} into its store: {error}",
                hint="its nix.conf must name the cache's key among trusted-public-keys, or you among trusted-users",
            ) from error

    def hold(self, paths: Iterable[StorePath]) -> None:
        """Keep collectors from paths, which need not be there yet, while this connection lasts."""
        for path in paths:
            self._ask(_ADD_TEMP_ROOT, str(path), answer=self._number)

    def add_root(self, link: Path) -> None:
        """Keep collectors from what a link points at, while the link is there."""
        self._ask(_ADD_INDIRECT_ROOT, str(link), answer=self._number)

    def delete(self, paths: Iterable[StorePath]) -> None:
        """Delete paths that nothing needs.

        :raises DaemonError: something needs one.
        """

        def answer() -> None:
            self._texts(), self._number(), self._number()  # what went, its size, nothing

        names = sorted(map(str, paths))
        most = (1 << 64) - 1
        self._ask(_COLLECT_GARBAGE, _DELETE_THESE, len(names), *names, 0, most, 0, 0, 0, answer=answer)

    def build(self, derivations: Iterable[StorePath], tell: Callable[[Told], None]) -> None:
        """Build all outputs of derivations that are in the store, and what they need.

        :raises DaemonError: a build failed, or cannot be started.
        """
        wanted = [f"{path}!*" for path in derivations]
        self._ask(_BUILD_PATHS, len(wanted), *wanted, 0, tell=tell, answer=self._number)

    # --- the wire ---------------------------------------------------------------------------------

    def _frames(self, dump: Callable[[Callable[[Any], object]], object]) -> None:
        """Write contents of a length that is not known before: pieces, each with its length, and a zero."""
        buffer = bytearray()

        def flush() -> None:
            self._write(len(buffer))
            self._to.write(buffer)
            buffer.clear()

        def write(data: Any) -> None:
            buffer.extend(data)
            if len(buffer) >= _CHUNK:
                flush()

        dump(write)
        if buffer:
            flush()
        self._write(0)

    def _ask(
        self,
        *request: int | str,
        body: Callable[[], None] | None = None,
        answer: Callable[[], Any] | None = None,
        tell: Callable[[Told], None] = _ignore,
    ) -> Any:
        with self._turn:
            try:
                self._write(*request)
                if body is not None:
                    body()
                self._to.flush()
                self._listen(tell)
                return answer() if answer is not None else None
            except (OSError, EOFError, ValueError) as error:
                raise DaemonError(self._last_words() or "the connection to Nix broke") from error

    def _listen(self, tell: Callable[[Told], None]) -> None:
        while (kind := self._number()) != _LAST:
            if kind == _NEXT:
                tell(Message(_plain(self._text())))
            elif kind == _ERROR:
                self._text(), self._number(), self._text()  # type, level, name
                message = self._text()
                self._number()  # no position
                for _ in range(self._number()):
                    self._number(), self._text()
                raise DaemonError(_plain(message))
            elif kind == _START:
                id, _level, type = self._number(), self._number(), self._number()
                text, fields = self._text(), self._fields()
                self._number()  # parent
                tell(Activity(id, type, text, fields))
            elif kind == _STOP:
                tell(Stopped(self._number()))
            elif kind == _RESULT:
                tell(Result(self._number(), self._number(), self._fields()))
            else:
                raise DaemonError(f"Nix says something unknown: {kind:#x}")

    def _write(self, *values: int | str) -> None:
        for value in values:
            if isinstance(value, int):
                self._to.write(value.to_bytes(8, "little"))
            else:
                data = value.encode(errors="surrogateescape")
                self._to.write(len(data).to_bytes(8, "little") + data + bytes(-len(data) % 8))

    def _read(self, length: int) -> bytes:
        data = self._from.read(length)
        if len(data) != length:
            raise EOFError
        return data

    def _number(self) -> int:
        return int.from_bytes(self._read(8), "little")

    def _text(self) -> str:
        length = self._number()
        return self._read(length + -length % 8)[:length].decode(errors="surrogateescape")

    def _texts(self) -> list[str]:
        return [self._text() for _ in range(self._number())]

    def _fields(self) -> tuple[int | str, ...]:
        return tuple(self._text() if self._number() else self._number() for _ in range(self._number()))


def _plain(text: str) -> str:
    """Return Nix's message without its colours."""
    import re

    return re.sub(r"\x1b\[[0-9;]*m", "", text).strip()
