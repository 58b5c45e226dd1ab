"""Several caches together, asked by priority: who has a path, and whether it is to be believed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

from pgbake.cache.cache import Damaged, in_parallel
from pgbake.errors import CacheError, PgbakeError
from pgbake.formats.narinfo import NarInfo
from pgbake.formats.storepath import StorePath

#: Raises where a narinfo of a cache, named for messages, is not signed by whom the user trusts.
Check = Callable[[NarInfo, str], None]


class Source(Protocol):
    """Where paths come from: a binary cache, or another local store."""

    @property
    def url(self) -> str:
        """What it is called in messages."""

    @property
    def trusted(self) -> bool:
        """Whether it is believed without signatures."""

    @property
    def priority(self) -> int:
        """Lower is asked first."""

    def query(
        self, paths: Iterable[StorePath], sure: Iterable[StorePath] = (), damaged: list[Damaged] | None = None
    ) -> dict[StorePath, NarInfo]:
        """Return what it has; see :meth:`pgbake.cache.cache.BinaryCache.query`."""

    def by_name(self, paths: Iterable[StorePath]) -> dict[StorePath, NarInfo]:
        """Return what it has of paths that it told of from a list, asked for one by one; nothing where that is all."""

    def open_nar(self, info: NarInfo, stop: threading.Event) -> AbstractContextManager[BinaryIO]:
        """Give the file of a NAR, as compressed as ``info`` says, as a stream.

        :raises Missing: it is not there.
        """


@dataclass(frozen=True, slots=True)
class Offer:
    """A path that a cache has, and that is to be believed once its contents have the hash that was signed."""

    cache: Source
    info: NarInfo


@dataclass
class Substituters:
    """Caches in the order in which they are asked, and what they answered.

    :param caches: see :func:`by_priority`.
    :param check: decides whether a narinfo is to be believed.
    """

    caches: Sequence[Source]
    check: Check
    #: What caches did wrong, for the user to be told at the end: each cache is named once for each kind of fault.
    problems: list[PgbakeError] = field(default_factory=list)
    #: Of paths that were found and not believed: why, the last one.
    refused: dict[StorePath, PgbakeError] = field(default_factory=dict)
    _known: dict[StorePath, list[Offer]] = field(default_factory=dict)
    _broken: set[Source] = field(default_factory=set)
    _named: set[tuple[Source, type[PgbakeError]]] = field(default_factory=set)
    _refusals: dict[StorePath, list[tuple[Source, PgbakeError]]] = field(default_factory=dict)

    def offers(self, paths: Iterable[StorePath], sure: Iterable[StorePath] = ()) -> dict[StorePath, list[Offer]]:
        """Return who offers each path, in the order of the caches; a path that nobody offers is left out.

        What was found before is not asked for again; what was not is.

        :param sure: see :meth:`BinaryCache.query`.
        """
        sure = set(sure)
        paths = {*paths, *sure}
        missing = paths - self._known.keys()

        def ask(cache: Source) -> Mapping[StorePath, NarInfo]:
            if cache in self._broken:
                return {}
            damaged: list[Damaged] = []
            try:
                return cache.query(missing, sure & missing, damaged)
            except CacheError as error:
                # One that fails is not asked again in this run: each further question would cost its time-out.
                self._broken.add(cache)
                self.problems.append(error)
                return {}
            finally:
                for each in damaged:
                    self._refuse(cache, each.path, each)

        def ask_and_check(cache: Source) -> dict[StorePath, NarInfo | PgbakeError]:
            checked = {path: self._checked(cache, info) for path, info in ask(cache).items()}
            # An index may lack signatures that another tool has added since.
            if doubted := [path for path, answer in checked.items() if isinstance(answer, PgbakeError)]:
                with suppress(CacheError):
                    checked |= {path: self._checked(cache, info) for path, info in cache.by_name(doubted).items()}
            return checked

        answers = in_parallel(ask_and_check, self.caches) if missing else []
        for path in missing:
            found = []
            for cache, answer in zip(self.caches, answers, strict=True):
                told = answer.get(path)
                if isinstance(told, NarInfo):
                    found.append(Offer(cache, told))
                elif told is not None:
                    self._refuse(cache, path, told)
            if found:
                self._known[path] = found
                self._tell(path)
        return {path: self._known[path] for path in paths if self._known.get(path)}

    def _checked(self, cache: Source, info: NarInfo) -> NarInfo | PgbakeError:
        """Return a narinfo that is to be believed, or why another is not."""
        try:
            if not cache.trusted:
                self.check(info, cache.url)
        except PgbakeError as error:
            return error
        return info

    def _refuse(self, cache: Source, path: StorePath, error: PgbakeError) -> None:
        self.refused[path] = error
        self._refusals.setdefault(path, []).append((cache, error))

    def _tell(self, path: StorePath) -> None:
        """Note who offered a path that is not to be believed, where another made it good."""
        for cache, error in self._refusals.get(path, ()):
            if (cache, type(error)) not in self._named:
                self._named.add((cache, type(error)))
                self.problems.append(error)

    def closure(
        self, goals: Iterable[StorePath], valid: Callable[[Iterable[StorePath]], set[StorePath]]
    ) -> dict[StorePath, list[Offer]]:
        """Return the offers of paths and of all that they refer to and that is not valid here.

        :param valid: says which paths are in the store already.
        :raises CacheError: a path, or one that it refers to, is offered by nobody; what the caches said is told.
        """
        found: dict[StorePath, list[Offer]] = {}
        wave = set(goals)
        named_by = {path: path for path in wave}
        while wave := wave - found.keys() - valid(wave - found.keys()):
            # What an index lacks is asked for by name: a closure must be complete.
            offers = self.offers(wave, sure=wave)
            for path in sorted(wave):
                if path not in offers:
                    raise self.lacking(path, named_by[path])
            found |= offers
            named_by |= {new: path for path, (first, *_) in offers.items() for new in first.info.references}
            wave = {reference for path in offers for reference in offers[path][0].info.references}
        return found

    def unbelieved(self) -> dict[StorePath, PgbakeError]:
        """Return the paths that caches have, and that none of them has in a form that is to be believed, and why."""
        return {path: self.refused[path] for path in sorted(self.refused) if path not in self._known}

    def give_up(self, path: StorePath) -> None:
        """Take no offer of a path any more: what all of them gave was wrong."""
        self._known[path] = []

    def lacking(self, path: StorePath, named_by: StorePath | None = None) -> PgbakeError:
        """Return the error for a path that nobody offers: why, as far as the caches told."""
        if path in self.refused:
            return self.refused[path]
        what = f"{path}" if named_by in (None, path) else f"{path}, which {named_by} refers to,"
        if self.problems and self._broken >= set(self.caches):
            *others, last = self.problems
            return CacheError(
                f"no cache answers that was asked for {what}: {last}",
                detail="\n".join(str(problem) for problem in others) or None,
                hint=last.hint,
            )
        if not self.caches:
            return CacheError(
                f"{what} is not in the store, and no cache is known",
                hint="name one with --from URL, or in the manifest",
            )
        where = ", ".join(cache.url for cache in self.caches)
        if self.problems:
            return CacheError(
                f"{what} is in none of the caches that answered; asked: {where}",
                detail="\n".join(str(problem) for problem in self.problems),
                hint=self.problems[-1].hint,
            )
        return CacheError(f"{what} is in none of the caches: {where}", hint="push it there, or build it here")


def by_priority(caches: Iterable[Source], problems: list[PgbakeError]) -> list[Source]:
    """Sort caches by priority, lower first; those of one priority stay in their order.

    :param problems: takes the errors of caches that cannot be asked; those are left out.
    """
    caches = list(caches)

    def priority(cache: Source) -> int | None:
        try:
            return cache.priority
        except CacheError as error:
            problems.append(error)
            return None

    if len(caches) < 2:  # the only one comes first whatever it says
        return caches
    answers = in_parallel(priority, caches)
    ranked = [(rank, cache) for rank, cache in zip(answers, caches, strict=True) if rank is not None]
    return [cache for _, cache in sorted(ranked, key=lambda item: item[0])]
