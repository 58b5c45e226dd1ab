"""Images from the command line: the gate, equal bytes, what a change writes, and a real registry."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbake.bundle.merge import Bundle
from pgbake.formats.keys import SecretKey
from pgbake.store.local import LocalStore
from tests import cache
from tests.containers import Engine, may_run_containers, registry
from tests.integration.image.conftest import Image
from tests.projects import TestProject
from tests.statements import vouch

pytestmark = [
    pytest.mark.integration,
    pytest.mark.skipif(not may_run_containers(), reason="containers are made by root"),
]

KEY = SecretKey("test-1", bytes(range(32)))


@pytest.fixture(scope="module")
def port(engine: Engine) -> Iterator[str]:
    with registry(engine) as address:
        yield address


def tree(directory: Path) -> dict[str, bytes]:
    return {str(file.relative_to(directory)): file.read_bytes() for file in directory.rglob("*") if file.is_file()}


def make(project: TestProject, layout: Path, *args: str) -> dict[str, dict[str, object]]:
    """Make an image, and return its layers by their titles."""
    words = ("image", "container", "--unchecked", "--output", str(layout), *args, "--json")
    answer = json.loads(project.pgbake(*words).stdout)
    return {layer["title"]: layer for layer in answer["layers"]}


def test_equal_bundles_give_equal_images(example: TestProject, image: Image) -> None:
    """Made anew, with nothing cached, in another place, with another umask."""
    with cache.scratch_directory("images") as directory:
        downloads = directory / "cache/pgbake/downloads"
        downloads.parent.mkdir(parents=True)
        shared = cache.test_cache() / "pgbake/downloads"
        shared.mkdir(parents=True, exist_ok=True)
        downloads.symlink_to(shared)
        other = TestProject(example.directory, example.store, example.home, directory / "cache")
        before = os.umask(0o077)
        try:
            make(other, directory / "layout", "--tag", "example:15")
        finally:
            os.umask(before)
        assert tree(directory / "layout") == tree(image.layout)


def test_the_image_is_of_the_size_that_was_promised(image: Image) -> None:
    """PostgreSQL, twelve extensions and three languages."""
    assert image.answer["unpacked"] < 200_000_000
    assert len(image.answer["layers"]) < 100


def test_a_changed_extension_is_its_layer_and_those_above(project: TestProject, tmp_path: Path) -> None:
    layout = tmp_path / "layout"
    project.edit('  "numeral",\n', "")
    project.pgbake("lock")
    project.pgbake("build")
    before = make(project, layout)
    project.edit("extensions = [\n", 'extensions = [\n  "numeral",\n')
    project.pgbake("lock")
    project.pgbake("build")
    after = make(project, layout)
    changed = {title for title, layer in after.items() if layer["digest"] != before.get(title, {}).get("digest")}
    assert changed == {
        "postgresql-15-numeral-1.3", "example-postgresql-15.18", "accounts, directories, entrypoint",
    }  # fmt: skip
    assert [title for title in after if title in before] == list(before)


def test_a_bundle_from_a_cache_gives_the_same_image(
    example: TestProject, bundle: Bundle, image: Image, tmp_path: Path
) -> None:
    """By its name, on a machine that has neither project nor store, and trusts whoever vouches for its checks."""
    url = (tmp_path / "cache").as_uri()
    example.pgbake("push", "--unchecked", "--to", url, environment={"PGBAKE_SECRET_KEY": KEY.export()})
    with LocalStore(example.store) as store:
        vouch(url, store, bundle.path, KEY)
    (tmp_path / "config/pgbake").mkdir(parents=True)
    (tmp_path / "config/pgbake/config.toml").write_text(f'[trust]\nkeys = ["{KEY.public}"]\n')
    (tmp_path / "empty").mkdir()
    with cache.scratch_directory("newcomer") as directory:
        newcomer = TestProject(tmp_path / "empty", directory, tmp_path / "home")
        words = ("image", "container", "example", "--from", url, "--output", str(tmp_path / "layout"), "--json")
        done = newcomer.pgbake(*words, environment={"XDG_CONFIG_HOME": str(tmp_path / "config")})
    assert "UNCHECKED" not in done.stderr
    answer = json.loads(done.stdout)
    assert answer["name"] == "example:15.18"
    assert answer["digest"] == image.answer["digest"]


def test_the_gate_is_asked(project: TestProject, tmp_path: Path) -> None:
    project.edit('  "preprepare",\n', "")  # a bundle that nobody has checked
    project.pgbake("lock")
    project.pgbake("build")
    refused = project.pgbake("image", "container", "--output", str(tmp_path / "layout"), check=False)
    assert refused.returncode == 1
    assert "is not put into an image" in refused.stderr
    assert "--unchecked" in refused.stderr
    assert not (tmp_path / "layout").exists()


def test_a_plan_writes_nothing(example: TestProject, image: Image, tmp_path: Path) -> None:
    done = example.pgbake("image", "container", "--dry-run", "--output", str(tmp_path / "layout"))
    lines = done.stdout.splitlines()
    assert len(lines) == len(image.answer["layers"])
    assert all(line.startswith("keep  ") for line in lines)
    assert not (tmp_path / "layout").exists()


def test_push_and_pull(example: TestProject, image: Image, port: str) -> None:
    engine = image.engine
    bin_directory = engine.skopeo_for(engine.directory / "bin")
    environment = {"PATH": f"{bin_directory}:{os.environ['PATH']}", "TMPDIR": str(engine.directory)}
    target = f"{port}/db/example:15"
    words = ("image", "container", "--unchecked", "--tag", "example:15", "--insecure", "--push", target, "--json")
    answer = json.loads(example.pgbake(*words, environment=environment).stdout)
    assert answer["pushed"] == target
    assert answer["directory"] is None
    told = json.loads(engine.skopeo("inspect", "--tls-verify=false", f"docker://{target}"))
    assert told["Digest"] == answer["digest"] == image.answer["digest"]
    assert told["Labels"]["pgbake.bundle"] == answer["bundle"]
    engine.podman("pull", "--tls-verify=false", target)
    with engine.container(target, environment={"POSTGRES_PASSWORD": "x"}) as container:
        container.await_server()
        assert container.ask("CREATE EXTENSION vector; SELECT 1", "-U", "postgres") == "1"
    # In Docker's form, which has a health check for Podman.
    example.pgbake(*words, "--format", "docker", environment=environment)
    raw = json.loads(engine.skopeo("inspect", "--tls-verify=false", "--raw", f"docker://{target}"))
    assert raw["mediaType"] == "application/vnd.docker.distribution.manifest.v2+json"


def test_a_registry_that_does_not_answer(example: TestProject, engine: Engine) -> None:
    bin_directory = engine.skopeo_for(engine.directory / "bin")
    environment = {"PATH": f"{bin_directory}:{os.environ['PATH']}", "TMPDIR": str(engine.directory)}
    words = ("image", "container", "--unchecked", "--insecure", "--push", "127.0.0.1:1/example:15")
    refused = example.pgbake(*words, environment=environment, check=False)
    assert refused.returncode == 1
    assert "connection refused" in refused.stderr
    assert "skopeo login" in refused.stderr


def test_without_skopeo_it_is_told_what_to_install(example: TestProject, tmp_path: Path) -> None:
    for name in ("bwrap", "apt-get", "apt-config", "env"):
        found = subprocess.run(["which", name], capture_output=True, text=True, check=True).stdout.strip()
        (tmp_path / name).symlink_to(found)
    words = ("image", "container", "--unchecked", "--push", "127.0.0.1:1/example:15")
    refused = example.pgbake(*words, environment={"PATH": str(tmp_path)}, check=False)
    assert refused.returncode == 1
    assert "the program skopeo is not installed" in refused.stderr
    assert "apt-get install skopeo" in refused.stderr


def test_a_name_that_is_none_is_told(example: TestProject) -> None:
    refused = example.pgbake("image", "container", "--tag", "Example:15", check=False)
    assert refused.returncode == 2
    assert "small letters" in refused.stderr


def test_extensions_as_images_want_a_newer_postgresql(example: TestProject) -> None:
    refused = example.pgbake("image", "container", "--unchecked", "--extension", "pgvector", check=False)
    assert refused.returncode == 2
    assert "PostgreSQL 15 finds extensions in its own directory only" in refused.stderr
