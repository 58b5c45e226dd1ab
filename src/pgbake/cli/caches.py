"""What several commands do alike with binary caches: find them, name paths, tell what went wrong and how much moved."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from pgbake.cli.app import App
from pgbake.errors import CacheError, PgbakeError
from pgbake.formats.storepath import StorePath
from pgbake.quantities import human_size

if TYPE_CHECKING:
    from pgbake.cache.cache import BinaryCache
    from pgbake.cache.substituters import Source, Substituters
    from pgbake.trust import Settings


def settings(app: App) -> Settings:
    """Return the caches and trusted keys of the project, or the machine's where there is no project here."""
    from pgbake.trust import load_settings

    return app.project.settings if app.has_project else load_settings()


def open_cache(url: str, priority: int | None = None) -> BinaryCache:
    """Return a client of a cache, which keeps copies of indexes in this user's cache directory."""
    from pgbake.cache.cache import BinaryCache
    from pgbake.cache.localsource import is_local_store
    from pgbake.places import cache_dir

    if is_local_store(url):
        raise CacheError(f"{url} is a store of this machine, and can only be pulled from", hint="name a cache")
    return BinaryCache(url, cache_dir() / "caches", priority)


def open_source(url: str, priority: int | None = None) -> Source:
    """Return a client of a cache, or of another local store."""
    from pgbake.cache.localsource import LocalSource, is_local_store

    return LocalSource(url, priority or 0) if is_local_store(url) else open_cache(url, priority)


def check_there(url: str) -> None:
    """Tell a mistyped directory from an empty cache.

    :raises CacheError: the URL is none, or that of a directory that is not there.
    """
    from pgbake.cache.localsource import is_local_store
    from pgbake.cache.objects import ObjectStore

    if not is_local_store(url) and (place := ObjectStore(url).local) is not None and not place.exists():
        raise CacheError(f"there is no cache in {place}", hint=f"`pgbake push --to {url}` makes one")


def substituters(
    app: App, urls: Sequence[str] = (), *, check_signatures: bool = True, unchecked: bool = False
) -> Substituters | None:
    """Return the caches to take paths from: those named, else those of the settings; None where there are none.

    :param check_signatures: off, what nobody trusted has signed is taken as well, and bundles need no statements.
    :param unchecked: bundles are taken as well of which nobody trusted says that their checks have passed.
    """
    from pgbake.cache.localsource import SCHEME, LocalSource
    from pgbake.cache.statements import demanding
    from pgbake.cache.substituters import Substituters, by_priority
    from pgbake.places import nix_has_taken_over

    found = settings(app)
    problems: list[PgbakeError] = []
    for url in urls:
        check_there(url)
    caches: list[Source] = [open_source(url) for url in urls]
    if not urls:
        caches = [open_source(setting.url, setting.priority) for setting in found.caches]
        if app.engine[0] == "local" and app.store_option is None and nix_has_taken_over():
            # What root had built at /nix is Nix's now; it is taken from there instead of built again.
            try:
                caches.insert(0, LocalSource(SCHEME))
            except CacheError as error:
                problems.append(error)
    if not caches:
        return None
    trust = found.trust
    if not check_signatures:
        import dataclasses

        trust = dataclasses.replace(trust, require_signatures=False, statements=())
    if unchecked:
        trust = trust.unchecked()
    caches = by_priority(caches, problems)
    return Substituters(caches, demanding(trust, caches), problems)


def tell_refusals(app: App, caches: Substituters) -> None:
    """Tell that paths which caches have are not taken: what is built for it may take hours."""
    refused = caches.unbelieved()
    if refused:
        first = next(iter(refused.values()))
        app.note(f"warning: {count(len(refused))} that caches have cannot be taken: {first}")
        if first.hint:
            app.note(f"hint: {first.hint}")


def tell_problems(app: App, problems: Iterable[PgbakeError]) -> None:
    """Tell what caches did wrong, each thing once, when the work is done all the same."""
    for text in dict.fromkeys(f"{problem}" for problem in problems):
        app.note(f"warning: {text}")


def name_paths(app: App, names: Iterable[str]) -> list[StorePath]:
    """Return the store paths that arguments mean: paths, links to them, or packages of the project's bundle; the
    bundle for none.

    :raises ManifestError: a name is neither.
    """
    from pgbake.cli.verify import chosen_paths

    found: list[StorePath] = []
    packages: list[str] = []
    for name in names:
        if "/" in name:
            found += chosen_paths(app, [name]) or []
        else:
            packages.append(name)
    if packages or not found:
        from pgbake.cli.goals import choose
        from pgbake.formats.system import host_system

        bundle = app.project.bundle(host_system())
        for goal in choose(bundle, packages).values():
            found += [goal.output_paths["out"]]
    return found


def amount(nar_size: int, file_size: int, seconds: float) -> str:
    """Say how much moved, and how fast: ``194 MB as 60.2 MB in 1.2 s (50.1 MB/s)``."""
    rate = f" ({human_size(round(file_size / seconds))}/s)" if seconds > 0.05 else ""
    return f"{human_size(nar_size)} as {human_size(file_size)} in {seconds:.1f} s{rate}"


def count(number: int, noun: str = "path") -> str:
    """Write a number with its noun: ``1 path``, ``2 paths``."""
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
