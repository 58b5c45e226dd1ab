"""Signing a whole cache with another key, without touching a NAR.

Only the ``Sig`` lines of narinfos change, and the index after them; whoever reads meanwhile finds the old signatures
or the new ones. Statements beside bundles are signed as well: whoever trusts the new key only would be refused the
bundles else. A run that was stopped is finished by the next.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial

from pgbake.cache.cache import BinaryCache, in_parallel
from pgbake.cache.gc import STATEMENT, require_writable, tell_waiting
from pgbake.cache.index import change_index
from pgbake.cache.inventory import narinfo_names
from pgbake.cache.lease import lease
from pgbake.cache.objects import Changed, Missing
from pgbake.errors import CacheError, FormatError
from pgbake.events import Finished, Progressed, Sink, Started
from pgbake.formats.keys import SecretKey, TrustedKeys
from pgbake.formats.narinfo import MAX_NARINFO, NarInfo
from pgbake.formats.statement import MAX_STATEMENT, SignedStatement
from pgbake.formats.storepath import StorePath

_SIGNATURE = "Sig:"


@dataclass(frozen=True, slots=True)
class Resigned:
    """What signing a cache did, or would do.

    :param changed: paths whose signatures changed; ``unchanged``: how many bore the same already.
    :param passed_over: paths and statements that were not signed, and why.
    :param statements: how many statements have other signatures now.
    """

    changed: tuple[StorePath, ...]
    unchanged: int
    passed_over: dict[str, str]
    statements: int = 0


@dataclass(frozen=True, slots=True)
class _Change:
    name: str
    etag: str | None
    info: NarInfo
    text: str


@dataclass(frozen=True, slots=True)
class _Restated:
    name: str
    etag: str | None
    text: str


def sign_cache(
    cache: BinaryCache,
    keys: Sequence[SecretKey],
    report: Sink,
    *,
    remove: Sequence[str] = (),
    trusted: TrustedKeys | None = None,
    dry_run: bool = False,
) -> Resigned:
    """Add the signatures of keys to all paths of a cache, and take those of others away.

    :param remove: names of keys whose signatures go.
    :param trusted: sign only what one of these has signed, or what certifies itself; None signs everything.
    :param dry_run: only find out.
    :raises CacheError: the cache refuses, does not answer, can only be read, or paths would be left without a
        signature: nothing was changed then.
    """
    require_writable(cache)
    if dry_run:
        return _sign(cache, keys, report, remove, trusted, write=False)
    with lease(cache.objects, "pgbake cache sign", partial(tell_waiting, cache, report)):
        return _sign(cache, keys, report, remove, trusted, write=True)


def _sign(
    cache: BinaryCache,
    keys: Sequence[SecretKey],
    report: Sink,
    remove: Sequence[str],
    trusted: TrustedKeys | None,
    *,
    write: bool,
) -> Resigned:
    passed_over: dict[str, str] = {}

    def look(name: str) -> _Change | NarInfo | None:
        try:
            content = cache.objects.get(name, MAX_NARINFO)
            text = content.data.decode()
            info = NarInfo.parse(text)
        except Missing:  # it went meanwhile
            return None
        except (FormatError, UnicodeDecodeError) as error:
            passed_over[name] = f"it is damaged: {error}"
            return None
        signed = trusted is None or info.certifies_itself or trusted.signers(info.fingerprint, info.signatures)
        if not signed:
            passed_over[name] = f"{info.path} is signed by none of the keys named"
            return None
        after = _with_signatures(text, info, keys, remove)
        return _Change(name, content.etag, NarInfo.parse(after), after) if after != text else info

    def look_beside(name: str) -> _Restated | None:
        try:
            content = cache.objects.get(name, MAX_STATEMENT)
            signed = SignedStatement.parse(content.data)
        except Missing:
            return None
        except FormatError as error:
            passed_over[name] = f"it is damaged: {error}"
            return None
        if trusted is not None and not trusted.signers(signed.signed_bytes, signed.signatures):
            passed_over[name] = "it is signed by none of the keys named"
            return None
        kept = tuple(signature for signature in signed.signatures if signature.name not in remove)
        after = SignedStatement(signed.payload, kept).signed_by(keys)
        return _Restated(name, content.etag, after.to_json().decode()) if after != signed else None

    looked = in_parallel(look, narinfo_names(cache))
    changes = [item for item in looked if isinstance(item, _Change)]
    bare = [c.info.path for c in changes if not c.info.signatures and not c.info.certifies_itself]
    if bare:
        raise CacheError(
            f"{len(bare)} paths would be left without any signature, {min(bare)} among them",
            hint="sign with another key in the same run: --key FILE",
        )
    names = [item.name for item in cache.objects.list() if STATEMENT.fullmatch(item.name)]
    restated = [item for item in in_parallel(look_beside, names) if item is not None]
    if write:
        _write(cache, [*restated, *changes], report)
        # All of them: a run that was stopped may have signed some and not written it down.
        infos = [item.info if isinstance(item, _Change) else item for item in looked if item is not None]
        if cache.index() is not None:
            change_index(cache.objects, cache.copies, infos)
            cache.forget()
    return Resigned(
        tuple(sorted(change.info.path for change in changes)),
        sum(isinstance(item, NarInfo) for item in looked),
        dict(sorted(passed_over.items())),
        len(restated),
    )


def _with_signatures(text: str, info: NarInfo, keys: Sequence[SecretKey], remove: Sequence[str]) -> str:
    made = {key.name: key.sign(info.fingerprint) for key in keys}
    kept = [s for s in info.signatures if s.name not in remove and s.name not in made]
    # All other lines stay as they are, those that we do not know, too.
    lines = [line for line in text.splitlines() if not line.startswith(_SIGNATURE)]
    lines += [f"{_SIGNATURE} {signature}" for signature in sorted([*kept, *made.values()])]
    if sorted(lines) == sorted(text.splitlines()):
        return text
    return "\n".join(lines) + "\n"


def _write(cache: BinaryCache, changes: Sequence[_Change | _Restated], report: Sink) -> None:
    if not changes:
        return
    begin = time.monotonic()
    report(Started("sign", "sign", cache.url, len(changes)))
    done = 0

    def put(change: _Change | _Restated) -> None:
        nonlocal done
        try:
            cache.objects.put(change.name, change.text.encode(), etag=change.etag)
        except Changed:
            raise CacheError(
                f"{change.name} in {cache.url} was written by somebody else meanwhile", hint="run it again"
            ) from None
        done += 1
        report(Progressed("sign", done))

    in_parallel(put, changes)
    report(Finished("sign", "done", time.monotonic() - begin))
