"""``pgbake deb``: Debian packages of the bundle and of its extensions, and a repository of them."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.errors import ManifestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pgbake.debs.packages import Deb, Packer
    from pgbake.debs.repository import Entry
    from pgbake.inputs.pins import Pin

#: Who is told as maintainer where neither the user nor their environment says anything.
_MAINTAINER = "pgbake <pgbake@localhost.invalid>"


@click.command(
    "deb",
    short_help="Make Debian packages of the bundle and of its extensions.",
    epilog="""\b
Examples:
  pgbake deb                                       all packages, into ./debs
  pgbake deb --only bundle --only programs         the whole bundle, for machines without PostgreSQL
  pgbake deb --only pgvector --out /tmp            one extension, for Debian's own PostgreSQL
  pgbake deb --repo /srv/apt --sign KEY            into a repository for apt
  pgbake deb --repo /srv/apt --sign KEY --dry-run  show what would be made""",
)
@click.option("--only", multiple=True, metavar="NAME", help="Make just this: bundle, programs, or an extension.")
@click.option(
    "--out", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
    help="Directory for the packages [default: debs].",
)  # fmt: skip
@click.option(
    "--repo", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
    help="Repository to put the packages into; versions that are there stay.",
)  # fmt: skip
@click.option("--sign", "key", metavar="KEY", help="Key of gpg's that signs the repository.")
@click.option("--prune", is_flag=True, help="Remove all but the newest version of each package from the repository.")
@click.option(
    "--revision", type=click.IntRange(1), metavar="N",
    help="Last number of the versions [default: 1, or the next in the repository].",
)  # fmt: skip
@click.option(
    "--maintainer", metavar="NAME <ADDRESS>", help="Whom the packages name [default: DEBFULLNAME and DEBEMAIL]."
)
@click.option("--unchecked", is_flag=True, help="Package a bundle whose checks have not passed.")
@click.option("--dry-run", is_flag=True, help="Show what would be made, and make nothing.")
@json_option
@pass_app
def command(
    app: App,
    only: tuple[str, ...],
    out: Path | None,
    repo: Path | None,
    key: str | None,
    prune: bool,
    revision: int | None,
    maintainer: str | None,
    unchecked: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Package what was built, which must be in the store: the whole bundle as pgbake-postgresql-N, at the paths that
    Debian's users expect, and each extension that was built from source as postgresql-N-NAME, for Debian's own
    PostgreSQL of the bundle's release.

    Equal inputs give equal bytes, dated 1980 or by SOURCE_DATE_EPOCH. A bundle is packaged only when `pgbake check`
    has passed, or a statement of a trusted key says so.
    """
    from pgbake.cli.gate import require_checked
    from pgbake.cli.goals import require_built
    from pgbake.debs.naming import deb_version
    from pgbake.debs.packages import file_name
    from pgbake.debs.repository import Repository, require_key
    from pgbake.formats.system import host_system

    if repo is not None and out is not None:
        raise click.UsageError("Packages go to --out or into --repo, not to both.")
    if repo is None and (key is not None or prune):
        raise click.UsageError("--sign and --prune are about a repository: name it with --repo.")
    if repo is not None:
        repo = repo.absolute()
    bundle = require_built(app)
    packer = packer_of(app, maintainer)
    names = packer.names()
    if lacking := [name for name in only if name not in names]:
        raise ManifestError(
            f'"{lacking[0]}" is nothing that could be packaged: {_why_not(packer, lacking[0])}',
            hint=f"there are: {', '.join(names)}",
        )
    if not dry_run:
        require_checked(app, bundle.path, "packaged", unchecked=unchecked)
        if key is not None:
            require_key(key)
    repository = Repository(repo, packer.suite, host_system().debian) if repo is not None else None
    debs = packer.packages(only)
    begin = time.monotonic()

    def make(entries: Sequence[Entry]) -> list[dict[str, Any]]:
        answers = []
        for deb in debs:
            number, is_there = _revision(deb, entries, packer.suite, revision)
            version = deb_version(deb.upstream, packer.suite, number)
            into = repository.pool(deb.name) if repository else (out or Path("debs")).absolute()
            file = into / file_name(deb, version)
            if not dry_run and not is_there:
                with app.reporting() as report:
                    packer.pack(deb, version, into, report)
            answers.append(_answer(deb, version, file, is_there))
        return answers

    gone: list[Entry] = []
    if repository is None:
        made = make(())
    elif dry_run:
        made = make(repository.entries())
    else:
        with repository.locked():
            made = make(repository.entries())
            added = [Path(answer["file"]) for answer in made if not answer["unchanged"]]
            epoch = int(os.environ["SOURCE_DATE_EPOCH"]) if "SOURCE_DATE_EPOCH" in os.environ else None
            gone = repository.publish(added, key, prune=prune, epoch=epoch)
    if as_json:
        app.say_json({"packages": made, "pruned": [f"{entry.name} {entry.version}" for entry in gone]})
        return
    _tell(app, made, gone, time.monotonic() - begin, dry_run)
    if repository is not None and not dry_run:
        _tell_repository(app, repository.root, packer.suite, key)


def packer_of(app: App, maintainer: str | None) -> Packer:
    """Return what packs the project's bundle."""
    from pgbake.debs.packages import DEFAULT_EPOCH, Packer
    from pgbake.formats.system import host_system

    project = app.project
    system = host_system()

    def fetch(pins: Mapping[str, Pin]) -> Mapping[str, Path]:
        from pgbake.inputs.fetch import fetch as fetch_pins
        from pgbake.places import cache_dir

        with app.reporting() as report:
            return fetch_pins(pins, project.mirrors, cache_dir() / "downloads", report)

    epoch = os.environ.get("SOURCE_DATE_EPOCH", str(DEFAULT_EPOCH))
    if not epoch.isdigit():
        raise ManifestError(
            f"SOURCE_DATE_EPOCH is {epoch!r}, and no number of seconds", hint="unset it, or set it to `date +%s`"
        )
    name = maintainer
    if name is None and "DEBEMAIL" in os.environ:
        name = f"{os.environ.get('DEBFULLNAME', os.environ['DEBEMAIL'])} <{os.environ['DEBEMAIL']}>"
    name = name or _MAINTAINER
    if not name.endswith(">") or "<" not in name or "@" not in name or "\n" in name:
        raise ManifestError(f"{name!r} is no maintainer", hint='write it as "NAME <ADDRESS>"')
    return Packer(project, project.bundle(system), system, app.store, fetch, name, int(epoch))


def _why_not(packer: Packer, name: str) -> str:
    """Say why there is no package of that name."""
    from pgbake.recipes.choice import choices

    project = packer.project
    if any(
        name in (choice.name, *choice.extensions) and choice.deb
        for choice in choices(project.manifest, project.catalogue)
    ):
        return "it is a Debian package already"
    if name in project.manifest.extensions:
        return "it is part of another package"
    return "the bundle has no such extension"


def _revision(deb: Deb, entries: Sequence[Entry], suite: str, wanted: int | None) -> tuple[int, bool]:
    """Return the revision of a package, and whether a repository has just that already."""
    from pgbake.debs.naming import deb_version, revision_of

    others = {
        number: entry
        for entry in entries
        if entry.name == deb.name
        and (number := revision_of(entry.version)) is not None
        and entry.version == deb_version(deb.upstream, suite, number)
    }
    if wanted is not None:
        same = others.get(wanted)
        if same is not None and same.field("Pgbake-Inputs") != deb.inputs:
            raise ManifestError(
                f"the repository has another {deb.name} {same.version}", hint="name a higher --revision, or none"
            )
        return wanted, same is not None
    for number, entry in sorted(others.items(), reverse=True):
        # Only the newest: one that was and comes back must be newer than what came between.
        return (number, True) if entry.field("Pgbake-Inputs") == deb.inputs else (number + 1, False)
    return 1, False


def _answer(deb: Deb, version: str, file: Path, is_there: bool) -> dict[str, Any]:
    return {
        "name": deb.name,
        "key": deb.key,
        "version": version,
        "depends": deb.fields["Depends"],
        "file": str(file),
        "bytes": file.stat().st_size if file.exists() else None,
        "unchanged": is_there,
    }


def _tell(app: App, made: Sequence[dict[str, Any]], gone: Sequence[Entry], seconds: float, dry_run: bool) -> None:
    from pgbake.quantities import human_size

    for answer in made:
        size = f"  {human_size(answer['bytes'])}" if answer["bytes"] is not None and not dry_run else ""
        there = "  (there already)" if answer["unchanged"] else ""
        app.say(f"{answer['file']}{size}{there}")
    for entry in gone:
        app.note(f"removed {entry.name} {entry.version}")
    new = sum(not answer["unchanged"] for answer in made)
    count = f"{new} package{'' if new == 1 else 's'}"
    app.note(f"would make {count}" if dry_run else f"made {count} in {seconds:.1f} s")


def _tell_repository(app: App, root: Path, suite: str, key: str | None) -> None:
    option = f"signed-by={root}/archive-key.asc" if key is not None else "trusted=yes"
    app.note(f"for apt: deb [{option}] file:{root} {suite} main")
    if key is None:
        app.note("warning: the repository is not signed: apt refuses it without that option; sign it with --sign KEY")
