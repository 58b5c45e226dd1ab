"""Directories that are made once and kept."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from pgbake.errors import CommandError, HostError, StoreError
from pgbake.image.kept import bench_for, collect, read_record, throwaway
from pgbake.run import run


class Told(msgspec.Struct):
    size: int


def test_it_is_there_when_it_is_whole(tmp_path: Path) -> None:
    place = tmp_path / "images/one"
    with bench_for(place, "record") as bench:
        assert bench is not None
        (bench / "record").write_text('{"size": 3}')
        assert not place.exists()
    assert read_record(place / "record", Told) == Told(3)
    with bench_for(place, "record") as bench:
        assert bench is None
    assert [path.name for path in place.parent.iterdir()] == ["one"]


def test_nothing_is_left_of_what_failed_or_was_killed(tmp_path: Path) -> None:
    place = tmp_path / "one"
    (tmp_path / "one.new/half").mkdir(parents=True)
    with pytest.raises(RuntimeError), bench_for(place, "record") as bench:
        assert bench is not None
        assert list(bench.iterdir()) == []
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(HostError), bench_for(place, "record"):
        raise OSError(28, "No space left on device")
    assert list(tmp_path.iterdir()) == []


def test_a_disk_that_is_full_is_told_as_such_by_whoever_says_so(tmp_path: Path) -> None:
    full = "tar: root: Cannot write: No space left on device"
    with pytest.raises(HostError, match="No space left on device") as caught, bench_for(tmp_path / "one", "r"):
        run(["sh", "-c", f"echo '{full}' >&2; exit 2"], sandbox="host")
    assert caught.value.detail == full and "free disk space" in (caught.value.hint or "")
    with pytest.raises(CommandError), bench_for(tmp_path / "one", "r"):
        run(["false"], sandbox="host")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_without_its_record_is_made_anew(tmp_path: Path) -> None:
    place = tmp_path / "one"
    place.mkdir()
    (place / "old").touch()
    assert read_record(place / "record", Told) is None
    with bench_for(place, "record") as bench:
        assert bench is not None
        (bench / "record").write_text("{}")
    assert [path.name for path in place.iterdir()] == ["record"]
    with pytest.raises(StoreError, match="is damaged"):
        read_record(place / "record", Told)


def test_what_a_killed_boot_has_left_goes_and_another_that_runs_stays(tmp_path: Path) -> None:
    (tmp_path / "boot-killed/upper").mkdir(parents=True)
    with throwaway(tmp_path) as one, throwaway(tmp_path) as other:
        assert {one, other} == set(tmp_path.iterdir())
    assert list(tmp_path.iterdir()) == []


#: Notes that a directory is used, and waits.
USES = """
import sys
from pathlib import Path
from pgbake.image.kept import use
use(Path(sys.argv[1]))
print(flush=True)
input()
"""


def test_what_nobody_has_used_goes_and_what_is_in_use_stays(tmp_path: Path) -> None:
    names = ("stage1-old", "stage1-new", "stage2-used", "workshop-old", "debs/old", "other-old", "stage2-half.new")
    for name in names:
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "content").write_bytes(bytes(10_000))
        os.utime(tmp_path / name, (1000, 3000 if name.endswith("new") else 1000))
    (tmp_path / "stage1-new/boot-killed").mkdir()
    os.utime(tmp_path / "stage1-new", (3000, 3000))
    command = [sys.executable, "-c", USES, str(tmp_path / "stage2-used")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as user:
        assert user.stdout is not None and user.stdout.readline()
        assert (tmp_path / "stage2-used").stat().st_mtime > 3000
        os.utime(tmp_path / "stage2-used", (1000, 1000))
        gone = {"debs/old", "stage1-new/boot-killed", "stage1-old", "stage2-half.new", "workshop-old"}
        for dry_run in (True, False):
            found = collect(tmp_path, 2000, dry_run=dry_run)
            assert {str(each.directory.relative_to(tmp_path)) for each in found} == gone
            assert all(each.freed >= 10_000 for each in found if "boot" not in each.directory.name)
            assert not dry_run or all((tmp_path / name).exists() for name in names)
        assert {path.name for path in tmp_path.iterdir()} == {"debs", "stage1-new", "stage2-used", "other-old"}
        user.communicate(b"\n")
    assert [each.directory.name for each in collect(tmp_path, 2000, dry_run=False)] == ["stage2-used"]


def test_what_is_being_made_stays(tmp_path: Path) -> None:
    with bench_for(tmp_path / "stage1-one", "record") as bench:
        assert bench is not None
        assert collect(tmp_path, 1e12, dry_run=False) == []
        (bench / "record").write_text("{}")
    with throwaway(tmp_path) as boot:
        assert [each.directory.name for each in collect(tmp_path, 1e12, dry_run=False)] == ["stage1-one"]
        assert boot.exists()
