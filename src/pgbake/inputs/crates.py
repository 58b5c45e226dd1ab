"""Crates: what a Cargo.lock names, pinned one by one, so that a build vendors them and cargo asks nobody.

Cargo.lock tells names, versions and hashes. A crate's size is learned by fetching it, once; it stays among the
downloads, where the build takes it from.
"""

from __future__ import annotations

import re
import tarfile
import threading
import time
import tomllib
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path, PurePosixPath

from pgbake.errors import InputError
from pgbake.events import Event, Planned, Sink
from pgbake.inputs.pins import Pin
from pgbake.inputs.registry import MANIFEST_HINT, fill
from pgbake.inputs.upstream import pin_url

_NAME = re.compile(r"[A-Za-z0-9_-]+")
_VERSION = re.compile(r"[A-Za-z0-9+._-]+")
_DIGEST = re.compile(r"[0-9a-f]{64}")
#: What may stand for the registry in a Cargo.lock, in place of its URL; the build puts in what cargo calls it.
NEUTRAL = "registry"
#: At a time; each is small.
_JOBS = 8
_ATTEMPTS = 3


def parse_cargo_lock(text: str, where: str) -> list[tuple[str, str, str]]:
    """Return name, version and sha256 of each crate that a Cargo.lock takes from the registry, in its order.

    :param where: names it in errors.
    :raises InputError: it is damaged, or takes something from elsewhere.
    """
    try:
        packages = tomllib.loads(text).get("package", [])
        named = [(p["name"], p["version"], p.get("source"), p.get("checksum", "")) for p in packages]
    except (tomllib.TOMLDecodeError, KeyError, TypeError, AttributeError) as error:
        raise InputError(f"{where} is damaged: {error}", hint="make it anew: cargo generate-lockfile") from None
    found: list[tuple[str, str, str]] = []
    registries: dict[str, str] = {}
    for name, version, source, checksum in named:
        if source is None:  # a part of the program itself
            continue
        if source != NEUTRAL and not str(source).startswith(("registry+", "sparse+")):
            raise InputError(
                f"{where} takes {name} {version} from {source}",
                hint="a build can have crates of one registry only: depend on a published version of it",
            )
        registries.setdefault(source, name)
        fits = _NAME.fullmatch(str(name)) and _VERSION.fullmatch(str(version)) and _DIGEST.fullmatch(str(checksum))
        if not fits:
            raise InputError(f"{where} has no hash of {name} {version}", hint="make it anew: cargo generate-lockfile")
        found.append((name, version, checksum))
    if len(registries) > 1:
        raise InputError(
            f"{where} takes {' and '.join(registries.values())} from different registries",
            hint="a build can have crates of one registry only",
        )
    return found


def cargo_lock_of(source: Path, directory: str, what: str) -> str:
    """Return the Cargo.lock of a source: that of the directory in which it is built, or of one above.

    :param source: a directory, or a tarball with one directory at its top.
    :param directory: below it.
    :param what: names the source in errors.
    :raises InputError: there is none.
    """
    inner = PurePosixPath(directory or ".")
    wanted = [str(at / "Cargo.lock") for at in (inner, *inner.parents)]
    if source.is_dir():
        for name in wanted:
            if (source / name).is_file():
                return (source / name).read_text(encoding="utf-8", errors="replace")
    else:
        try:
            with tarfile.open(source) as archive:
                members = {
                    member.name.removeprefix("./").partition("/")[2]: member
                    for member in archive
                    if member.isfile() and member.name.endswith("/Cargo.lock")
                }
                for name in wanted:
                    stream = archive.extractfile(members[name]) if name in members else None
                    if stream is not None:
                        return stream.read().decode(errors="replace")
        except (tarfile.TarError, OSError, EOFError) as error:
            raise InputError(f"cannot read the source of {what}: {error}", hint="is it a tarball?") from None
    raise InputError(
        f"the source of {what} has no Cargo.lock, which pins its crates",
        hint="make one, and keep it with the source: cargo generate-lockfile",
    )


def crate_sizes(
    wanted: Iterable[tuple[str, str, str]],
    known: Mapping[str, int],
    bases: Callable[[], Sequence[str]],
    downloads: Path,
    report: Sink,
    where: str,
) -> dict[str, int]:
    """Return the size of each crate by its sha256; those of which it is not known are fetched.

    :param wanted: name, version and sha256 of each.
    :param bases: finds the registry's templates; asked only where something is to be fetched.
    :param known: by sha256, the sizes of those that an earlier lock pins, which are not fetched.
    :param where: names the Cargo.lock in errors.
    :raises InputError: the registry does not give one of them, or another file.
    :raises HostError: it is not known where crates are fetched from.
    """
    crates = list(wanted)
    sizes = dict(known)
    missing: list[tuple[str, str, str]] = []
    for name, version, digest in crates:
        if digest not in sizes:
            try:
                sizes[digest] = (downloads / f"{digest}-{name}-{version}.crate").stat().st_size
            except OSError:
                missing.append((name, version, digest))
    if missing:
        report(Planned("fetch", len(missing)))
        serial = threading.Lock()

        def told(event: Event) -> None:
            with serial:
                report(event)

        found = bases()
        with ThreadPoolExecutor(_JOBS) as pool:
            done = [pool.submit(fetch_crate, *crate[:2], found, downloads, told, crate[2], where) for crate in missing]
            try:
                for (_, _, digest), made in zip(missing, done, strict=True):
                    sizes[digest] = made.result().size
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise
    return sizes


def fetch_crate(
    name: str,
    version: str,
    bases: Sequence[str],
    downloads: Path,
    report: Sink,
    sha256: str | None = None,
    where: str | None = None,
) -> Pin:
    """Fetch a crate to learn its size, and its hash where that is not known; it stays among the downloads.

    :param bases: the registry's templates.
    :param where: names the Cargo.lock that asks for it, in errors; None where a recipe does.
    :raises InputError: the registry does not give it, or another file than ``sha256`` says.
    """
    path = crate_path(name, version)
    failed: list[InputError] = []
    for attempt in range(_ATTEMPTS):
        for base in bases:
            try:
                file = f"{name}-{version}.crate"
                pin = pin_url(fill(base, path), version, downloads, report, sha256, name=file)
            except InputError as error:
                failed.append(error)
            else:
                return Pin(version=version, path=path, size=pin.size, sha256=pin.sha256, archive="crates")
        if all(_is_final(error) for error in failed):
            break  # asking once more changes nothing
        time.sleep(attempt)
    if not all(_is_final(error) for error in failed):
        hint = "is there a network? or name another registry in the manifest: "
    elif not where:
        hint = "see `source` in the recipe; or name a registry that has it in the manifest: "
    elif any("wrong content" in error.message for error in failed):
        hint = "make Cargo.lock anew: cargo generate-lockfile; or name a registry that has that file: "
    else:
        hint = "run `cargo update` in the source and then `pgbake lock`; or name a registry that has it: "
    raise InputError(
        f"the registry does not give the crate {name} {version}" + (f", which {where} names" if where else ""),
        hint=hint + MANIFEST_HINT,
        detail="\n".join(dict.fromkeys("\n".join(filter(None, (e.message, e.detail))) for e in failed)),
    )


def _is_final(error: InputError) -> bool:
    """Whether a registry has no such file, or another."""
    return "wrong content" in error.message or " 40" in error.message or error.message.startswith("cannot read")


def crate_path(name: str, version: str) -> str:
    """Return the path that a crate's pin has, whatever its registry."""
    return f"{name}/{name}-{version}.crate"
