"""``pgbake export``: a closure as one file, for machines without a network."""

from __future__ import annotations

import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.errors import ManifestError, host_error

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pgbake.formats.keys import SecretKey
    from pgbake.formats.statement import SignedStatement
    from pgbake.formats.storepath import StorePath


@click.command(
    "export",
    short_help="Write the bundle, or any path, to one file.",
    epilog="""\b
Examples:
  pgbake export bundle.tar --key cache.key
  pgbake export - | ssh HOST pgbake import -
  pgbake export all.tar --what build        with all that it takes to build the bundle again""",
)
@click.argument("file", metavar="FILE|-")
@click.argument("names", nargs=-1, metavar="[NAME|PATH]...")
@click.option(
    "--what", type=click.Choice(["runtime", "build"]), default="runtime", show_default=True,
    help="What a user of the bundle needs, or also what builds it: derivations, packages, every pinned input.",
)  # fmt: skip
@click.option(
    "--key", "keys", multiple=True, type=click.Path(path_type=Path), metavar="FILE",
    help="Secret key to sign with; else that of PGBAKE_SECRET_KEY.",
)  # fmt: skip
@click.option("--level", type=click.IntRange(1, 19), default=3, show_default=True, help="Of zstd's compression.")
@json_option
@pass_app
def command(
    app: App, file: str, names: tuple[str, ...], what: str, keys: tuple[Path, ...], level: int, as_json: bool
) -> None:
    """Write the bundle of the manifest, its packages NAME, or store paths PATH to FILE, with all that they refer to:
    for `pgbake import` on a machine without a network.

    FILE is a plain tar archive, and holds a binary cache: unpacked, stock Nix takes it as file:///DIR.
    """
    from pgbake.cache.archive import export
    from pgbake.cli.caches import amount, count, name_paths
    from pgbake.signing import secret_keys

    if file == "-" and (sys.stdout.isatty() or as_json):
        raise ManifestError(
            "an archive is nothing for a terminal, and not JSON", hint="name a file, or write to a pipe"
        )
    with app.reporting() as report:
        signing = secret_keys(keys, report)
    if what == "build":
        from pgbake.cli.goals import realise_build_closure

        paths = realise_build_closure(app, names)
    else:
        paths = name_paths(app, names)
        if lacking := [path for path in paths if path not in app.store.valid(paths)]:
            raise ManifestError(f"{lacking[0]} is not in the store", hint="`pgbake build` or `pgbake pull` brings it")
    statements = _statements(app, paths, signing)
    begin = time.monotonic()
    target = Path(file).absolute()
    temporary = target.with_name(f".{target.name}.new")
    try:
        with app.reporting() as report:
            if file == "-":
                infos = export(app.store, paths, sys.stdout.buffer, signing, report, level=level, statements=statements)
                size = 0
            else:
                with temporary.open("wb") as stream:
                    infos = export(
                        app.store, paths, stream, signing, report,
                        scratch=target.parent, level=level, statements=statements,
                    )  # fmt: skip
                    size = _finish(stream)
                temporary.replace(target)
    except BrokenPipeError:
        raise
    except OSError as error:
        raise host_error(error, f"cannot write {file}") from error
    finally:
        if file != "-":
            with suppress(OSError):  # a file system that cannot be written has none, and was told
                temporary.unlink()
    unsigned = [info.path for info in infos if not info.signatures and not info.certifies_itself]
    nar_size = sum(info.nar_size for info in infos)
    if as_json:
        app.say_json(
            {
                "file": str(target),
                "paths": [str(info.path) for info in infos],
                "nar-bytes": nar_size,
                "file-bytes": size,
                "unsigned": list(map(str, unsigned)),
            }
        )
    else:
        moved = f", {amount(nar_size, size, time.monotonic() - begin)}" if size else ""
        app.note(f"exported {count(len(infos))}{moved}")
    if unsigned:
        app.note(
            f"warning: an import refuses what bears no signature: {count(len(unsigned))}\n"
            "hint: export with --key FILE (`pgbake keygen` makes one), or import with --no-check-sigs"
        )


def _statements(app: App, paths: Iterable[StorePath], signing: Sequence[SecretKey]) -> list[SignedStatement]:
    """Return what is to be stated of the bundles among some paths; which an import will refuse is told."""
    from pgbake.cache.statements import is_bundle
    from pgbake.store.statements import kept_statements

    found: list[SignedStatement] = []
    for path in paths:
        kept = kept_statements(app.store, path)
        if is_bundle(path):
            from pgbake.cli.gate import look, sign_passed

            gate = look(app, path, lambda: signing)
            made = sign_passed(app, gate, lambda: signing, anew=bool(signing)) if gate.passed else gate.kept
            if made is not None:
                kept["check"] = made
            else:
                why = gate.problem or "no key signs a statement that its checks have passed"
                app.note(
                    f"warning: an import refuses {path.name}: {why}\n"
                    "hint: run `pgbake check` and export with --key FILE, or import with --unchecked"
                )
        nar_sha256 = app.store.info(path).nar_sha256
        found += [signed for signed in kept.values() if signed.statement.nar_sha256 == nar_sha256]
    return found


def _finish(stream: BinaryIO) -> int:
    import os

    stream.flush()
    os.fsync(stream.fileno())
    return stream.tell()
