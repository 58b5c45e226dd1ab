from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from pgbake.bundle.receipt import read_receipt
from pgbake.errors import ManifestError
from pgbake.formats.storepath import StorePath
from pgbake.formats.system import host_system
from pgbake.image.container import Container
from pgbake.image.extension import ExtensionImage
from pgbake.store.local import LocalStore

PACKAGE = "/nix/store/" + "a" * 32 + "-postgresql-18-shop-1.2"
LIBRARY = "/nix/store/" + "b" * 32 + "-libown1-3"
BUNDLE = "/nix/store/" + "c" * 32 + "-example-postgresql-18.1"


def make(root: Path, major: int = 18) -> Container:
    """A bundle that is nothing but its receipt, an extension, and libraries; its ELF files are this machine's."""
    triplet = host_system().triplet
    package, library, bundle = (root / path.lstrip("/") for path in (PACKAGE, LIBRARY, BUNDLE))
    modules = package / f"usr/lib/postgresql/{major}/lib"
    scripts = package / f"usr/share/postgresql/{major}/extension"
    for directory in (modules, scripts, package / "usr/share/doc/shop", library / "usr/share/doc/libown1"):
        directory.mkdir(parents=True)
    (scripts / "shop.control").write_text("default_version = '1.2'\n")
    (package / "usr/share/doc/shop/copyright").write_text("mine")
    (package / "usr/share/doc/shop/README").write_text("long")
    (library / "usr/share/doc/libown1/copyright").write_text("theirs")
    (library / f"usr/lib/{triplet}").mkdir(parents=True)
    libraries = bundle / "lib" / triplet
    programs = bundle / f"lib/postgresql/{major}/bin"
    libraries.mkdir(parents=True)
    programs.mkdir(parents=True)
    # A module that needs a library of its own; a server that needs libc only.
    build(library / f"usr/lib/{triplet}/libown.so.1", "int own(void) { return 1; }", "-Wl,-soname,libown.so.1")
    own = library / f"usr/lib/{triplet}/libown.so.1"
    build(modules / "shop.so", "int own(void); int shop(void) { return own(); }", str(own))
    build(programs / "postgres", "int serve(void) { return 0; }")
    (libraries / "libown.so.1").symlink_to(f"{LIBRARY}/usr/lib/{triplet}/libown.so.1")
    (libraries / "libc.so.6").symlink_to(f"{LIBRARY}/usr/lib/{triplet}/libc.so.6")
    (library / f"usr/lib/{triplet}/libc.so.6").write_bytes(b"no elf")
    receipt = {
        "version": 1, "name": "example-postgresql-18.1", "system": host_system().name, "platform": "trixie",
        "postgresql": {"version": f"{major}.1", "major": major},
        "packages": [
            {"name": "postgresql", "version": f"{major}.1", "path": PACKAGE},
            {"name": "shop", "version": "1.2", "path": PACKAGE},
        ],
        "extensions": [
            {
                "name": "shop_sql", "package": "shop", "version": "1.2", "comment": "", "requires": [],
                "trusted": False,
                "libraries": ["shop.so"], "preload": ["shop"], "settings": {},
            }
        ],
        "preload": ["shop"], "settings": {}, "locales": [], "collations": {}, "kernel": "3.2.0",
    }  # fmt: skip
    (bundle / "receipt.json").write_text(json.dumps(receipt))
    store = LocalStore(root)
    return Container(store, StorePath.parse(BUNDLE), read_receipt(bundle), {}, 1)


def build(into: Path, source: str, *options: str) -> None:
    command = [
        "cc",
        "-shared",
        "-fPIC",
        "-nostartfiles",
        "-o",
        str(into),
        "-x",
        "c",
        "-",
        "-x",
        "none",
        *options,
        "-lc",
    ]
    subprocess.run(command, input=source, text=True, check=True)


needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="ELF files are made by a compiler")


@needs_compiler
def test_the_layout_is_cloudnativepgs(tmp_path: Path) -> None:
    image = ExtensionImage.of(make(tmp_path), "shop")
    (layer,) = image.layers(lambda _pins: {}, tmp_path)
    assert sorted(entry.path for entry in layer.entries()) == [
        "lib/shop.so", "licenses/libown1/copyright", "licenses/shop/copyright", "share/extension/shop.control",
        "system/libown.so.1",
    ]  # fmt: skip
    assert image.default_name == "shop:1.2-18-trixie"
    assert "Entrypoint" not in image.config["config"]


@needs_compiler
def test_what_a_cluster_says_to_have_it(tmp_path: Path) -> None:
    """It may be named as SQL does."""
    assert ExtensionImage.of(make(tmp_path), "shop_sql").stanza("registry.example.org/shop:1").splitlines() == [
        "spec:",
        "  postgresql:",
        "    shared_preload_libraries:",
        "      - shop",
        "    extensions:",
        "      - name: shop",
        "        image:",
        "          reference: registry.example.org/shop:1",
        "        ld_library_path:",
        "          - system",
    ]


@needs_compiler
def test_one_that_the_bundle_has_not(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match='no extension "hop"') as caught:
        ExtensionImage.of(make(tmp_path), "hop")
    assert caught.value.hint == "there are: shop"


@needs_compiler
def test_an_older_postgresql_looks_in_one_place(tmp_path: Path) -> None:
    with pytest.raises(ManifestError, match="its own directory only"):
        ExtensionImage.of(make(tmp_path, 17), "shop")
