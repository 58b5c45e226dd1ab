"""Debian's packages with extensions: one bundle holds all of a suite's that can be together, and another the rest;
each is created and put to a real use.
"""

from __future__ import annotations

import json
import os
import re
from collections.abc import Sequence
from pathlib import Path

import pytest

from pgbake.checks.uses import Uses
from pgbake.formats.system import host_system
from pgbake.inputs.apt import AptRoot, Suite
from pgbake.inputs.mirrors import host_mirrors
from pgbake.recipes.recipe import load_catalogue
from pgbake.store.local import LocalStore
from tests.cache import test_cache as shared_cache
from tests.debian import not_to_be_had
from tests.projects import TestProject
from tests.uses import Outcome, debian_names, table, together, use_all

#: A selection of many kinds for every run: types, indexes, hooks, workers, languages, a foreign data wrapper, a plugin.
SELECTION = (
    "asn1oid", "debversion", "hll", "hypopg", "ip4r", "jsquery", "numeral", "orafce", "periods", "pg_dirtyread",
    "pg_qualstats", "pg_stat_kcache", "pg_stat_statements", "pgmp", "pgtap", "plproxy", "prefix", "rum", "semver",
    "tdigest", "unit", "wal2json",
)  # fmt: skip


#: What the merge says of a package that was compiled against a minor release that the bundle has not.
MISFIT = re.compile(r"(postgresql-\d+-\S+) was built for another release of PostgreSQL than (\S+):")


def _build(project: TestProject, major: int, names: Sequence[str]) -> list[str]:
    """Build, and return which names are in: what was compiled against a release that is not here yet is left out."""
    kept = list(names)
    while (done := project.pgbake("build", check=False)).returncode != 0:
        misfit = MISFIT.search(done.stderr)
        assert misfit, done.stderr
        package, release = misfit.groups()
        print(f"{package} IS LEFT OUT: it was built for another release than {release}")
        (name,) = set(debian_names([package], major, load_catalogue())) & set(kept)
        project.pgbake("remove", name)
        kept.remove(name)
    return kept


def _use(directory: Path, store: Path, suite: str, major: int, names: Sequence[str]) -> list[Outcome]:
    directory.mkdir()
    catalogue = load_catalogue()
    known = {**catalogue.providers, **catalogue.recipes}
    built = [name for name in names if name in known and known[name].name != "postgresql" and known[name].builder]
    (directory / "pgbake.toml").write_text(
        f'name = "debs-{major}"\npostgresql = {major}\nextensions = {json.dumps(list(names))}\n'
        f'[platform]\nsuite = "{suite}"\nsecurity = false\nupdates = false\n'
        + "".join(f'[extension.{name}]\norigin = "deb"\n' for name in built)
    )
    project = TestProject(directory, store, directory / "home")
    project.pgbake("lock")
    kept = _build(project, major, names)
    bundle = project.project.bundle(host_system())
    with LocalStore(store) as opened:
        return use_all(opened, bundle.path, kept)


def test_a_selection_of_debian_extensions_works(example: TestProject, tmp_path: Path) -> None:
    outcomes = _use(tmp_path / "debs", example.store, "bookworm", 15, SELECTION)
    print(table(outcomes))
    assert [outcome.name for outcome in outcomes if outcome.failure] == []


@pytest.mark.full
@pytest.mark.parametrize(("suite", "major"), [("bookworm", 15), ("trixie", 17), ("sid", 18)])
def test_every_debian_extension_works_or_is_known_not_to(
    example: TestProject, tmp_path: Path, suite: str, major: int
) -> None:
    apt = AptRoot(shared_cache() / "pgbake/apt", (Suite(suite),), host_system().debian, host_mirrors(suite))
    apt.update()
    catalogue = load_catalogue()
    packages = [
        package for package in apt.packages(f"postgresql-{major}-") if debian_names([package], major, catalogue)
    ]
    absent = not_to_be_had(apt, packages, major)
    for package, why in absent.items():
        print(f"{package} IS LEFT OUT: {why}")
    names = debian_names([package for package in packages if package not in absent], major, catalogue)
    outcomes = []
    for number, group in enumerate(together([*names, "pg_stat_statements"], major, catalogue)):
        outcomes += _use(tmp_path / f"debs{number or ''}", example.store, suite, major, group)
    text = table(outcomes)
    print(text)
    if kept := os.environ.get("PGBAKE_USES"):  # for scripts/extensions-table
        Path(kept).mkdir(parents=True, exist_ok=True)
        (Path(kept) / f"{suite}-{major}.txt").write_text(text)
    assert [outcome.name for outcome in outcomes if not outcome.as_expected] == []
    used = {outcome.name for outcome in outcomes}
    assert len(used) > 0.9 * len(names)
    left_out = set(debian_names(list(absent), major, catalogue)) | set(names) - used
    assert Uses(major).known.keys() <= used | left_out
