from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pgbake.debs.archive import build_deb, write_control
from pgbake.debs.repository import Entry, Repository, newest


def deb(repository: Repository, scratch: Path, version: str) -> Path:
    tree = scratch / version
    (tree / "usr/share/doc/a").mkdir(parents=True)
    (tree / "usr/share/doc/a/text").write_text(version)
    control = f"Package: a\nVersion: {version}\nArchitecture: amd64\nMaintainer: A <a@b.org>\nDescription: a\n text\n"
    write_control(tree, control, {})
    file = repository.pool("a") / f"a_{version}_amd64.deb"
    file.parent.mkdir(parents=True, exist_ok=True)
    build_deb(tree, file, 315532800)
    return file


def publish(repository: Repository, *files: Path, prune: bool = False) -> list[Entry]:
    with repository.locked():
        return repository.publish(files, None, prune=prune, epoch=315532800)


@pytest.fixture
def repository(tmp_path: Path) -> Repository:
    return Repository(tmp_path / "repo", "bookworm", "amd64")


def test_what_is_there_stays(repository: Repository, tmp_path: Path) -> None:
    publish(repository, deb(repository, tmp_path, "1"))
    publish(repository, deb(repository, tmp_path, "10"))
    publish(repository, deb(repository, tmp_path, "9"))
    assert [entry.version for entry in repository.entries()] == ["1", "9", "10"]
    entry = repository.entries()[0]
    file = repository.root / entry.field("Filename")
    assert entry.field("SHA256") == hashlib.sha256(file.read_bytes()).hexdigest()
    assert entry.field("Size") == str(file.stat().st_size)
    assert entry.paragraph.endswith("Description: a\n text")


def test_pruning_leaves_the_newest(repository: Repository, tmp_path: Path) -> None:
    publish(repository, *(deb(repository, tmp_path, version) for version in ("1", "9")))
    gone = publish(repository, deb(repository, tmp_path, "10"), prune=True)
    assert [entry.version for entry in gone] == ["1", "9"]
    assert [file.name for file in repository.pool("a").iterdir()] == ["a_10_amd64.deb"]
    assert [entry.version for entry in repository.entries()] == ["10"]


def test_indexes_of_the_release_before_can_still_be_had(repository: Repository, tmp_path: Path) -> None:
    hashes = repository.dist / "main/binary-amd64/by-hash/SHA256"
    seen = []
    for version in ("1", "2", "3"):
        publish(repository, deb(repository, tmp_path, version))
        seen.append(hashlib.sha256((repository.dist / "main/binary-amd64/Packages").read_bytes()).hexdigest())
        release = (repository.dist / "Release").read_text()
        assert "Acquire-By-Hash: yes" in release and seen[-1] in release
        assert (hashes / seen[-1]).exists()
    assert not (hashes / seen[0]).exists() and (hashes / seen[1]).exists()
    assert len(list(hashes.iterdir())) == 6


def test_other_architectures_stay_in_the_release(repository: Repository, tmp_path: Path) -> None:
    publish(repository, deb(repository, tmp_path, "1"))
    other = Repository(repository.root, "bookworm", "arm64")
    publish(other)
    release = (repository.dist / "Release").read_text()
    assert "Architectures: amd64 arm64" in release
    assert "main/binary-amd64/Packages.xz" in release and "main/binary-arm64/Packages.xz" in release


def test_nothing_new_writes_nothing(repository: Repository, tmp_path: Path) -> None:
    publish(repository, deb(repository, tmp_path, "1"))
    before = (repository.dist / "Release").stat().st_ino
    publish(repository)
    assert (repository.dist / "Release").stat().st_ino == before


def test_equal_trees_give_equal_bytes(repository: Repository, tmp_path: Path) -> None:
    first = deb(repository, tmp_path / "x", "1").read_bytes()
    assert deb(repository, tmp_path / "y", "1").read_bytes() == first


def test_the_newest_is_dpkgs_newest() -> None:
    entries = [Entry(f"Package: a\nVersion: {version}") for version in ("1.10-1", "1.9-1", "1.10-1~rc1")]
    assert [entry.version for entry in newest(entries)] == ["1.10-1"]


def test_what_a_killed_run_left_goes(repository: Repository, tmp_path: Path) -> None:
    (repository.pool("a") / ".packing-x/tree").mkdir(parents=True)
    publish(repository, deb(repository, tmp_path, "1"))
    assert [file.name for file in repository.pool("a").iterdir()] == ["a_1_amd64.deb"]
