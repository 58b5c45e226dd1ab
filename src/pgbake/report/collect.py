"""Collecting what a report tells: from the receipt, the store's database, logs, and the outputs of checks."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from pgbake.build.log import OF_CHECKS, read_log
from pgbake.bundle.merge import Bundle
from pgbake.bundle.receipt import Extension, Packed, Receipt
from pgbake.checks.check import Check, Checks
from pgbake.checks.record import Record
from pgbake.checks.results import Test, passed_outcome, read_told
from pgbake.errors import FormatError, PgbakeError, StoreError
from pgbake.formats import base32
from pgbake.formats.derivation import Derivation
from pgbake.formats.storepath import StorePath
from pgbake.report.changes import parse_interface
from pgbake.report.facts import (
    BundleFacts,
    CheckFacts,
    Comparison,
    ExtensionFacts,
    Facts,
    PackageFacts,
    Part,
    PathFacts,
    RuntimeFacts,
    Side,
    StatementFacts,
    StepFacts,
    TestFacts,
)
from pgbake.run import run
from pgbake.store.closure import closure_sizes
from pgbake.store.database import PathInfo
from pgbake.store.local import LocalStore
from pgbake.store.statements import kept_statements

#: Characters of a log, of a test's detail, and of one line that a report holds.
_LOG, _LOG_OF_FAILED, _DETAIL, _LINE = 12_000, 60_000, 12_000, 2_000
#: The check that writes down the SQL interface, and the file in its output.
_INTERFACE = "interface/all"
_INTERFACE_FILE = "interface.txt"
#: Seconds by which a log that belongs to a path may be younger than its registration.
_SLACK = 5
_OTHER = "postgresql"


class _Source(msgspec.Struct, frozen=True):
    name: str = ""
    sha256: str = ""


class _Packed(Packed, frozen=True):
    licence: str = ""
    path: str = ""
    source: _Source = _Source()


class _Runtime(msgspec.Struct, frozen=True):
    name: str
    version: str
    path: str
    sha256: str
    licence: str = ""


class _Receipt(Receipt, frozen=True):
    """What else the file tells."""

    platform: str = ""
    packages: tuple[_Packed, ...] = ()
    runtime: tuple[_Runtime, ...] = ()


def collect(store: LocalStore, checks: Checks, record: Record, budget: int | None) -> Facts:
    """Collect what is known of a bundle that is in the store. It is compared with nothing yet.

    :param record: of the project's checks.
    :param budget: bytes that its closure may have.
    :raises StoreError: its receipt is damaged, or it is not in the store.
    """
    bundle = checks.bundle
    receipt = _read_receipt(store.physical(bundle.path))
    closure = store.closure([bundle.path])
    sizes = {str(path): info.nar_size for path, info in closure.items()}
    interface = next((check.path for check in checks.checks if check.name == _INTERFACE), None)
    own = {derivation.path for derivation in bundle.graph.derivations.values()} - {
        check.derivation.path for check in checks.checks
    }
    derivations = [derivation for path, derivation in bundle.graph.derivations.items() if path in own]
    timeline = _timeline(store, derivations)
    return Facts(
        bundle=_bundle(store, receipt, closure[bundle.path]),
        extensions=tuple(_extension(item, receipt, sizes) for item in receipt.extensions),
        packages=tuple(
            PackageFacts(
                item.name, item.version, item.origin, item.licence, item.path, item.source.name, item.source.sha256,
                sizes.get(item.path),
            )
            for item in receipt.packages
        ),
        runtime=tuple(
            RuntimeFacts(item.name, item.version, item.path, item.sha256, item.licence, sizes.get(item.path))
            for item in receipt.runtime
        ),
        closure=_closure(store, bundle, receipt),
        budget=budget,
        timeline=timeline,
        absent=len(derivations) - len(timeline),
        checks=tuple(
            facts
            for check in checks.checks
            for facts in [_check(store, check, record)]
            if facts.state != "open" or not check.optional
        ),
        side=_side(store, bundle.path, receipt, closure, interface),
        against=None,
    )  # fmt: skip


def with_comparison(facts: Facts, against: Comparison | None) -> Facts:
    """Return facts that are compared with another bundle."""
    return replace(facts, against=against)


def side_of(store: LocalStore, path: StorePath) -> Side:
    """Return what a bundle in the store is compared by.

    :raises StoreError: it is not in the store, or no bundle.
    """
    closure = store.closure([path])
    return _side(store, path, _read_receipt(store.physical(path)), closure, None)


def bundle_before(store: LocalStore, path: StorePath) -> StorePath | None:
    """Return the bundle of the same name which was registered in the store last before one; None where there is none.

    That may be another project's, so a project's own record is asked first.
    """
    stem = path.name.rpartition("-postgresql-")[0]
    registered = store.info(path).registered
    found: list[tuple[int, StorePath]] = []
    for other in store.database.paths():
        if other != path and other.name.rpartition("-postgresql-")[0] == stem and not other.name.endswith(".drv"):
            info = store.info(other)
            if info.registered <= registered and (store.physical(other) / "receipt.json").is_file():
                found.append((info.registered, other))
    return max(found)[1] if found else None


# --- the bundle ------------------------------------------------------------------------------------


def _read_receipt(bundle: Path) -> _Receipt:
    try:
        return msgspec.json.decode((bundle / "receipt.json").read_bytes(), type=_Receipt)
    except (OSError, msgspec.MsgspecError) as error:
        why = "it has no receipt" if isinstance(error, FileNotFoundError) else f"its receipt cannot be read ({error})"
        raise StoreError(
            f"{bundle.name} is no bundle: {why}", hint="bundles are called NAME-postgresql-VERSION"
        ) from error


def _bundle(store: LocalStore, receipt: _Receipt, info: PathInfo) -> BundleFacts:
    statements = kept_statements(store, info.path)
    return BundleFacts(
        name=receipt.name,
        postgresql=receipt.postgresql.version,
        platform=receipt.platform,
        system=receipt.system,
        path=str(info.path),
        nar_hash=f"sha256:{base32.encode(info.nar_sha256)}",
        registered=info.registered,
        built_here=info.ultimate,
        signatures=tuple(sorted({signature.partition(":")[0] for signature in info.signatures})),
        statements=tuple(
            StatementFacts(
                kind,
                tuple(sorted({one.name for one in signed.signatures})),
                str(signed.statement.predicate.get("result", "")),
            )
            for kind, signed in sorted(statements.items())
            if signed.statement.nar_sha256 == info.nar_sha256
        ),
        preload=receipt.preload,
        settings=dict(sorted(receipt.settings.items())),
        locales=receipt.locales,
        collations=dict(sorted(receipt.collations.items())),
        kernel=receipt.kernel,
    )


def _extension(item: Extension, receipt: _Receipt, sizes: Mapping[str, int]) -> ExtensionFacts:
    package = next((package for package in receipt.packages if package.name == item.package), None)
    contrib = item.package == _OTHER or package is None
    return ExtensionFacts(
        name=item.name,
        version=item.version,
        package=item.package,
        origin="contrib" if contrib or package is None else package.origin,
        licence=package.licence if package else "PostgreSQL",
        preload=item.preload,
        size=sizes.get(package.path) if package and not contrib else None,
        summary=item.comment,
        requires=item.requires,
        trusted=item.trusted,
    )


def _closure(store: LocalStore, bundle: Bundle, receipt: _Receipt) -> tuple[PathFacts, ...]:
    # The merge, and the small parts that are made for it: locales, the support library.
    parts: dict[str, Part] = {
        str(path): "bundle"
        for derivation in bundle.graph.derivations.values()
        for path in derivation.output_paths.values()
    }
    parts |= {item.path: "runtime" for item in receipt.runtime}
    parts |= {item.path: "extension" for item in receipt.packages}
    server = bundle.by_name().get("postgresql")
    parts |= {str(path): "postgresql" for path in server.output_paths.values()} if server else {}
    return tuple(
        PathFacts(
            str(item.path),
            item.path.name,
            parts.get(str(item.path), "other"),
            item.size,
            item.alone,
            tuple(path.name for path in item.brought_by),
        )
        for item in closure_sizes(store, bundle.path)
    )


def _side(
    store: LocalStore,
    path: StorePath,
    receipt: _Receipt,
    closure: Mapping[StorePath, PathInfo],
    interface: StorePath | None,
) -> Side:
    sizes: dict[str, int] = {}
    for item, info in closure.items():
        sizes[item.name] = sizes.get(item.name, 0) + info.nar_size
    return Side(
        path=str(path),
        postgresql=receipt.postgresql.version,
        platform=receipt.platform,
        extensions={item.name: item.version for item in receipt.extensions},
        packages={item.name: item.version for item in receipt.packages if item.name != _OTHER},
        runtime={item.name: item.version for item in receipt.runtime},
        closure=dict(sorted(sizes.items())),
        interface=_interface(store, path, interface),
    )


def _interface(store: LocalStore, bundle: StorePath, known: StorePath | None) -> dict[str, tuple[str, ...]] | None:
    """Return a bundle's interface, as a passed check wrote it.

    :param known: where the output of that check would be; None looks for the check among all in the store.
    """
    outputs = [known] if known is not None else _interface_outputs(store, bundle)
    for output in outputs:
        if store.valid([output]):
            try:
                return parse_interface((store.physical(output) / _INTERFACE_FILE).read_text("utf-8"))
            except (OSError, UnicodeDecodeError):
                continue
    return None


def _interface_outputs(store: LocalStore, bundle: StorePath) -> list[StorePath]:
    """Return the outputs of all checks of a bundle's interface, the newest first."""
    found: list[tuple[int, StorePath]] = []
    for path in store.database.paths():
        if path.name != "check-" + _INTERFACE.replace("/", "-"):
            continue
        info = store.info(path)
        if info.deriver is not None and store.valid([info.deriver]):
            try:
                derivation = store.derivation(info.deriver)
            except (OSError, FormatError):
                continue
            if derivation.env.get("bundle") == str(bundle):
                found.append((info.registered, path))
    return [path for _, path in sorted(found, reverse=True)]


# --- builds ----------------------------------------------------------------------------------------


def _timeline(store: LocalStore, derivations: Iterable[Derivation]) -> tuple[StepFacts, ...]:
    derivations = list(derivations)
    valid = store.valid([path for derivation in derivations for path in derivation.output_paths.values()])
    births = _births([store.log_file(derivation.path) for derivation in derivations])
    steps = []
    for derivation in derivations:
        infos = [store.info(path) for path in derivation.output_paths.values() if path in valid]
        if not infos:
            continue
        registered = max(info.registered for info in infos)
        begun = ended = None
        built = all(info.ultimate for info in infos)
        birth = births.get(store.log_file(derivation.path))
        # A younger log is of a later run, such as a rebuild: it tells nothing of what is in the store.
        if built and birth is not None and birth[1] <= registered + _SLACK:
            ended = birth[1]
            begun = birth[0] if 0 < birth[0] <= ended else None  # a copied file is born after its last write
        steps.append(
            StepFacts(derivation.name, str(infos[0].path), "built" if built else "taken", begun, ended, registered)
        )
    return tuple(sorted(steps, key=lambda step: (step.ended or step.registered, step.name)))


def _births(files: Sequence[Path]) -> dict[Path, tuple[float, float]]:
    """Return when files were made, 0 where the file system does not tell, and when they were last written.

    Python does not tell the former.
    """
    there = [file for file in files if file.is_file()]
    if not there:
        return {}
    env = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C"}
    done = run(["stat", "--format=%.3W %.3Y", "--", *map(str, there)], sandbox="host", env=env, check=False)
    lines = done.stdout.splitlines()
    if done.status != 0 or len(lines) != len(there):  # one was replaced just now
        return {file: (0.0, file.stat().st_mtime) for file in there if file.is_file()}
    found = {}
    for file, line in zip(there, lines, strict=True):
        born, _, written = line.partition(" ")
        found[file] = (float(born) if born[:1].isdigit() else 0.0, float(written))
    return found


# --- checks ----------------------------------------------------------------------------------------


def _check(store: LocalStore, check: Check, record: Record) -> CheckFacts:
    told = read_told(store, check)
    failed_tests = told is not None and any(test.outcome == "failed" for test in told.tests)
    if store.valid([check.path]):
        try:
            outcome = passed_outcome(store, check, "kept")
        except OSError:
            return CheckFacts(check.name, check.about, "passed", None, (), "", 0)
        tests = tuple(_test(test, outcome.seconds is not None) for test in outcome.tests)
        # Where the log is of a run that failed, it is not the one that made the output.
        log, left_out = ("", 0) if failed_tests else _log(store, check, _LOG)
        return CheckFacts(check.name, check.about, "passed", outcome.seconds, tests, log, left_out)
    if told is None or not (failed_tests or (record.failed(check) and not record.changed(check))):
        return CheckFacts(check.name, check.about, "open", None, (), "", 0)
    log, left_out = _log(store, check, _LOG_OF_FAILED)
    seconds = sum(test.seconds for test in told.tests) if told.tests else None
    return CheckFacts(
        check.name, check.about, "failed", seconds, tuple(_test(test, True) for test in told.tests), log, left_out
    )


def _test(test: Test, timed: bool) -> TestFacts:
    return TestFacts(
        test.test, test.outcome, test.reason, test.seconds if timed else None, cut(test.detail, _DETAIL)[0]
    )


def _log(store: LocalStore, check: Check, most: int) -> tuple[str, int]:
    try:
        text = read_log(store.log_file(check.derivation.path))
    except (PgbakeError, OSError, EOFError):
        return "", 0
    return cut("\n".join(line for line in text.splitlines() if not line.startswith(OF_CHECKS)), most)


def cut(text: str, most: int) -> tuple[str, int]:
    """Return text of about ``most`` characters, and how many lines were cut out of its middle.

    Its end stays, since that mostly tells why something failed, and a fourth of it is the beginning.
    """
    lines = [line if len(line) <= _LINE else f"{line[:_LINE]} ..." for line in text.splitlines()]
    if sum(len(line) + 1 for line in lines) <= most:
        return "\n".join(lines), 0
    head = _fitting(lines, most // 4)
    tail = _fitting(lines[head:][::-1], most - most // 4)
    left_out = len(lines) - head - tail
    note = f"[... {left_out} lines are left out here ...]"
    return "\n".join([*lines[:head], note, *lines[len(lines) - tail :]]), left_out


def _fitting(lines: Iterable[str], most: int) -> int:
    count = 0
    for line in lines:
        most -= len(line) + 1
        if most < 0:
            break
        count += 1
    return count
