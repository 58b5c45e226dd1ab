"""Pushes and pulls for tests, and what must hold after each, whatever happened in it."""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pgbake.cache.cache import BinaryCache
from pgbake.cache.index import NAME, Index
from pgbake.cache.pull import PullResult, pull
from pgbake.cache.push import PushResult, push
from pgbake.cache.substituters import Substituters, by_priority
from pgbake.errors import PgbakeError
from pgbake.events import Sink, silent
from pgbake.formats.keys import SecretKey, TrustedKeys
from pgbake.formats.narinfo import NarInfo
from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore
from pgbake.store.tree import hash_tree
from pgbake.trust import Trust
from tests.closures import Closure, make_closure, secret_key
from tests.s3 import S3Server

OURS = secret_key()

_OBJECT = re.compile(
    rf"nix-cache-info|{NAME}|[0-9a-z]{{32}}\.narinfo|nar/[0-9a-z]{{52}}\.nar(\.(zst|xz))?|(roots|statements)/[^.].*\.json"
)


@dataclass
class Place:
    """A test's directory, with a store that has a closure and one that is to get it."""

    directory: Path
    source: LocalStore
    target: LocalStore

    @classmethod
    def make(cls, directory: Path) -> Place:
        """Make both stores, empty."""
        (directory / "cache").mkdir()
        return cls(directory, LocalStore(directory / "source"), LocalStore(directory / "target"))

    def close(self) -> None:
        """Close both stores."""
        self.source.close()
        self.target.close()

    @property
    def cache(self) -> Path:
        """A directory for a cache."""
        return self.directory / "cache"

    @property
    def url(self) -> str:
        """Its URL."""
        return self.cache.as_uri()

    def push(
        self, closure: Closure, url: str | None = None, key: SecretKey | None = OURS, report: Sink = silent
    ) -> PushResult:
        """Push a closure."""
        cache = BinaryCache(url or self.url, self.directory / "copies")
        return push(self.source, cache, [closure.top], [key] if key else [], report)

    def pushed(self, word: str = "", url: str | None = None, *, leaves: int = 0, size: int = 20_000) -> Closure:
        """Make a closure and push it."""
        closure = make_closure(self.source, word, leaves=leaves, size=size)
        self.push(closure, url)
        return closure

    def pull(
        self,
        goals: Closure | Iterable[StorePath],
        *urls: str,
        store: LocalStore | None = None,
        keys: Iterable[SecretKey] = (OURS,),
        report: Sink = silent,
    ) -> PullResult:
        """Pull a closure, or paths and all that they refer to, from caches in this order."""
        problems: list[PgbakeError] = []
        caches = [BinaryCache(url, self.directory / "copies") for url in urls or (self.url,)]
        trust = Trust(TrustedKeys(tuple(key.public for key in keys)))
        substituters = Substituters(by_priority(caches, problems), trust.check, problems)
        wanted = [goals.top] if isinstance(goals, Closure) else goals
        return pull(store or self.target, substituters, wanted, report)

    def object_of(self, path: StorePath) -> Path:
        """Return the file of a path's NAR in the directory's cache."""
        return self.cache / self.narinfo(path).url

    def narinfo(self, path: StorePath) -> NarInfo:
        """Return what the directory's cache tells of a path."""
        return NarInfo.parse(self.narinfo_file(path).read_text())

    def narinfo_file(self, path: StorePath) -> Path:
        """Return the file that tells of a path."""
        return self.cache / f"{path.digest}.narinfo"

    def forget_index(self) -> None:
        """Make the directory's cache one that another tool wrote."""
        (self.cache / NAME).unlink()


def check_store(store: LocalStore, closure: Iterable[StorePath] = ()) -> set[StorePath]:
    """Make sure that all that is valid in a store is whole, with all that it refers to, and nothing else lies there.

    :param closure: paths that must be valid.
    """
    valid = set(store.database.paths())
    for path in valid:
        info = store.info(path)
        assert hash_tree(store.physical(path)).sha256 == info.nar_sha256
        assert info.references <= valid
    assert set(closure) <= valid
    there = {name for name in os.listdir(store.store_dir) if name != ".links"}  # noqa: PTH208
    assert there == {path.basename for path in valid}, there - {path.basename for path in valid}
    return valid


def check_cache(objects: dict[str, Callable[[], bytes]], closure: Iterable[StorePath] = ()) -> set[StorePath]:
    """Make sure that all that a cache tells of is there, whole, with all that it refers to.

    :param objects: all its names, and what gives the content of each.
    :param closure: paths that it must have, and its index too.
    """
    infos = {}
    for name in objects:
        if name.endswith(".narinfo"):
            info = NarInfo.parse(objects[name]().decode())
            assert name == f"{info.path.digest}.narinfo"
            infos[info.path] = info
    for info in infos.values():
        assert info.url in objects, f"{info.path} is told of, and its NAR is not there"
        file = objects[info.url]()
        assert (len(file), hashlib.sha256(file).digest()) == (info.file_size, info.file_sha256)
        assert info.references <= infos.keys(), f"{info.path} is told of before what it refers to"
    index = Index.parse(objects[NAME]()) if NAME in objects else Index({})
    assert index.texts.keys() <= {path.digest for path in infos}
    assert set(closure) <= infos.keys()
    assert {path.digest for path in closure} <= index.texts.keys()
    return set(infos)


def check_directory(cache: Path, closure: Iterable[StorePath] = ()) -> set[StorePath]:
    """See :func:`check_cache`; nothing of an interrupted write may lie there, either."""
    files = {str(file.relative_to(cache)): file for file in cache.rglob("*") if file.is_file()}
    strange = [name for name in files if not _OBJECT.fullmatch(name)]
    assert not strange, strange
    return check_cache({name: file.read_bytes for name, file in files.items()}, closure)


def check_bucket(server: S3Server, prefix: str, closure: Iterable[StorePath] = ()) -> set[StorePath]:
    """See :func:`check_cache`."""

    def reader(name: str) -> Callable[[], bytes]:
        return lambda: server.read(f"{prefix}/{name}")

    return check_cache({name: reader(name) for name in server.objects(prefix)}, closure)
