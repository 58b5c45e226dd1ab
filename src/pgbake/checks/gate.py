"""What has passed, as a statement that is signed and goes where the bundle goes.

The predicate is in-toto's test-result, version 0.1. Its ``configuration`` names the check derivations::

    {"name": "/nix/store/DIGEST-check-KIND-NAME.drv", "digest": {"sha256": HEX},          of the .drv file
     "annotations": {"check": "KIND/NAME", "output": "/nix/store/...", "narSha256": HEX}}  its results

``passedTests`` and ``warnedTests`` hold ``KIND/NAME: TEST``; a test that did not apply is a warning, with its reason.
All of it is read from the results in the store, and nothing from logs: the same results give the same statement.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from contextlib import suppress
from typing import Any

from pgbake.checks.check import Check, Checks
from pgbake.checks.results import read_tap
from pgbake.errors import BuildError, FormatError, PgbakeError, StoreError
from pgbake.formats.statement import Statement
from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore
from pgbake.store.tree import hash_tree

#: How many checks that have not passed are named.
_NAMED = 8


def required(checks: Checks) -> list[Check]:
    """Return the checks that a bundle must have passed: all but those that are run only when they are asked for."""
    return [check for check in checks.checks if not check.optional]


def unpassed(store: LocalStore, checks: Checks) -> list[Check]:
    """Return the checks that must have passed and have not, or not here."""
    wanted = required(checks)
    valid = store.valid([check.path for check in wanted])
    return [check for check in wanted if check.path not in valid]


def tell_unpassed(lacking: Iterable[Check], checks: Checks) -> str:
    """Say which checks have not passed: ``3 of 30 checks have not passed: smoke/all, ...``."""
    names = [check.name for check in lacking]
    more = ", ..." if len(names) > _NAMED else ""
    return f"{len(names)} of {len(required(checks))} checks have not passed: {', '.join(names[:_NAMED])}{more}"


def checked(store: LocalStore, checks: Checks) -> Statement:
    """Return the statement that a bundle has passed its checks; optional ones are named where they have passed, too.

    :raises BuildError: one that must have passed has not, or tells of failures.
    :raises StoreError: the bundle is not valid, or results are not those that were registered.
    """
    if lacking := unpassed(store, checks):
        raise BuildError(tell_unpassed(lacking, checks), hint="run `pgbake check`")
    nar_sha256 = store.info(checks.bundle.path).nar_sha256
    valid = store.valid([check.path for check in checks.checks])
    configuration, passed, warned = [], [], []
    for check in checks.checks:
        if check.path in valid:
            configuration.append(_configuration(store, check))
            for test in _tests(store, check):
                name = f"{check.name}: {test.test}"
                if test.outcome == "skipped":
                    warned.append(f"{name}: skipped: {test.reason}")
                else:
                    passed.append(name)
    return Statement(
        checks.bundle.path,
        nar_sha256,
        "check",
        {
            "result": "WARNED" if warned else "PASSED",
            "configuration": configuration,
            "passedTests": passed,
            "warnedTests": warned,
            "failedTests": [],
        },
    )


def unchecked(store: LocalStore, path: StorePath, reason: str, names: Iterable[str] = ()) -> Statement:
    """Return the statement that a bundle is pushed without having passed its checks.

    :param reason: for those who are refused the bundle.
    :param names: checks that have not passed.
    :raises StoreError: the bundle is not valid.
    """
    predicate = {
        "result": "FAILED",
        "unchecked": True,
        "reason": reason,
        "configuration": [],
        "failedTests": sorted(names),
    }
    return Statement(path, store.info(path).nar_sha256, "check", predicate)


def results_of(store: LocalStore, statement: Statement) -> list[StorePath]:
    """Return the results that a statement names, as far as the store has those very ones.

    They go along with the bundle, so that nobody has to run its checks again.
    """
    stated: dict[StorePath, str] = {}
    for _, notes in _stated(statement):
        with suppress(FormatError):
            stated[StorePath.parse(str(notes.get("output")))] = str(notes.get("narSha256"))
    valid = store.valid(stated)
    return sorted(path for path in valid if store.info(path).nar_sha256.hex() == stated[path])


def not_covered(statement: Statement, lacking: Iterable[Check]) -> list[Check]:
    """Return those of some checks that a statement is not about: it tells of others, or of what they were before.

    A statement that names no checks of pgbake's, but says by other means that all is well, is about all.
    """
    named = {name for name, _ in _stated(statement)}
    return [check for check in lacking if named and str(check.derivation.path) not in named]


def _stated(statement: Statement) -> list[tuple[str, Mapping[str, Any]]]:
    """Return the checks that a statement names, with what it notes of each: others may state other things."""
    configuration = statement.predicate.get("configuration")
    items = [item for item in configuration if isinstance(item, Mapping)] if isinstance(configuration, list) else []
    notes = [(str(item.get("name")), item.get("annotations")) for item in items]
    return [(name, note) for name, note in notes if isinstance(note, Mapping) and "check" in note]


def _configuration(store: LocalStore, check: Check) -> dict[str, Any]:
    return {
        "name": str(check.derivation.path),
        "digest": {"sha256": hashlib.sha256(check.derivation.to_aterm()).hexdigest()},
        "annotations": {
            "check": check.name,
            "output": str(check.path),
            "narSha256": store.info(check.path).nar_sha256.hex(),
        },
    }


def _tests(store: LocalStore, check: Check) -> list[Any]:
    """Return a check's tests from its results, which must be those that were registered."""
    again = f"run it again: pgbake check --again {check.name}"
    place = store.physical(check.path)
    try:
        # Who signs looks at what is signed: this is small, and a store's files can be written to by root.
        if hash_tree(place, threaded=False).sha256 != store.info(check.path).nar_sha256:
            raise StoreError(f"the results of {check.name} are not those that its run left: {place}", hint=again)
        tests = list(read_tap((place / "results.tap").read_text("utf-8")))
    except (OSError, UnicodeDecodeError) as error:
        raise StoreError(f"cannot read the results of {check.name}: {error}", hint=again) from None
    except PgbakeError as error:
        if error.hint:
            raise
        raise StoreError(f"cannot read the results of {check.name}: {error}", hint=again) from None
    if bad := [test.test for test in tests if test.outcome == "failed"]:
        raise BuildError(f"{check.name} has not passed: {bad[0]}", hint=again)
    return tests
