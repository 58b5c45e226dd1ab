"""What a bundle holds and needs: all libraries inside the store, no more bytes than promised."""

from __future__ import annotations

import json
import re
import subprocess
from pathlib import Path

import pytest

from pgbake.build.sandbox import namespace_command
from pgbake.bundle.merge import Bundle
from pgbake.bundle.merge_program import Elf, files_below, read_elf
from pgbake.formats.storepath import STORE_DIR
from pgbake.store.local import LocalStore
from tests.projects import TestProject

pytestmark = pytest.mark.integration

_LIST_EACH = """
for file in "$@"; do
  "$0" --inhibit-cache --library-path "$P" --list "$file" || echo "FAILED $file"
done
"""


def closure_size(project: TestProject) -> int:
    return int(project.json("size")["closure"])


def elf_files(top: Path, at: str) -> dict[str, Elf]:
    """Return the ELF files below a directory that the loader may be given, by their path in the namespace."""
    found = {}
    for file in files_below(str(top)):
        full = top / file
        if not full.is_symlink() and full.is_file() and (elf := read_elf(str(full))):
            found[f"{at}/{file}"] = elf
    return found


def loaded(store: LocalStore, loader: str, file: str, preload: str | None = None) -> list[str]:
    """Return where the loader finds what a file needs, directly or not, as ``ldd`` does."""
    command = [loader, *(["--preload", preload] if preload else []), "--list", file]
    done = subprocess.run(namespace_command(store, command), env={}, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"{file}: {done.stdout}{done.stderr}"
    return [line.strip() for line in done.stdout.splitlines()]


def test_every_library_is_found_inside_the_store(store: LocalStore, bundle: Bundle) -> None:
    closure = store.closure([bundle.path])
    top = store.physical(bundle.path)
    files: dict[str, Elf] = {}
    for path in closure:
        files |= elf_files(store.physical(path), str(path))
    assert len(files) > 600
    programs = {file for file, elf in files.items() if elf.is_program and file.startswith(str(bundle.path))}
    assert len(programs) > 30
    libc = next(path for path in closure if path.name.startswith("libc6-"))
    loader = f"{libc}/usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"
    outside = []
    for file in sorted(programs):
        interpreter = subprocess.run(
            ["readelf", "-p", ".interp", str(store.physical(bundle.path)) + file.removeprefix(str(bundle.path))],
            capture_output=True, text=True, check=True,
        ).stdout  # fmt: skip
        assert loader in interpreter, file
        for line in loaded(store, loader, file):
            place = line.partition("=>")[2].split(" (")[0].strip()
            if place and not place.startswith(STORE_DIR):
                outside.append(f"{file}: {line}")
    # Libraries are loaded by a program; its DT_RPATH is what finds what they need.
    rpath = ":".join(f"{bundle.path}/{part}" for part in ("lib/postgresql/15/lib", "lib/x86_64-linux-gnu"))
    libraries = [file for file in sorted(files) if not files[file].is_program and file != loader]
    for start in range(0, len(libraries), 50):
        done = subprocess.run(
            namespace_command(
                store,
                ["/bin/sh", "-c", _LIST_EACH, loader, *libraries[start : start + 50]],
            ),
            env={"P": rpath}, capture_output=True, text=True, check=False,
        )  # fmt: skip
        for line in done.stdout.splitlines():
            place = line.partition("=>")[2].split(" (")[0].strip()
            if "FAILED" in line or "not found" in line or (place and not place.startswith(STORE_DIR)):
                outside.append(line.strip())
    assert not outside
    assert top.exists()


def test_the_closure_is_within_its_budget(example: TestProject, project: TestProject) -> None:
    assert closure_size(example) <= 200_000_000
    project.edit('languages = ["plperl", "plpython3u", "pltcl"]', "languages = []")
    plan = project.json("plan")
    assert [item["name"] for item in plan["build"]] in ([], ["example-postgresql-15.18"])
    project.pgbake("build")
    assert closure_size(project) <= 150_000_000
    names = {path["path"].partition("-")[2] for path in project.json("size")["paths"]}
    assert not [name for name in names if re.match(r"lib(perl|python|tcl)|perl-", name)]


def test_what_must_stay_is_there(store: LocalStore, bundle: Bundle) -> None:
    top = store.physical(bundle.path)

    def physical(path: Path) -> Path:
        return store.physical(bundle.path).parent / str(path.readlink()).removeprefix(f"{STORE_DIR}/")

    closure = store.closure([bundle.path])
    icu = next(path for path in closure if path.name.startswith("libicu72-"))
    assert (store.physical(icu) / "usr/lib/x86_64-linux-gnu/libicudata.so.72.1").stat().st_size > 30_000_000
    zones = physical(top / "share/postgresql/15/timezone")
    for zone in ("Europe/Berlin", "America/Argentina/Ushuaia", "posix/Asia/Kolkata", "UTC"):
        assert (zones / zone).read_bytes().startswith(b"TZif")
    receipt = json.loads((top / "receipt.json").read_text())
    licences = [f"{bundle.path}/{entry['licence']}" for entry in receipt["runtime"]]
    licences += [f"{bundle.path}/share/doc/postgresql-15/COPYRIGHT"]
    script = 'for file in "$@"; do test -s "$file" || echo "$file"; done'
    missing = subprocess.run(
        namespace_command(store, ["/bin/sh", "-c", script, "sh", *licences]), capture_output=True, text=True, check=True
    ).stdout
    assert missing == ""
    assert (top / "etc/ssl/certs/ca-certificates.crt").read_bytes().count(b"BEGIN CERTIFICATE") > 100


def test_a_manifest_s_budget_fails_a_build_and_is_shown(project: TestProject) -> None:
    total = project.json("size")["closure"]
    project.edit("[platform]", f'max_closure = "{total}"\n[platform]')
    project.pgbake("build", "--no-link")
    assert project.json("size")["budget"] == total
    project.edit(f'"{total}"', '"1MB"')
    failed = project.pgbake("build", "--no-link", check=False)
    assert failed.returncode == 1
    assert "more than the 1.0 MB of `max_closure`; the largest: " in failed.stderr and "`pgbake size`" in failed.stderr
    assert " of 1.0 MB in " in project.pgbake("size").stdout


def test_why_takes_paths_names_and_files(example: TestProject, bundle: Bundle) -> None:
    (answer,) = example.json("why", "libicu72")
    path = answer["path"]
    assert answer["way"] == [str(bundle.path), path] and str(bundle.path) in answer["referrers"]
    assert "libicuuc.so.72" in answer["needed-by"]
    for name in (path, path.rpartition("/")[2], f"{path}/usr/lib", "libicuuc.so.72", "libicu72"):
        assert [item["path"] for item in example.json("why", name)] == [path], name
    (chain,) = example.json("why", "libkeyutils1")
    assert len(chain["way"]) >= 2 and chain["way"][-1] == chain["path"]
    for name, problem in (("bison", "is part of the build root"), ("libicv72", "did you mean libicu72")):
        failed = example.pgbake("why", name, check=False)
        assert failed.returncode == 2 and problem in failed.stderr
