"""What has passed, as a statement: made of results in the store, and of nothing else."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pgbake.bundle.merge import Bundle
from pgbake.checks.check import Check, Checks
from pgbake.checks.gate import checked, not_covered, results_of, tell_unpassed, unchecked, unpassed
from pgbake.checks.record import Record, let_go_of_the_gone
from pgbake.errors import PgbakeError, StoreError
from pgbake.formats.derivation import Derivation, Output, with_outputs
from pgbake.formats.keys import SecretKey, TrustedKeys
from pgbake.formats.statement import Statement
from pgbake.formats.storepath import StorePath
from pgbake.recipes.lowering import Graph
from pgbake.store.findroots import find_roots
from pgbake.store.local import LocalStore

KEY = SecretKey("a-1", bytes(32))
TAP = "TAP version 14\n1..2\nok 1 - it \\# starts\nok 2 - it stops # SKIP there is none\n"


def derivation(name: str) -> Derivation:
    """Return a derivation that nothing builds."""
    env = {"out": "", "name": name}
    made = Derivation(name, {"out": Output("")}, {}, frozenset(), "x86_64-linux", "/bin/sh", (), env)
    return with_outputs(made, lambda _path: bytes(32))


@dataclass
class House:
    """A store with a bundle and its checks."""

    store: LocalStore
    checks: Checks

    def register(self, path: StorePath, **files: str) -> None:
        """Make a path valid."""
        with self.store.scratch() as scratch:
            made = scratch / "made"
            made.mkdir()
            for name, text in files.items():
                (made / name.replace("__", ".")).write_text(text)
            self.store.register([self.store.place(path, made)])

    def let_pass(self, *names: str, tap: str = TAP) -> None:
        """Leave the results that checks leave when they pass."""
        for name in names:
            self.register(self.checks.by_name()[name].path, results__tap=tap)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    bundle = derivation("example-postgresql-15.1")
    checks = tuple(
        Check(name, derivation(f"check-{name.replace('/', '-')}"), optional=name.startswith("world"))
        for name in ("smoke/all", "smoke/pgvector", "world/core")
    )
    with LocalStore(tmp_path / "store") as store:
        house = House(store, Checks(Bundle(Graph(), bundle, (), bundle.output_paths["out"]), checks))
        house.register(house.checks.bundle.path, receipt="{}")
        yield house


def test_what_has_not_passed_is_named(house: House) -> None:
    house.let_pass("smoke/all")
    assert [check.name for check in unpassed(house.store, house.checks)] == ["smoke/pgvector"]
    with pytest.raises(PgbakeError, match="1 of 2 checks have not passed: smoke/pgvector") as raised:
        checked(house.store, house.checks)
    assert raised.value.hint and "pgbake check" in raised.value.hint
    many = [Check(f"smoke/{number}", house.checks.bundle.derivation) for number in range(10)]
    assert tell_unpassed(many, house.checks).endswith("smoke/7, ...")


def test_a_statement_tells_all_and_is_the_same_each_time(house: House) -> None:
    house.let_pass("smoke/all", "smoke/pgvector")
    said = checked(house.store, house.checks)
    assert said.path == house.checks.bundle.path
    assert said.nar_sha256 == house.store.info(said.path).nar_sha256
    assert said.predicate["result"] == "WARNED" and said.predicate["failedTests"] == []
    assert said.predicate["passedTests"] == ["smoke/all: it # starts", "smoke/pgvector: it # starts"]
    assert said.predicate["warnedTests"][0] == "smoke/all: it stops: skipped: there is none"
    configuration = {item["annotations"]["check"]: item for item in said.predicate["configuration"]}
    assert configuration.keys() == {"smoke/all", "smoke/pgvector"}
    check = house.checks.by_name()["smoke/all"]
    assert configuration["smoke/all"]["name"] == str(check.derivation.path)
    assert configuration["smoke/all"]["annotations"]["output"] == str(check.path)
    assert checked(house.store, house.checks).sign([KEY]).to_json() == said.sign([KEY]).to_json()
    assert said.sign([KEY]).verify(TrustedKeys((KEY.public,)), said.path, said.nar_sha256, "check") == said
    # An optional check is told of where it has passed.
    house.let_pass("world/core", tap="TAP version 14\n1..1\nok 1 - all\n")
    assert "world/core: all" in checked(house.store, house.checks).predicate["passedTests"]


def test_without_a_skip_all_has_passed(house: House) -> None:
    house.let_pass("smoke/all", "smoke/pgvector", tap="TAP version 14\n1..1\nok 1 - it starts\n")
    assert checked(house.store, house.checks).predicate["result"] == "PASSED"


def test_results_that_somebody_changed_are_not_signed(house: House) -> None:
    house.let_pass("smoke/all", "smoke/pgvector")
    file = house.store.physical(house.checks.by_name()["smoke/all"].path) / "results.tap"
    file.chmod(0o644)
    file.write_text(TAP + "ok 3 - and all else\n")
    with pytest.raises(StoreError, match="the results of smoke/all are not those that its run left") as raised:
        checked(house.store, house.checks)
    assert raised.value.hint == "run it again: pgbake check --again smoke/all"


@pytest.mark.parametrize("tap", ["TAP version 14\n1..1\nnot ok 1 - it starts\n", None])
def test_results_that_are_none_do_not_count(house: House, tap: str | None) -> None:
    house.let_pass("smoke/pgvector")
    path = house.checks.by_name()["smoke/all"].path
    house.register(path, **({"results__tap": tap} if tap is not None else {"else": ""}))
    with pytest.raises(PgbakeError, match="smoke/all") as raised:
        checked(house.store, house.checks)
    assert raised.value.hint and "--again smoke/all" in raised.value.hint


def test_results_go_along_where_they_are_those_that_were_stated(house: House) -> None:
    house.let_pass("smoke/all", "smoke/pgvector")
    said = checked(house.store, house.checks)
    paths = sorted(house.checks.by_name()[name].path for name in ("smoke/all", "smoke/pgvector"))
    assert results_of(house.store, said) == paths
    house.store.forget(paths[:1])
    assert results_of(house.store, said) == paths[1:]
    for odd in ([], None, 3, [3, {}, {"annotations": 1}, {"annotations": {"output": "/etc"}}]):
        other = Statement(said.path, said.nar_sha256, "check", {"result": "PASSED", "configuration": odd})
        assert results_of(house.store, other) == []


def test_a_statement_is_about_the_checks_that_it_names(house: House) -> None:
    house.let_pass("smoke/all", "smoke/pgvector")
    said = checked(house.store, house.checks)
    names = house.checks.by_name()
    assert not_covered(said, [names["smoke/all"], names["world/core"]]) == [names["world/core"]]
    changed = Check("smoke/all", derivation("check-smoke-all-changed"))
    assert not_covered(said, [changed]) == [changed]
    foreign = Statement(said.path, said.nar_sha256, "check", {"result": "PASSED", "configuration": [{"name": "x"}]})
    assert not_covered(foreign, [changed]) == []


def test_unchecked_is_no_pass_and_does_not_take_one_back(house: House) -> None:
    house.let_pass("smoke/all", "smoke/pgvector")
    passed = checked(house.store, house.checks).sign([KEY])
    without = unchecked(house.store, house.checks.bundle.path, "in a hurry", ["smoke/all"]).sign([KEY])
    said = without.statement
    assert said.is_unchecked and not said.passes and said.predicate["result"] == "FAILED"
    with pytest.raises(PgbakeError, match="pushed unchecked: in a hurry"):
        without.verify(TrustedKeys((KEY.public,)), said.path, said.nar_sha256, "check")
    assert without.beside(passed) == passed
    assert passed.beside(without) == passed
    assert without.beside(None) == without
    other = unchecked(house.store, house.checks.bundle.path, "in a hurry").sign([KEY])
    assert other.beside(without) == other


def test_a_statement_of_another_bundle_is_refused(house: House) -> None:
    house.let_pass("smoke/all", "smoke/pgvector")
    signed = checked(house.store, house.checks).sign([KEY])
    trusted = TrustedKeys((KEY.public,))
    other = house.checks.by_name()["smoke/all"].path
    with pytest.raises(PgbakeError, match="is about something else"):
        signed.verify(trusted, other, signed.statement.nar_sha256, "check")
    with pytest.raises(PgbakeError, match="is about other contents"):
        signed.verify(trusted, house.checks.bundle.path, bytes(32), "check")


def test_results_of_the_current_bundle_stay(house: House, tmp_path: Path) -> None:
    house.let_pass("smoke/all", "smoke/pgvector")
    project = tmp_path / "project"
    project.mkdir()
    (project / "pgbake.toml").touch()
    records = tmp_path / "data/checks"

    def kept() -> set[StorePath]:
        return {root.path for root in find_roots(house.store)}

    Record(records, project).keep_results(house.store, house.checks)
    names = house.checks.by_name()
    assert kept() == {names["smoke/all"].path, names["smoke/pgvector"].path}
    links = {link: os.lstat(link).st_ino for link in records.rglob("*/smoke/*")}
    assert len(links) == 2
    Record(records, project).keep_results(house.store, house.checks)
    assert {link: os.lstat(link).st_ino for link in records.rglob("*/smoke/*")} == links  # nothing is written again
    fewer = Checks(house.checks.bundle, tuple(names[name] for name in ("smoke/all",)))
    Record(records, project).keep_results(house.store, fewer)
    assert kept() == {names["smoke/all"].path}
    let_go_of_the_gone(records)
    assert kept() == {names["smoke/all"].path}
    (project / "pgbake.toml").unlink()
    let_go_of_the_gone(records)
    assert kept() == set()
