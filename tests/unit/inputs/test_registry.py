"""Where crates come from: the manifest's word first, then cargo's configuration, then cargo itself."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from pgbake.errors import HostError
from pgbake.events import silent
from pgbake.inputs.fetch import fetch
from pgbake.inputs.mirrors import Mirrors
from pgbake.inputs.registry import Registry, fill
from pgbake.lock import CratePin
from tests.unit.inputs.servers import serving

PATH = "serde_json/serde_json-1.0.1+b-2.crate"


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """cargo's own directory of a user who has none of it configured."""
    monkeypatch.setenv("CARGO_HOME", str(tmp_path / "cargo"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    (tmp_path / "cargo").mkdir()
    return tmp_path / "cargo"


def index(directory: Path, dl: object) -> str:
    """Make an index of a registry, and return its URL."""
    directory.mkdir()
    (directory / "config.json").write_text(json.dumps(dl))
    return f"sparse+file://{directory}/"


def configure(home: Path, text: str, name: str = "config.toml") -> None:
    (home / name).write_text(text)


def cargo(directory: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    """Put a program in cargo's place."""
    directory.mkdir()
    program = directory / "cargo"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")


@pytest.mark.parametrize(
    ("template", "url"),
    [
        ("http://a.invalid/{crate}/{version}/download", "http://a.invalid/serde_json/1.0.1+b-2/download"),
        ("http://a.invalid/{prefix}/{crate}", "http://a.invalid/se/rd/serde_json"),
        ("http://a.invalid/{crate}?{other}", "http://a.invalid/serde_json?{other}"),
    ],
)
def test_a_template_is_filled(template: str, url: str) -> None:
    assert fill(template, PATH) == url


def test_the_manifest_comes_first_and_cargo_is_not_asked(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(home))
    named = Registry(["http://a.invalid/crates/", "http://b.invalid/{crate}/{version}"])
    assert named.templates() == (
        "http://a.invalid/crates/{crate}/{crate}-{version}.crate",
        "http://b.invalid/{crate}/{version}",
    )


def test_a_source_that_replaces_cargos_own(home: Path, tmp_path: Path) -> None:
    url = index(tmp_path / "index", {"dl": "http://a.invalid/files"})
    configure(
        home,
        '[source.crates-io]\nreplace-with = "near"\n[source.near]\nreplace-with = "nearer"\n'
        f'[source.nearer]\nregistry = "{url}"\n',
    )
    assert Registry().templates() == ("http://a.invalid/files/{crate}/{version}/download",)


def test_a_registry_that_replaces_it_and_names_a_template(home: Path, tmp_path: Path) -> None:
    url = index(tmp_path / "index", {"dl": "http://a.invalid/{prefix}/{crate}/{version}"})
    configure(
        home, f'[source.crates-io]\nreplace-with = "x"\n[registries.x]\nindex = "{url}"\n', "config"
    )  # the older name of the file
    assert Registry().templates() == ("http://a.invalid/{prefix}/{crate}/{version}",)


def test_a_local_registry(home: Path, tmp_path: Path) -> None:
    configure(home, f'[source.crates-io]\nreplace-with = "disk"\n[source.disk]\nlocal-registry = "{tmp_path}/crates"\n')
    (tmp_path / "crates").mkdir()
    (tmp_path / "crates/x-1.0.0.crate").write_bytes(b"crate")
    (template,) = Registry().templates()
    pin = CratePin("x", "1.0.0", "a" * 64, 5).pin
    assert Path(fill(template, pin.path).removeprefix("file://")).read_bytes() == b"crate"


@pytest.mark.parametrize("source", ['directory = "/vendor"', 'registry = "https://git.invalid/index"'])
def test_a_place_that_has_no_single_files_is_one_clear_error(home: Path, source: str) -> None:
    configure(home, f'[source.crates-io]\nreplace-with = "x"\n[source.x]\n{source}\n')
    with pytest.raises(HostError, match="cannot be asked for single files") as caught:
        Registry().templates()
    assert "[platform] crates" in (caught.value.hint or "")


def test_cargo_itself_is_asked_where_nothing_is_configured(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It tells what it cannot reach, for which it is sent nowhere; that index is read then."""
    with serving() as server:
        server.files["config.json"] = json.dumps({"dl": "http://a.invalid/dl"}).encode()
        said = f"failed to download from `{server.url}/config.json`"
        cargo(tmp_path / "bin", monkeypatch, f'test "$CARGO_HTTP_PROXY" || exit 3\necho "{said}" >&2\nexit 101')
        registry = Registry()
        assert registry.templates() == registry.templates() == ("http://a.invalid/dl/{crate}/{version}/download",)
        assert len(server.asked) == 1


def test_a_cargo_that_says_nothing(home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cargo(tmp_path / "bin", monkeypatch, "exit 101")
    with pytest.raises(HostError, match="the host's cargo does not say it") as caught:
        Registry().templates()
    assert "[platform] crates" in (caught.value.hint or "")


def test_no_cargo_and_no_word_of_the_manifest(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(home))
    with pytest.raises(HostError, match="there is no cargo here") as caught:
        Mirrors((), crates=Registry().templates).of("crates")
    assert "install cargo" in (caught.value.hint or "")


def test_nothing_is_looked_up_for_what_is_no_crate(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(home))
    mirrors = Mirrors(("http://a.invalid",), crates=Registry().templates)
    assert mirrors.of("debian") == ("http://a.invalid",)


@pytest.mark.parametrize("dl", ["text", {"api": "x"}])
def test_an_index_that_is_none(home: Path, tmp_path: Path, dl: object) -> None:
    url = index(tmp_path / "index", dl)
    configure(home, f'[source.crates-io]\nreplace-with = "x"\n[source.x]\nregistry = "{url}"\n')
    with pytest.raises(HostError, match="is not the configuration of a registry"):
        Registry().templates()


def test_a_crate_is_fetched_as_any_input(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import hashlib

    monkeypatch.setenv("no_proxy", "127.0.0.1")
    pin = CratePin("x", "1.0.0", hashlib.sha256(b"crate").hexdigest(), 5).pin
    with serving() as server:
        server.files["x/1.0.0/download"] = b"crate"
        mirrors = Mirrors((), crates=lambda: (f"{server.url}/{{crate}}/{{version}}/download",))
        got = fetch({"x": pin}, mirrors, tmp_path, silent)
    assert got["x"].read_bytes() == b"crate" and got["x"].name.endswith("-x-1.0.0.crate")
