"""Every package of a bundle has its licence with it, and none has one that the manifest forbids."""

from __future__ import annotations

from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from pgbake.checks.harness.report import Failure, Skipped
from pgbake.checks.harness.server import Session
from pgbake.inputs.licences import licence_of

#: Outputs of PostgreSQL's own, whose licence is its.
_LANGUAGES = ("plperl", "plpython3u", "pltcl")
_WORDS = ("licen", "copying", "copyright")


def check(session: Session) -> None:
    """Perform the check. The specification holds ``forbid``, and in ``known`` why packages have no file."""
    report, receipt, bundle = session.report, session.receipt, session.bundle
    forbid, known = session.spec["forbid"], session.spec["known"]
    bill = []
    for package in receipt["packages"]:
        name, words = package["name"], str(package["licence"] or "")
        with report.test(f"{name} {package['version']}"):
            bad = forbidden(words, forbid)
            if bad:
                raise Failure(f"its licence is {words}, which the manifest forbids ({bad})")
            file = licence_file(bundle, documents(package, session.major))
            bill.append(f"{name} {package['version']}: {words or 'unknown'}: {file or 'no file'}")
            if not file and name in known:
                raise Skipped(f"known to have no file: {known[name]}")
            if not file:
                raise Failure(f"its licence, {words or 'unknown'}, is nowhere in the bundle")
    with report.test("runtime packages"):
        missing = []
        for package in receipt["runtime"]:
            name = package["name"]
            file = package["licence"] if readable(bundle / package["licence"]) else None
            bill.append(f"{name} {package['version']}: {licence_of(Path(package['path']), name)}: {file or 'no file'}")
            if not file:
                missing.append(f"{name} {package['version']}: {package['licence']}")
        if missing:
            raise Failure(f"{len(missing)} have no copyright file in the bundle: {missing[0]}", "\n".join(missing))
    report.files["licences.txt"] = "\n".join((*sorted(bill), ""))


def forbidden(licence: str, globs: list[str]) -> str | None:
    """Return the glob that a part of an SPDX expression fits; None where none does."""
    parts = licence.replace("(", " ").replace(")", " ").split()
    return next((glob for glob in globs for part in parts if fnmatchcase(part, glob)), None)


def documents(package: dict[str, Any], major: int) -> list[str]:
    """Return the names that a package's directory below ``share/doc`` may have."""
    name = package["name"]
    if package["origin"] == "deb":  # its path is called by Debian's name and version
        return [str(package["source"]["name"]).rpartition("/")[2].partition("_")[0]]
    if name == "postgresql" or name in _LANGUAGES:
        return [f"postgresql-{major}"]
    return [f"postgresql-{major}-{name}", f"postgresql-{major}-{name.partition('@')[0]}"]


def licence_file(bundle: Path, directories: list[str]) -> str | None:
    """Return the file of a bundle with a licence, in the first directory of documents that has one."""
    for name in directories:
        directory = bundle / "share/doc" / name
        if directory.is_dir():
            for file in sorted(directory.iterdir()):
                if any(word in file.name.lower() for word in _WORDS) and readable(file):
                    return str(file.relative_to(bundle))
    return None


def readable(file: Path) -> bool:
    """Whether a file has text."""
    try:
        return bool(file.read_bytes().strip())
    except OSError:
        return False
