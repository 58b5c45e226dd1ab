from __future__ import annotations

import hashlib
import json
import os
import struct
from pathlib import Path

import pytest

from pgbake.debs.flatten import Flat, flatten, without_store, write_flat
from pgbake.errors import StoreError
from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore

PREFIX = "/usr/lib/pgbake/postgresql-15"
OTHER = "/nix/store/" + "a" * 32 + "-libc6-2.36"


def program(interpreter: str) -> bytes:
    """An ELF file of one program header, PT_INTERP, behind which the interpreter stands."""
    text = interpreter.encode() + b"\0"
    header = b"\x7fELF\x02\x01".ljust(0x20, b"\0") + struct.pack("<Q", 0x40)
    header = header.ljust(0x36, b"\0") + struct.pack("<HH", 56, 1)
    segment = struct.pack("<IIQQQQQQ", 3, 4, 0x78, 0, 0, len(text), len(text), 1)
    return header.ljust(0x40, b"\0") + segment + text + b"rest"


def test_a_bundle_of_links_becomes_files(tmp_path: Path) -> None:
    with LocalStore(tmp_path / "root") as store:
        top = store.physical(StorePath.parse(OTHER)).parent
        package = top / OTHER.rpartition("/")[2]
        (package / "usr/lib/x").mkdir(parents=True)
        (package / "usr/lib/x/libc.so.6.1").write_text("libc")
        (package / "usr/lib/x/libc.so.6").symlink_to("libc.so.6.1")
        (package / "usr/share/zones").mkdir(parents=True)
        (package / "usr/share/zones/UTC").write_text("utc")
        (package / "usr/share/zones/Zulu").symlink_to("UTC")
        bundle = StorePath.parse("/nix/store/" + "b" * 32 + "-example")
        tree = top / bundle.basename
        (tree / "lib/x").mkdir(parents=True)
        (tree / "share").mkdir()
        for name in ("libc.so.6", "libc.so.6.1"):
            (tree / "lib/x" / name).symlink_to(f"{OTHER}/usr/lib/x/{name}")
        (tree / "share/zones").symlink_to(f"{OTHER}/usr/share/zones")
        (tree / "share/timezone").symlink_to(f"{OTHER}/usr/share/zones")
        (tree / "share/hosts").symlink_to("/etc/hosts")
        (tree / "psql").write_bytes(program(f"{OTHER}/usr/lib/x/libc.so.6"))
        (tree / "psql").chmod(0o755)
        (tree / "receipt.json").write_text(json.dumps({"packages": [{"name": "a", "path": OTHER}], "runtime": []}))
        flat = flatten(store, bundle)
        into = tmp_path / "made"
        assert sum(write_flat(flat, into, PREFIX)) > 0
    found = {str(file.relative_to(into)) for file in into.rglob("*") if not file.is_dir() or file.is_symlink()}
    assert found == {
        "lib/x/libc.so.6", "lib/x/libc.so.6.1", "share/zones/UTC", "share/zones/Zulu", "share/timezone", "share/hosts",
        "psql", "receipt.json",
    }  # fmt: skip
    assert (into / "lib/x/libc.so.6").readlink() == Path("libc.so.6.1")
    assert (into / "share/timezone").readlink() == Path("zones")
    assert (into / "share/hosts").readlink() == Path("/etc/hosts")
    assert (into / "share/timezone/Zulu").read_text() == "utc"
    assert not (into / "lib/x/libc.so.6.1").is_symlink()
    assert os.access(into / "psql", os.X_OK)
    content = (into / "psql").read_bytes()
    assert f"{PREFIX}/lib/x/libc.so.6\0".encode() in content and content.endswith(b"\0rest")
    assert len(content) == len(program(f"{OTHER}/usr/lib/x/libc.so.6"))
    assert b"/nix" not in content
    assert json.loads((into / "receipt.json").read_text())["packages"] == [{"name": "a"}]


def test_text_gets_the_prefix() -> None:
    flat = Flat(directories=["share"], files={"share/R": Path("x")})
    text = f"R_SHARE={OTHER}/usr/share/R\n".encode()
    assert without_store(text, "bin/R", flat, PREFIX) == f"R_SHARE={PREFIX}/share/R\n".encode()


@pytest.mark.parametrize(
    "content", [f"see {OTHER}/usr/share/Q".encode(), f"see {OTHER}".encode(), program(OTHER + "/usr/x")]
)
def test_what_has_no_place_is_an_error(content: bytes) -> None:
    with pytest.raises(StoreError, match="has no place outside the store"):
        without_store(content, "bin/R", Flat(), PREFIX)


def test_other_words_of_nix_stay() -> None:
    text = b"nix, /nix/var, /nix/store/short " + hashlib.sha256(b"").hexdigest().encode()
    assert without_store(text, "share/doc", Flat(), PREFIX) == text
