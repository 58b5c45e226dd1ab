"""Which tree the programs that look at files come from, and what they are asked."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import msgspec

from pgbake.formats.system import SYSTEMS
from pgbake.image.configuration import Trial, check_files, kept_stage1, unread
from pgbake.image.lock import ImageLock, ImageSystem
from pgbake.image.stage1 import STAGE1_VERSION, Record, Stage1
from pgbake.inputs.pins import Pin
from pgbake.lock import PlatformLock
from pgbake.machine.definition import CheckRow, Cluster
from pgbake.machine.image import MachineImage

SYSTEM = SYSTEMS["x86_64-linux"]
MAIN = Cluster(15, "main", 5432)


def stage(images: Path, package: str = "1", profile: str | None = None) -> Stage1:
    pins = {"bash": Pin("1", "pool/bash.deb", 1, package * 64)}
    lock = ImageLock(2, PlatformLock("bookworm", False, False), ("bash",), {SYSTEM.name: ImageSystem(pins, {}, {})})
    return Stage1.of(images, lock, SYSTEM, MachineImage.of({}, profile, {}, MAIN, Path("pgbake.toml")))


def keep(made: Stage1) -> Record:
    record = Record(STAGE1_VERSION, made.key, "bookworm", SYSTEM.name, "0" * 64, made.packages, ())
    made.directory.mkdir(parents=True)
    (made.directory / "stage1.json").write_bytes(msgspec.json.encode(record))
    return record


def test_programs_come_from_any_stage_1_with_the_same_packages(tmp_path: Path) -> None:
    asked = stage(tmp_path)
    assert kept_stage1(tmp_path, asked) is None
    keep(stage(tmp_path, package="2"))
    (tmp_path / "stage1-damaged").mkdir()
    (tmp_path / "stage1-damaged/stage1.json").write_text("{")
    assert kept_stage1(tmp_path, asked) is None
    other = stage(tmp_path, profile="aws")
    assert other.key != asked.key
    for made in (other, asked):
        record = keep(made)
        assert kept_stage1(tmp_path, asked) == (made.directory, record)


def test_a_value_that_nobody_gave_is_told() -> None:
    where = Trial(Path("lower"), Path("upper"), Path("store"), {"/etc/one": "port = @port@\nmail = a@b.c d@e\n"})
    (finding,) = check_files(where, ())
    assert finding.said == ("/etc/one: @port@ has no value",)
    assert list(check_files(dataclasses.replace(where, files={"/etc/one": "port = 1\n"}), ())) == []


def test_files_that_no_program_reads_are_named() -> None:
    files = dict.fromkeys(("/etc/one", "/etc/two", "/etc/postgresql/15/main/pg_hba.conf"), "text")
    where = Trial(Path("lower"), Path("upper"), Path("store"), files)
    assert unread(where, [CheckRow("one", ("/etc/o*",), "true")], MAIN) == ["/etc/two"]
