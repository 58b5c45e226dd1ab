"""Sources that no Debian index names: by URL, and in a directory."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from pgbake.errors import InputError
from pgbake.events import silent
from pgbake.inputs.upstream import copy_directory, pin_url
from tests.unit.inputs.servers import Server


def test_a_tarball_is_pinned_and_stays_among_the_downloads(server: Server, tmp_path: Path) -> None:
    server.files["files/thing-1.0.tar.gz"] = b"content"
    pin = pin_url(f"{server.url}/files/thing-1.0.tar.gz", "1.0", tmp_path, silent)
    digest = hashlib.sha256(b"content").hexdigest()
    assert (pin.version, pin.path, pin.size, pin.sha256) == ("1.0", "thing-1.0.tar.gz", 7, digest)
    assert pin.archive == f"{server.url}/files"
    assert [file.name for file in tmp_path.iterdir()] == [f"{digest}-thing-1.0.tar.gz"]


def test_a_file_on_disk_has_a_url_too(tmp_path: Path) -> None:
    (tmp_path / "thing 1.tar").write_bytes(b"x")
    pin = pin_url(f"file://{tmp_path}/thing%201.tar", "1", tmp_path / "downloads", silent)
    assert pin.path == "thing 1.tar" and (tmp_path / f"downloads/{pin.sha256}-thing 1.tar").exists()


@pytest.mark.parametrize("url", ["file:///nowhere/at-all.tar", "thing.tar", "http://127.0.0.1:9/thing.tar"])
def test_what_is_not_there_is_one_error(url: str, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        pin_url(url, "1", tmp_path, silent)
    assert caught.value.hint
    assert list(tmp_path.iterdir()) == []


def test_a_missing_file_of_a_server(server: Server, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="404"):
        pin_url(f"{server.url}/none.tar", "1", tmp_path, silent)


def test_another_content_than_the_recipe_says_is_refused(server: Server, tmp_path: Path) -> None:
    server.files["thing.tar"] = b"evil"
    with pytest.raises(InputError, match="wrong content") as caught:
        pin_url(f"{server.url}/thing.tar", "1", tmp_path, silent, "0" * 64)
    assert "expected sha256 000" in (caught.value.detail or "")
    assert list(tmp_path.iterdir()) == []


def test_a_directory_is_copied_without_what_builds_leave(tmp_path: Path) -> None:
    source = tmp_path / "source"
    for name in ("Makefile", "src/a.c", "src/a.o", ".git/config", "target/debug/x", "results/a.out", "run.sh"):
        (source / name).parent.mkdir(parents=True, exist_ok=True)
        (source / name).write_text(name)
    (source / "run.sh").chmod(0o755)
    (source / "link").symlink_to("src/a.c")
    copy_directory(source, tmp_path / "copy")
    copied = {path.relative_to(tmp_path / "copy").as_posix() for path in (tmp_path / "copy").rglob("*")}
    assert copied == {"Makefile", "src", "src/a.c", "run.sh", "link"}
    assert (tmp_path / "copy/run.sh").stat().st_mode & 0o100 and (tmp_path / "copy/link").is_symlink()


def test_no_directory_is_one_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is no directory"):
        copy_directory(tmp_path / "nowhere", tmp_path / "copy")
