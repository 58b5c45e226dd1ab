"""Signed statements beside the paths of a binary cache.

    statements/DIGEST/KIND.json         one envelope for each kind, with any number of signatures

A static cache has no listing, so the name follows from path and kind; see :mod:`pgbake.formats.statement`.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pgbake.cache.cache import BinaryCache
from pgbake.cache.index import alone
from pgbake.cache.objects import Changed, Exists, Missing
from pgbake.cache.roots import is_bundle_name
from pgbake.cache.substituters import Check, Source
from pgbake.errors import CacheError, FormatError, PgbakeError
from pgbake.formats.narinfo import NarInfo
from pgbake.formats.statement import KINDS, MAX_STATEMENT, SignedStatement
from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore
from pgbake.store.statements import keep_statement, kept_statements
from pgbake.trust import Trust

_HINTS = {
    "check": "its owner runs `pgbake check` and pushes it again; or take it as it is: pull or import it with "
    "--unchecked, or write statements = [] below [trust]"
}
#: Statements about one path by their kinds, not verified.
Brought = Mapping[str, SignedStatement]
#: How often one is written anew when others write it at the same time.
_ATTEMPTS = 10


def statement_name(path: StorePath, kind: str) -> str:
    """Return the name of the object that holds a path's statement."""
    return f"statements/{path.digest}/{kind}.json"


def store_statement(cache: BinaryCache, signed: SignedStatement) -> bool:
    """Put a statement into a cache, beside what is there; see :meth:`SignedStatement.beside`.

    :return: whether something was new.
    :raises CacheError: the cache refuses, does not answer, can only be read, or others write without end.
    """
    if not cache.objects.writable:
        raise CacheError(f"{cache.url} can only be read", hint="push to its s3 or file URL")
    said = signed.statement
    name = statement_name(said.path, said.kind)
    with alone(cache.objects):
        for _ in range(_ATTEMPTS):
            before, etag = _get(cache, name)
            after = signed.beside(before)
            if after == before:
                return False
            try:
                cache.objects.put(name, after.to_json(), new=etag is None, etag=etag)
            except (Exists, Changed):
                continue
            return True
    raise CacheError(f"{name} in {cache.url} is written by others without end", hint="run it again")


def fetch_statement(cache: BinaryCache, path: StorePath, kind: str) -> SignedStatement | None:
    """Return a path's statement of a kind, not verified; None where the cache has none.

    :raises CacheError: the cache refuses, does not answer, or what it has is damaged.
    """
    name = statement_name(path, kind)
    try:
        return SignedStatement.parse(cache.objects.get(name, MAX_STATEMENT).data)
    except Missing:
        return None
    except FormatError as error:
        raise CacheError(f"{name} in {cache.url} is damaged: {error}", hint="push the statement again") from None


def require_statements(
    caches: Iterable[BinaryCache], path: StorePath, nar_sha256: bytes, trust: Trust
) -> list[SignedStatement]:
    """Return a trusted statement about a bundle for each kind that the user wants, from the first cache that has one.

    :param nar_sha256: raw digest of the bundle's NAR, which is believed already.
    :raises CacheError: there is none of a kind, or it is not signed by whom the user trusts, or about other contents,
        or tells that checks failed; why each cache's is none is told.
    """
    caches = list(caches)
    return [_require(caches, path, nar_sha256, kind, trust) for kind in trust.statements]


def _require(caches: list[BinaryCache], path: StorePath, nar_sha256: bytes, kind: str, trust: Trust) -> SignedStatement:
    problems = []
    hint = None
    for cache in caches:
        try:
            signed = fetch_statement(cache, path, kind)
            if signed is not None:
                signed.verify(trust.keys, path, nar_sha256, kind)
                return signed
        except PgbakeError as error:
            problems.append(f"{cache.url}: {error}")
            hint = error.hint or hint
    asked = ", ".join(cache.url for cache in caches) or "any cache: none is known"
    reason = problems[0] if problems else f"no statement of that kind is in {asked}"
    raise _lacks(path, kind, reason, hint, "\n".join(problems[1:]) or None)


def demanding(trust: Trust, sources: Iterable[Source], brought: Mapping[StorePath, Brought] | None = None) -> Check:
    """Return :meth:`Trust.check`, which demands of bundles the statements that the user wants, too.

    :param sources: where those may lie: a statement need not be in the cache that the bundle comes from.
    :param brought: statements that came along otherwise, by what they are about; it may be filled later.
    """
    if not trust.statements:
        return trust.check
    caches = [source for source in sources if isinstance(source, BinaryCache)]

    def check(info: NarInfo, where: str) -> None:
        trust.check(info, where)
        if is_bundle(info.path):
            if brought is None:
                require_statements(caches, info.path, info.nar_sha256, trust)
            else:
                require_brought(brought.get(info.path, {}), info.path, info.nar_sha256, trust, where)

    return check


def require_brought(brought: Brought, path: StorePath, nar_sha256: bytes, trust: Trust, where: str) -> None:
    """Make sure that a trusted statement about a bundle of each kind that the user wants is among some.

    :param where: they lie, for the message.
    :raises CacheError: see :func:`require_statements`.
    """
    for kind in trust.statements:
        signed = brought.get(kind)
        if signed is None:
            raise _lacks(path, kind, f"no statement of that kind is in {where}")
        try:
            signed.verify(trust.keys, path, nar_sha256, kind)
        except PgbakeError as error:
            raise _lacks(path, kind, f"{where}: {error}", error.hint) from None


def require_checked(
    store: LocalStore, path: StorePath, trust: Trust, sources: Iterable[Source] = ()
) -> SignedStatement | None:
    """Make sure that a trusted key says of a bundle of the store that its checks have passed.

    Whoever brings a bundle to others, or into use elsewhere, asks this first; with ``trust`` of :meth:`Trust.unchecked`
    where the user wants it all the same.

    :param sources: caches to ask where the store does not keep the statement; none is asked else.
    :return: the statement; None where the user demands none.
    :raises CacheError: there is none; why is told, with what to type.
    :raises StoreError: the path is not valid.
    """
    if not trust.demands_checks or not is_bundle(path):
        return None
    nar_sha256 = store.info(path).nar_sha256
    kept = kept_statements(store, path).get("check")
    why = PgbakeError("none is kept in the store", hint="run `pgbake check` in its project; or go on with --unchecked")
    if kept is not None:
        try:
            kept.verify(trust.keys, path, nar_sha256, "check")
            return kept
        except PgbakeError as error:
            why = error
    if caches := [source for source in sources if isinstance(source, BinaryCache)]:
        return _require(caches, path, nar_sha256, "check", trust)
    raise _lacks(path, "check", str(why), why.hint)


def _lacks(path: StorePath, kind: str, reason: str, hint: str | None = None, detail: str | None = None) -> CacheError:
    hint = hint or _HINTS.get(kind) or f'push it with the bundle, or take "{kind}" out of statements, below [trust]'
    return CacheError(f"{path} lacks the statement {kind} that is required: {reason}", hint=hint, detail=detail)


def is_bundle(path: StorePath) -> bool:
    """Whether the merge could have named a path so."""
    return is_bundle_name(path.name)


def take_statements(store: LocalStore, sources: Iterable[Source], path: StorePath, trust: Trust | None = None) -> None:
    """Keep what statements caches have about the contents of a path that was pulled, so that pushes bring them on.

    :param trust: of several of a kind that say different things, one that is to be believed stays.
    :raises CacheError: a cache refuses, or does not answer.
    :raises StoreError: the store cannot be written.
    """
    nar_sha256 = store.info(path).nar_sha256
    caches = [source for source in sources if isinstance(source, BinaryCache)]
    for kind in KINDS:
        said = [_get(cache, statement_name(path, kind))[0] for cache in caches]
        keep_believed(store, [signed for signed in said if signed is not None], path, kind, nar_sha256, trust)


def keep_believed(
    store: LocalStore,
    said: Iterable[SignedStatement],
    path: StorePath,
    kind: str,
    nar_sha256: bytes,
    trust: Trust | None,
) -> None:
    """Keep those of some statements that are about a path's contents; see :func:`take_statements`."""
    kept = kept_statements(store, path).get(kind)
    said = [signed for signed in ([kept] if kept else []) + list(said) if _is_about(signed, path, kind, nar_sha256)]
    believed = [signed for signed in said if trust is not None and _is_believed(signed, path, kind, nar_sha256, trust)]
    for signed in said:
        if not believed or signed.payload == believed[0].payload:
            keep_statement(store, signed)


def _is_believed(signed: SignedStatement, path: StorePath, kind: str, nar_sha256: bytes, trust: Trust) -> bool:
    try:
        signed.verify(trust.keys, path, nar_sha256, kind)
    except PgbakeError:
        return False
    return True


def bring_statements(
    store: LocalStore, cache: BinaryCache, paths: Iterable[StorePath], made: Iterable[SignedStatement] = ()
) -> int:
    """Put what statements are kept about the contents of paths beside them into a cache; return how many were new.

    :param made: statements that are not kept, and go instead of those of the same kind.
    :raises CacheError: see :func:`store_statement`.
    """
    new = 0
    instead = {(signed.statement.path, signed.statement.kind): signed for signed in made}
    for path in paths:
        own = {kind: signed for (about, kind), signed in instead.items() if about == path}
        for kind, signed in (kept_statements(store, path) | own).items():
            if _is_about(signed, path, kind, store.info(path).nar_sha256):
                new += store_statement(cache, signed)
    return new


def _is_about(signed: SignedStatement, path: StorePath, kind: str, nar_sha256: bytes) -> bool:
    said = signed.statement
    return (said.path, said.kind, said.nar_sha256) == (path, kind, nar_sha256)


def _get(cache: BinaryCache, name: str) -> tuple[SignedStatement | None, str | None]:
    try:
        content = cache.objects.get(name, MAX_STATEMENT)
    except Missing:
        return None, None
    try:
        return SignedStatement.parse(content.data), content.etag
    except FormatError:
        return None, content.etag
