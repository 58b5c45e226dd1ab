"""Fetching pinned files: mirrors in turn, with retries and resume; the sha256 decides.

On disk, in the downloads directory::

    SHA256-NAME          a whole file; it is hashed again before it is used again
    SHA256-NAME.part     one under way, flock'ed by who writes it; resumed by the next run
"""

from __future__ import annotations

import errno
import hashlib
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import TYPE_CHECKING, BinaryIO, TypeVar
from urllib.parse import quote

from pgbake.errors import HostError, InputError
from pgbake.events import Event, Finished, Notice, Outcome, Planned, Progressed, Sink, Started, silent
from pgbake.inputs.mirrors import Mirrors
from pgbake.inputs.pins import Pin
from pgbake.inputs.registry import MANIFEST_HINT, fill
from pgbake.store.locks import acquire, holder

if TYPE_CHECKING:
    from requests import Response, Session

_CHUNK = 1 << 18
_TIMEOUT = (10.0, 30.0)  # seconds to connect, and between two reads
_ATTEMPTS = 4  # at one mirror without a new byte
_FIRST_PAUSE = 0.5  # seconds; doubled at each further attempt
_LONGEST_PAUSE = 30.0  # what a server may ask for by Retry-After
_TRANSIENT = frozenset({408, 425, 429, 500, 502, 503, 504})
_REPORT_EVERY = 0.1  # seconds
_STOP_CHECK = 0.2  # seconds between looks at whether the caller wants to stop
_GRACE = 1.0  # seconds that transfers have to end once one has failed

_Item = TypeVar("_Item")

#: Files that threads of this process fetch, or wait for.
_UNDER_WAY: dict[Path, object] = {}


def fetch(
    wanted: Mapping[str, Pin],
    mirrors: Mirrors,
    downloads: Path,
    report: Sink,
    jobs: int = 6,
    stop: threading.Event | None = None,
) -> dict[str, Path]:
    """Bring all pinned files into ``downloads`` and return where each lies.

    What is there already is verified and not asked for again. ``http_proxy``, ``https_proxy`` and
    ``no_proxy`` of the environment are followed. The first error ends the transfers under way; what they
    got so far is kept for the next run.

    :param wanted: a label for the user's eyes (a package's name) to its pin.
    :param report: called from one thread at a time, with one ``fetch`` task for each file asked for.
    :param jobs: how many files are under way at once.
    :param stop: set from another thread, it ends the transfers as an error does.
    :raises InputError: no mirror gave a file (each is named with its status), or one gave wrong content.
    :raises HostError: the disk is full, or ``downloads`` is not writable.
    """
    try:
        downloads.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _not_writable(downloads, error) from None
    targets = {label: downloads / f"{pin.sha256}-{pin.filename}" for label, pin in wanted.items()}
    # Labels may share a file.
    files = {targets[label]: (label, pin) for label, pin in reversed(list(wanted.items()))}
    missing: list[_Task] = []
    shared = _Shared(mirrors, report, stop or threading.Event())

    def verify(item: tuple[Path, tuple[str, Pin]]) -> None:
        target, (label, pin) = item
        if not _is_whole(target, pin):
            missing.append(_Task(label, pin, target))

    _in_threads(verify, list(files.items()), jobs, shared)
    if missing:
        report(Planned("fetch", len(missing)))
        # Large files first, so that the last to end is a small one.
        missing.sort(key=lambda task: (-task.pin.size, task.label))
        _in_threads(shared.fetch, missing, jobs, shared)
    return targets


def _in_threads(work: Callable[[_Item], None], items: Sequence[_Item], jobs: int, shared: _Shared) -> None:
    """Do the work on all items; the first error, or Ctrl-C, stops what is under way and is raised."""
    left = deque(items)
    ends: SimpleQueue[BaseException | None] = SimpleQueue()

    def worker() -> None:
        end: BaseException | None = None
        try:
            while left and not shared.stop.is_set():
                try:
                    item = left.popleft()
                except IndexError:  # another thread was faster
                    break
                work(item)
        except BaseException as error:
            end = error
        ends.put(end)

    # Daemons: a thread that waits for a silent server must not keep the program from ending.
    threads = [threading.Thread(target=worker, daemon=True) for _ in range(min(jobs, len(items)))]
    for thread in threads:
        thread.start()
    try:
        ended = 0
        while ended < len(threads):
            try:
                error = ends.get(timeout=_STOP_CHECK)
            except Empty:
                if shared.stop.is_set():
                    raise _Cancelled from None
                continue
            if error is not None:
                raise error
            ended += 1
        if shared.stop.is_set():  # between two items: some were not looked at
            raise _Cancelled
    except BaseException:
        shared.stop.set()
        deadline = time.monotonic() + _GRACE
        for thread in threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        with shared.lock:
            shared.sink = silent
        raise


def _is_whole(path: Path, pin: Pin) -> bool:
    try:
        if path.stat().st_size != pin.size:
            return False
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == pin.sha256
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _not_writable(path, error) from None


@dataclass(frozen=True, slots=True)
class _Task:
    """One file to fetch."""

    label: str
    pin: Pin
    target: Path

    @property
    def id(self) -> str:
        return f"fetch:{self.label}"


class _Cancelled(Exception):
    """Another file failed, or the user interrupted."""


class _Missing(Exception):
    """This mirror does not give the file; its words are the status."""


class _Transient(Exception):
    """This attempt failed in a way that may pass, after ``pause`` seconds where the server named them."""

    def __init__(self, status: str, *, pause: float | None = None, is_down: bool = False) -> None:
        super().__init__(status)
        self.pause = pause
        self.is_down = is_down


@dataclass(slots=True)
class _Part:
    """The file under way, its lock held, and the digest of what it has."""

    path: Path
    file: BinaryIO
    size: int
    digest: hashlib._Hash

    @classmethod
    def of(cls, path: Path, file: BinaryIO) -> _Part:
        digest = hashlib.sha256()
        size = file.seek(0)
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
            size += len(chunk)
        return cls(path, file, size, digest)

    def append(self, chunk: bytes) -> None:
        self.file.write(chunk)
        self.digest.update(chunk)
        self.size += len(chunk)

    def restart(self) -> None:
        self.file.seek(0)
        self.file.truncate()
        self.size, self.digest = 0, hashlib.sha256()


@dataclass(slots=True)
class _Shared:
    """What the transfers of one run share."""

    mirrors: Mirrors
    sink: Sink
    stop: threading.Event
    lock: threading.Lock = field(default_factory=threading.Lock)
    local: threading.local = field(default_factory=threading.local)
    #: Mirrors that could not be reached; asked last from then on.
    down: set[str] = field(default_factory=set)

    def report(self, event: Event) -> None:
        with self.lock:
            self.sink(event)

    def session(self) -> Session:
        """This thread's session, which keeps its connections."""
        import requests

        session: Session | None = getattr(self.local, "session", None)
        if session is None:
            session = self.local.session = requests.Session()
            # Coded content would not be what was hashed.
            session.headers["Accept-Encoding"] = "identity"
        return session

    def sleep(self, seconds: float) -> None:
        if self.stop.wait(seconds):
            raise _Cancelled

    def fetch(self, task: _Task) -> None:
        """Bring one file to its target."""
        started = time.monotonic()
        self.report(Started(task.id, "fetch", f"{task.label} {task.pin.version}", task.pin.size))
        outcome: Outcome = "failed"
        try:
            with self.locked_part(task) as part:
                if part is not None:
                    self.from_mirrors(task, part)
            self.report(Progressed(task.id, task.pin.size))
            outcome = "done"
        except _Cancelled:
            outcome = "cancelled"
            raise
        except OSError as error:
            raise _not_writable(task.target, error) from None
        finally:
            self.report(Finished(task.id, outcome, time.monotonic() - started))

    @contextmanager
    def locked_part(self, task: _Task) -> Iterator[_Part | None]:
        """Open the file under way as its only writer; None when another process, or thread, finished it meanwhile."""
        path = task.target.with_name(task.target.name + ".part")
        token = object()
        # Build roots that one run makes share packages: its threads wait for each other, which is no news.
        is_first = _UNDER_WAY.setdefault(path, token) is token
        try:
            while True:
                # Appending neither empties what is there nor fails when it is not.
                with path.open("a+b") as file:
                    if not acquire(file.fileno(), wait=False):
                        other = holder(path) if is_first else None
                        # Whoever said first that it is under way need not have been the first to lock it.
                        if other and not other.startswith(f"pid {os.getpid()} "):
                            self.report(Notice("info", f"{task.label} is being fetched by {other}; waiting for it"))
                        while not acquire(file.fileno(), wait=False):
                            self.sleep(_STOP_CHECK)
                    if not _is_same_file(file.fileno(), path):
                        continue  # the other process has renamed or removed it since we opened it
                    if _is_whole(task.target, task.pin):
                        path.unlink()
                        yield None
                        return
                    part = _Part.of(path, file)
                    try:
                        yield part
                    finally:
                        if part.size == 0 and path.exists():
                            path.unlink()
                    return
        finally:
            if is_first:
                del _UNDER_WAY[path]

    def from_mirrors(self, task: _Task, part: _Part) -> None:
        """Try the mirrors in turn until one has given the whole file."""
        statuses: list[str] = []
        bases = self.mirrors.of(task.pin.archive)
        for base in sorted(bases, key=lambda base: base in self.down):
            path = task.pin.path
            url = fill(base, path) if "{crate}" in base else f"{base}/{quote(path, safe='/~')}"
            try:
                self.from_mirror(task, part, url)
            except _Missing as status:
                statuses.append(f"{url}: {status}")
            except _Transient as status:
                statuses.append(f"{url}: {status}")
                if status.is_down:
                    self.down.add(base)
            else:
                part.file.flush()
                part.path.rename(task.target)
                return
        gone = all("404" in status or "no such file" in status for status in statuses)
        other = '[platform] mirrors = ["URL"]'
        anew = "old files leave a moving archive: resolve anew with: pgbake lock"
        if task.pin.archive == "crates":
            other = MANIFEST_HINT
            anew = (
                "run `cargo update` in the extension's source and then `pgbake lock`, or name a registry that has it: "
            )
            anew += other
        raise InputError(
            f"no mirror gave {task.label} {task.pin.version} ({task.pin.path})",
            hint=anew if gone else f"check the network, or name other mirrors in the manifest: {other}",
            detail="\n".join(statuses),
        )

    def from_mirror(self, task: _Task, part: _Part, url: str) -> None:
        """Bring the whole file from one mirror, by as many attempts as bring it forward."""
        pin = task.pin
        failed = 0
        furthest = part.size
        while True:
            if part.size > pin.size:
                part.restart()
            resumed = part.size
            try:
                if part.size < pin.size or pin.size == 0:
                    self.attempt(task, part, url)
            except _Transient as status:
                if part.size > furthest:
                    furthest, failed = part.size, 0
                failed += 1
                if failed == _ATTEMPTS:
                    raise
                self.sleep(status.pause if status.pause is not None else _FIRST_PAUSE * 2 ** (failed - 1))
                continue
            got = part.digest.hexdigest()
            if part.size == pin.size and got == pin.sha256:
                return
            size = part.size
            part.restart()
            if not resumed:
                raise _wrong_content(task, url, got, size)
            # The beginning came from an earlier run or another mirror: this one may be innocent.

    def attempt(self, task: _Task, part: _Part, url: str) -> None:
        """Append to the part what one request gives: all, or more than all when the content is wrong."""
        limit = task.pin.size + 1
        told = 0.0
        chunks = self.read(url, part) if url.startswith("file://") else self.download(task, part, url)
        for chunk in chunks:
            if self.stop.is_set():
                raise _Cancelled
            part.append(chunk[: limit - part.size])
            if part.size == limit:
                return
            now = time.monotonic()
            if now - told >= _REPORT_EVERY:
                told = now
                self.report(Progressed(task.id, part.size))

    def read(self, url: str, part: _Part) -> Iterator[bytes]:
        """Read a mirror on this machine's disk, after what the part has."""
        from urllib.parse import unquote

        path = Path(unquote(url.removeprefix("file://")))
        try:
            with path.open("rb") as file:
                file.seek(part.size)
                while chunk := file.read(_CHUNK):
                    yield chunk
        except OSError as error:
            raise _Missing((error.strerror or str(error)).lower()) from None

    def download(self, task: _Task, part: _Part, url: str) -> Iterator[bytes]:
        """Ask a server for the file after what the part has; restarts the part if it sends all of it."""
        import requests
        import urllib3

        headers = {"Range": f"bytes={part.size}-"} if part.size else {}
        try:
            with self.session().get(url, headers=headers, stream=True, timeout=_TIMEOUT) as response:
                _check_status(response, part)
                left = response.headers.get("Content-Length", "")
                expected = int(left) if left.isdecimal() else None
                # urllib3's own reading: requests would undo a Content-Encoding.
                for chunk in response.raw.stream(_CHUNK, decode_content=False):
                    if expected is not None:
                        expected -= len(chunk)
                    yield chunk
                if expected is None and not getattr(response.raw, "chunked", False):
                    expected = task.pin.size - part.size  # the end of the connection is all that told the end
                if expected and expected > 0:
                    raise _Transient("the connection was cut")
        except (requests.ConnectionError, requests.Timeout) as error:
            raise _Transient(innermost(error), is_down=True) from None
        except (requests.RequestException, urllib3.exceptions.LocationValueError) as error:
            raise _Missing(innermost(error)) from None
        except (urllib3.exceptions.HTTPError, ConnectionError, TimeoutError) as error:
            raise _Transient(innermost(error)) from None


def _check_status(response: Response, part: _Part) -> None:
    """Make sure that what follows is the file's rest, or all of it."""
    status = f"{response.status_code} {response.reason}".strip()
    if response.status_code == 416:
        part.restart()
        raise _Transient(status, pause=0)
    if response.status_code in _TRANSIENT:
        pause = response.headers.get("Retry-After", "")
        raise _Transient(status, pause=min(float(pause), _LONGEST_PAUSE) if pause.isdecimal() else None)
    if response.status_code == 206:
        if not response.headers.get("Content-Range", "").startswith(f"bytes {part.size}-"):
            part.restart()
            raise _Transient(f"{status}: not the range that was asked for", pause=0)
    elif response.status_code == 200:
        part.restart()
    else:
        raise _Missing(status)


def innermost(error: Exception) -> str:
    """Return the innermost reason of an error of requests: ``Connection refused`` instead of three wrappers' repr."""
    reason: object = error
    while isinstance(reason, Exception):
        inner = getattr(reason, "reason", None) or next((a for a in reason.args if isinstance(a, Exception)), None)
        if inner is None:
            break
        reason = inner
    text = getattr(reason, "strerror", None) or str(reason)
    return str(text).rpartition("): ")[2].rpartition(">: ")[2]


def _wrong_content(task: _Task, url: str, got: str, size: int) -> InputError:
    pin = task.pin
    is_longer = size > pin.size
    return InputError(
        f"wrong content of {task.label} {pin.version} from {url}",
        hint="somebody changed the file: do not use this mirror; if the pin is wrong, resolve anew with: pgbake lock",
        detail=f"expected sha256 {pin.sha256}, {pin.size} bytes\n"
        + (f"got more than {pin.size} bytes" if is_longer else f"got      sha256 {got}, {size} bytes"),
    )


def _not_writable(path: Path, error: OSError) -> HostError:
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return HostError(f"the disk is full: {path.parent}", hint="make room and run the command again")
    return HostError(f"cannot write {path}: {error.strerror}", hint="choose a downloads directory that is yours")


def _is_same_file(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(descriptor), path.stat())
    except FileNotFoundError:
        return False
