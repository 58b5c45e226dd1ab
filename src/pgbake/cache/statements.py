"""Signed statements beside the paths of a binary cache.

    statements/DIGEST/KIND.json         one envelope for each kind, with any number of signatures

A static cache has no listing, so the name follows from path and kind; see :mod:`pgbake.formats.statement`.
"""

from __future__ import annotations

from collections.abc import Iterable

from pgbake.cache.cache import BinaryCache
from pgbake.cache.index import alone
from pgbake.cache.inventory import is_bundle_name
from pgbake.cache.objects import Changed, Exists, Missing
from pgbake.cache.substituters import Check, Source
from pgbake.errors import CacheError, FormatError, PgbakeError
from pgbake.formats.narinfo import NarInfo
from pgbake.formats.statement import KINDS, MAX_STATEMENT, SignedStatement
from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore
from pgbake.store.statements import keep_statement, kept_statements
from pgbake.trust import Trust

#: How often one is written anew when others write it at the same time.
_ATTEMPTS = 10


def statement_name(path: StorePath, kind: str) -> str:
    """Return the name of the object that holds a path's statement."""
    return f"statements/{path.digest}/{kind}.json"


def store_statement(cache: BinaryCache, signed: SignedStatement) -> bool:
    """Put a statement into a cache, beside the signatures that the same one bears there; another of its kind goes.

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
            after = signed
            if before is not None and before.payload == signed.payload:
                after = signed.merged(before.signatures)
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
    hint = f'push it with the bundle, or take "{kind}" out of statements, below [trust]'
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
    raise CacheError(
        f"{path} lacks the statement {kind} that is required: {reason}",
        hint=hint,
        detail="\n".join(problems[1:]) or None,
    )


def demanding(trust: Trust, sources: Iterable[Source]) -> Check:
    """Return :meth:`Trust.check`, which demands of bundles the statements that the user wants, too.

    :param sources: where those may lie: a statement need not be in the cache that the bundle comes from.
    """
    if not trust.statements:
        return trust.check
    caches = [source for source in sources if isinstance(source, BinaryCache)]

    def check(info: NarInfo, where: str) -> None:
        trust.check(info, where)
        if is_bundle(info.path):
            require_statements(caches, info.path, info.nar_sha256, trust)

    return check


def is_bundle(path: StorePath) -> bool:
    """Whether the merge could have named a path so."""
    return is_bundle_name(path.name)


def take_statements(store: LocalStore, sources: Iterable[Source], path: StorePath) -> None:
    """Keep what statements caches have about the contents of a path that was pulled, so that pushes bring them on.

    :raises CacheError: a cache refuses, or does not answer.
    :raises StoreError: the store cannot be written.
    """
    info = store.info(path)
    for source in sources:
        if isinstance(source, BinaryCache):
            for kind in KINDS:
                signed, _ = _get(source, statement_name(path, kind))
                if signed is not None and _is_about(signed, path, kind, info.nar_sha256):
                    keep_statement(store, signed)


def bring_statements(store: LocalStore, cache: BinaryCache, paths: Iterable[StorePath]) -> int:
    """Put what statements are kept about the contents of paths beside them into a cache; return how many were new.

    :raises CacheError: see :func:`store_statement`.
    """
    new = 0
    for path in paths:
        for kind, signed in kept_statements(store, path).items():
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
