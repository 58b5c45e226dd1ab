"""Objects in a store of objects: a directory, a web server or a bucket, all through one client (obstore).

URLs::

    file:///DIR                          a directory; DIR alone, too
    http://HOST/DIR, https://...         any web server; it is only read
    s3://BUCKET/PREFIX?PARAMETER&...     S3 or what speaks its protocol, with Nix's parameters:
                                         region, endpoint (HOST:PORT or a URL), scheme, profile,
                                         addressing-style (path or virtual), anonymous (true)
    gs://, az://                         what the client offers beyond that; untested

Credentials come from where the tools of each kind look for them: ``AWS_*`` in the environment, ``~/.aws``, the
machine's own role; for web servers ``~/.netrc`` or the file that ``NETRC`` names.
"""

from __future__ import annotations

import io
import os
import re
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO
from urllib.parse import urlsplit

from pgbake.cache.clients import first_line, s3_client, web_client
from pgbake.errors import CacheError, HostError, host_error
from pgbake.files import flush_directory

#: Bytes that travel in one piece of a stream.
_PIECE = 1 << 20
#: Objects up to this size are sent in one request; larger ones in parts, a few at a time.
ONE_REQUEST = 5 << 20
_PARTS_AT_ONCE = 4
#: How often a stream that breaks is taken up again without a new byte.
_RESUMES = 3

_FORMS = "use file:///DIR, http(s)://HOST/DIR or s3://BUCKET?region=REGION"
_STATUS = re.compile(r"status code: (\d{3})")


@dataclass(frozen=True, slots=True)
class Listed:
    """An object as a listing tells of it.

    :param name: relative to the store's own URL.
    :param size: bytes.
    :param etag: changes with the content.
    :param modified: Unix seconds of its last write.
    """

    name: str
    size: int
    etag: str | None
    modified: float


@dataclass(frozen=True, slots=True)
class Content:
    """A small object's bytes, and the mark that changes with them."""

    data: bytes
    etag: str | None


class Missing(Exception):
    """There is no such object."""


class Exists(Exception):
    """There is one already."""


class Changed(Exception):
    """Somebody else has written it meanwhile."""


class Unchanged(Exception):
    """It is still what the caller has."""


class ObjectStore:
    """A store of objects. Its methods may be called from several threads.

    ``url`` names it in messages; ``local`` is its directory where it is one; ``writable`` whether its kind can be
    written at all.
    """

    def __init__(self, url: str) -> None:
        """Make a client; nothing is asked yet.

        :raises CacheError: the URL is of no known kind, or holds a password.
        """
        self.local: Path | None = None
        self.writable = True
        if not url:
            raise CacheError("the URL of a cache is empty", hint=_FORMS)
        if "://" not in url:
            url = Path(url).absolute().as_uri()
        self.url = url
        try:
            parts = urlsplit(url)
        except ValueError as error:
            raise CacheError(f"{url} is no URL of a cache: {error}", hint=_FORMS) from None
        if parts.username or parts.password:
            self.url = re.sub(r"//[^/@]*@", "//", url)
            raise CacheError(
                f"the URL of the cache {self.url} holds a user or a password",
                hint="put them into ~/.netrc (http) or ~/.aws/credentials (s3) instead",
            )
        try:
            match parts.scheme:
                case "file":
                    self.local = _local_path(parts.netloc, parts.path)
                    self._client = None
                case "http" | "https":
                    self.writable = False
                    self.url = url.rstrip("/")
                    self._client = web_client(self.url)
                case "s3" if parts.netloc:
                    self._client = s3_client(parts.netloc, parts.path, parts.query)
                case "gs" | "az":
                    import obstore.store

                    self._client = obstore.store.from_url(url)
                case _:
                    raise CacheError(
                        f"{url} is no URL of a cache",
                        hint=_FORMS,
                    )
        except (ValueError, TypeError) as error:
            raise CacheError(f"cannot use the cache {self.url}: {error}", hint=_FORMS) from error

    # --- reading -------------------------------------------------------------------------------------

    def get(self, name: str, most: int, unless: str | None = None) -> Content:
        """Return a small object.

        :param most: bytes; more is an error, since no such object is so large.
        :param unless: the etag of what the caller has.
        :raises Missing: there is none.
        :raises Unchanged: it has the etag ``unless``.
        :raises CacheError: the server refuses, or does not answer.
        """
        if self.local is not None:
            with self._explained(name), (self.local / name).open("rb") as file:
                etag = _local_etag(os.fstat(file.fileno()))
                if etag == unless:
                    raise Unchanged
                return Content(self._bounded(name, [file.read(most + 1)], most), etag)
        import obstore

        with self._explained(name):
            got = obstore.get(self._store, name, options={"if_none_match": unless} if unless else None)
            return Content(self._bounded(name, (bytes(piece) for piece in got.stream(_PIECE)), most), got.meta["e_tag"])

    def _bounded(self, name: str, pieces: Iterable[bytes], most: int) -> bytes:
        data = io.BytesIO()
        for piece in pieces:
            data.write(piece)
            if data.tell() > most:
                raise CacheError(f"{name} in {self.url} is larger than {most} bytes")
        return data.getvalue()

    def has(self, name: str) -> int | None:
        """Return the size of an object in bytes, or None where there is none."""
        found = self.look_at(name)
        return found.size if found is not None else None

    def look_at(self, name: str) -> Listed | None:
        """Return what a listing would tell of an object, or None where there is none.

        :raises CacheError: the server refuses, or does not answer.
        """
        try:
            with self._explained(name):
                if self.local is not None:
                    status = (self.local / name).stat()
                    return Listed(name, status.st_size, _local_etag(status), status.st_mtime)
                import obstore

                told = obstore.head(self._store, name)
                return Listed(name, told["size"], told["e_tag"], told["last_modified"].timestamp())
        except Missing:
            return None

    @contextmanager
    def open(self, name: str, stop: threading.Event | None = None) -> Iterator[BinaryIO]:
        """Give an object as a stream to be read once; a connection that breaks is taken up where it was.

        :param stop: set from another thread, it ends the stream with an error.
        :raises Missing: there is none.
        :raises CacheError: as :meth:`get`, at any read.
        """
        if self.local is not None:
            with self._explained(name), (self.local / name).open("rb") as file:
                yield file
            return
        pieces = self._pieces(name, stop or threading.Event())
        first = next(pieces, b"")  # whether it is there is known at once
        with io.BufferedReader(_PieceReader(first, pieces), _PIECE) as stream:
            yield stream

    def _pieces(self, name: str, stop: threading.Event) -> Iterator[bytes]:
        done = fruitless = 0
        while True:
            try:
                with self._explained(name):
                    # A server that knows no ranges sends all from the start again; the digest decides in any case.
                    start, got = self._from(name, done)
                    skip = done - start
                    for raw in got.stream(_PIECE):
                        piece = bytes(raw)
                        if stop.is_set():
                            raise CacheError(f"the transfer of {name} from {self.url} was stopped")
                        if skip >= len(piece):
                            skip -= len(piece)
                            continue
                        piece, skip = piece[skip:], 0
                        done += len(piece)
                        fruitless = 0
                        yield piece
                return
            except CacheError:
                fruitless += 1
                if not done or fruitless > _RESUMES or stop.is_set():
                    raise

    def _from(self, name: str, offset: int) -> tuple[int, Any]:
        import obstore

        if offset:
            with suppress(obstore.exceptions.BaseError):
                got = obstore.get(self._store, name, options={"range": {"offset": offset}})
                return got.range[0], got
        return 0, obstore.get(self._store, name)

    # --- writing -------------------------------------------------------------------------------------

    @contextmanager
    def spool(self, name: str) -> Iterator[BinaryIO]:
        """Give an unnamed file to write an object's content into, for :meth:`put_file`.

        It vanishes with the process. For a directory it lies there already, so that putting it is a link.

        :raises HostError: it cannot be made.
        """
        import tempfile  # slow, as all that writes needs and a look does not

        try:
            if self.local is not None:
                directory = (self.local / name).parent
                directory.mkdir(parents=True, exist_ok=True)
                descriptor = -1
                with suppress(OSError):  # file systems without such files
                    descriptor = os.open(directory, os.O_TMPFILE | os.O_RDWR | os.O_CLOEXEC, 0o644)
                if descriptor >= 0:
                    with os.fdopen(descriptor, "w+b") as file:
                        yield file
                    return
            with tempfile.SpooledTemporaryFile(_PIECE) as spooled:
                yield spooled  # type: ignore[misc]
        except OSError as error:
            raise host_error(error, f"cannot write to {self.local or tempfile.gettempdir()}") from error

    def put_file(self, name: str, file: BinaryIO, *, replace: bool = False) -> None:
        """Store what :meth:`spool` gave, from its begin; whoever reads sees the whole object or none.

        What is there already under that name is taken for the same: such objects are named by their content.

        :param replace: whether what is there is known to be damaged, and replaced.
        :raises CacheError: the server refuses, or does not answer.
        :raises HostError: the disk is full.
        """
        import tempfile

        size = file.seek(0, os.SEEK_END)
        file.seek(0)
        with self._explained(name, sought=False), suppress(Exists):
            if self.local is not None and not isinstance(file, tempfile.SpooledTemporaryFile):
                file.flush()
                os.fsync(file.fileno())
                self._link(file.fileno(), name, replace)
            elif self.local is not None or size <= ONE_REQUEST:
                self.put(name, file.read(), new=not replace)
            else:
                import obstore

                obstore.put(
                    self._store, name, file, use_multipart=True, chunk_size=ONE_REQUEST,
                    max_concurrency=_PARTS_AT_ONCE,
                )  # fmt: skip

    def _link(self, descriptor: int, name: str, replace: bool) -> None:
        assert self.local is not None
        target = self.local / name
        directory = os.open(target.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            link = f".{target.name}.{os.getpid()}.{threading.get_ident()}#1" if replace else target.name
            # With a descriptor for the directory Python calls linkat(), which alone follows the link in /proc.
            os.link(f"/proc/self/fd/{descriptor}", link, dst_dir_fd=directory, follow_symlinks=True)
            if replace:
                os.rename(link, target.name, src_dir_fd=directory, dst_dir_fd=directory)
            os.fsync(directory)
        except FileExistsError:
            raise Exists from None
        finally:
            os.close(directory)

    def put(self, name: str, data: bytes, *, new: bool = False, etag: str | None = None) -> None:
        """Store a small object; whoever reads sees the old or the new one.

        :param new: only where there is none yet (``If-None-Match: *``).
        :param etag: only where the one that is there has this etag (``If-Match``). A directory knows no such
            thing: its writers hold a lock.
        :raises Exists: ``new``, and there is one.
        :raises Changed: ``etag``, and there is another.
        :raises CacheError: the server refuses, or does not answer.
        :raises HostError: the disk is full.
        """
        with self._explained(name, sought=False):
            if self.local is not None:
                self._write(name, data, new)
                return
            import obstore

            if new:
                obstore.put(self._store, name, data, mode="create")
            elif etag is not None:
                obstore.put(self._store, name, data, mode={"e_tag": etag})
            else:
                obstore.put(self._store, name, data)

    def _write(self, name: str, data: bytes, new: bool) -> None:
        import tempfile

        assert self.local is not None
        target = self.local / name
        target.parent.mkdir(parents=True, exist_ok=True)
        # Named as the client names its own: listings pass over it.
        descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name}.", suffix="#1", dir=target.parent)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fchmod(file.fileno(), 0o644)
                os.fsync(file.fileno())
            if new:
                try:
                    os.link(temporary, target)
                except FileExistsError:
                    raise Exists from None
            else:
                Path(temporary).replace(target)
        finally:
            with suppress(FileNotFoundError):
                Path(temporary).unlink()
        flush_directory(target.parent)

    def delete(self, names: Iterable[str]) -> None:
        """Remove objects; what is not there is no error.

        :raises CacheError: the server refuses, or does not answer.
        """
        names = list(names)
        with self._explained(names[0] if names else ""):
            if self.local is not None:
                for name in names:
                    (self.local / name).unlink(missing_ok=True)
                return
            import obstore

            with suppress(Missing):
                for start in range(0, len(names), 1000):
                    obstore.delete(self._store, names[start : start + 1000])

    def list(self, most: int | None = None) -> Iterator[Listed]:
        """Yield all objects, in no order that matters.

        :param most: of objects that one request gives.
        :raises CacheError: the server refuses, does not answer, or has no listing (http).
        """
        if self.local is not None:
            with self._explained("", sought=False):
                yield from _walk(self.local)
            return
        if not self.writable:
            raise CacheError(f"{self.url} has no listing of what it holds", hint="name the cache by its s3 or file URL")
        import obstore

        with self._explained("", sought=False):
            for page in obstore.list(self._store, chunk_size=most or 1000):
                for item in page:
                    yield Listed(item["path"], item["size"], item["e_tag"], item["last_modified"].timestamp())

    # --- errors --------------------------------------------------------------------------------------

    @property
    def _store(self) -> Any:
        return self._client

    @contextmanager
    def _explained(self, name: str, *, sought: bool = True) -> Iterator[None]:
        """Turn errors of the client into ours.

        :param sought: whether an object is asked for that need not be there; else that there is no such place is an
            error.
        """
        where = f"{name} in {self.url}" if name else self.url
        absent = Missing() if sought else CacheError(f"{where}: there is no such place", hint="check the cache's URL")
        try:
            yield
        except (Missing, Exists, Changed, Unchanged, CacheError):
            raise
        except FileNotFoundError as error:
            raise (self._no_bucket(str(error)) or absent) from None
        except (NotADirectoryError, IsADirectoryError, FileExistsError) as error:  # a file for a directory, or reverse
            what = error.filename or where
            raise CacheError(
                f"cannot use the cache {self.url}: {what}: {error.strerror}", hint="name a directory, or move that away"
            ) from None
        except PermissionError as error:
            if self.local is not None:
                raise CacheError(f"{where}: {error.strerror}", hint="run as the owner of that directory") from error
            raise self._refused(where, str(error)) from None
        except OSError as error:
            if self.local is not None:
                raise host_error(error, f"cannot use the cache {self.url}") from error
            raise self._failed(where, str(error)) from None
        except Exception as error:
            import obstore.exceptions as known

            if not isinstance(error, known.BaseError | ValueError | NotImplementedError):
                raise
            text = str(error)
            if isinstance(error, known.NotFoundError):
                raise (self._no_bucket(text) or absent) from None
            if isinstance(error, known.AlreadyExistsError):
                raise Exists from None
            if isinstance(error, known.PreconditionError):
                raise Changed from None
            if isinstance(error, known.NotModifiedError):
                raise Unchanged from None
            if isinstance(error, known.PermissionDeniedError | known.UnauthenticatedError):
                raise self._refused(where, text) from None
            raise self._failed(where, text) from None

    def _no_bucket(self, text: str) -> CacheError | None:
        if "<Code>NoSuchBucket</Code>" not in text:
            return None
        return CacheError(f"there is no bucket for {self.url}", hint="check its name and region, or make it first")

    def _refused(self, where: str, text: str) -> CacheError:
        status = _STATUS.search(text)
        kind = urlsplit(self.url).scheme
        hint = {
            "s3": "check the credentials (AWS_ACCESS_KEY_ID, AWS_PROFILE, ~/.aws) and the bucket's policy; "
            "a bucket that all may read is named with anonymous=true",
            "http": "put user and password into ~/.netrc, or check the server's access rules",
        }
        reason = f"HTTP status {status[1]}" if status else first_line(text)
        return CacheError(
            f"access to {where} is refused: {reason}",
            hint=hint.get(kind if kind == "s3" else kind.removesuffix("s"), "check the credentials and the address"),
        )

    def _failed(self, where: str, text: str) -> CacheError | HostError:
        if error := self._no_bucket(text):
            return error
        status = _STATUS.search(text)
        if status and status[1] in ("401", "403"):
            return self._refused(where, text)
        if status and status[1] == "407":
            return CacheError(
                f"a proxy wants a password before it lets us ask for {where} (HTTP status 407)",
                hint="put it into http_proxy and https_proxy as http://USER:PASSWORD@HOST:PORT, "
                "or name the host in no_proxy",
            )
        if status:
            return CacheError(
                f"{where}: the server answers with HTTP status {status[1]}",
                hint="check the address; where it is right, the server is at fault: run it again later",
            )
        return CacheError(f"{where}: {_reason(text)}", hint="check the address and the network, then run it again")


class _PieceReader(io.RawIOBase):
    """Pieces of bytes as a file to be read once."""

    def __init__(self, first: bytes, rest: Iterator[bytes]) -> None:
        self._piece = memoryview(first)
        self._rest = rest

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._piece:
            self._piece = memoryview(next(self._rest, b""))
        count = min(len(buffer), len(self._piece))
        buffer[:count] = self._piece[:count]
        self._piece = self._piece[count:]
        return count


def _local_path(host: str, path: str) -> Path:
    from urllib.parse import unquote

    if host not in ("", "localhost") or not path.startswith("/"):
        raise CacheError(f"file://{host}{path} names no directory of this machine", hint="write file:///DIR")
    return Path(unquote(path))


def _local_etag(status: os.stat_result) -> str:
    return f"{status.st_ino:x}-{status.st_mtime_ns:x}-{status.st_size:x}"


def _walk(top: Path) -> Iterator[Listed]:
    if not top.exists():
        return
    pending = [""]
    while pending:
        prefix = pending.pop()
        with os.scandir(top / prefix) as entries:
            for entry in entries:
                if entry.name.startswith("."):
                    continue
                if entry.is_dir(follow_symlinks=False):
                    pending.append(f"{prefix}{entry.name}/")
                else:
                    with suppress(FileNotFoundError):
                        status = entry.stat()
                        yield Listed(f"{prefix}{entry.name}", status.st_size, _local_etag(status), status.st_mtime)


def _reason(text: str) -> str:
    """Return the innermost cause that the client tells, in words."""
    for sign, words in (
        ("ConnectionRefused", "the connection is refused"),
        ("dns error", "the host's name is not known"),
        ("TimedOut", "the server does not answer in time"),
        ("Connect", "no connection can be made"),
        ("Interrupted", "the connection broke"),
        ("IncompleteMessage", "the connection broke"),
        ("certificate", "the server's certificate is not trusted"),
    ):
        if sign in text:
            return words
    return first_line(text)
