"""Container images: size, a changed extension, and how long a container takes to its first answer, beside one of
Debian's PostgreSQL with the same entrypoint in the same engine."""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.cache import test_cache
from tests.containers import Container, Engine
from tests.debian import HOST, debian_tree
from tests.projects import TestProject

_RUNS = 5
#: What is left out first, and then is the changed extension.
_EXTENSION = "pgvector"
_ENTRYPOINT = Path("src/pgbake/image/files/docker-entrypoint.sh")


def main() -> None:
    """Print sizes and times, and their bars."""
    with tempfile.TemporaryDirectory(dir=test_cache(), prefix="bench-") as name:
        directory = Path(name)
        directory.chmod(0o755)
        project = TestProject.copy(directory / "project", directory / "home")
        _layers(dataclasses.replace(project, cache=directory / "cache"), directory / "layout")
        with Engine(directory) as engine:
            engine.load(directory / "layout", "example:bench", "localhost/example:bench")
            debian = _debian(engine, directory)
            for what, data in (("first start, with initdb", False), ("start with data", True)):
                ours = min(_start(engine, "localhost/example:bench", directory, data) for _ in range(_RUNS))
                theirs = min(_start(engine, debian, directory, data) for _ in range(_RUNS))
                times = f"{ours:.2f} s, Debian's PostgreSQL {theirs:.2f} s"
                print(f"container to SQL, {what}: {times}: {ours / theirs:.2f} times (bar 1.5)")


def _image(project: TestProject, layout: Path) -> tuple[Any, float]:
    words = ("image", "container", "--unchecked", "--output", str(layout), "--tag", "example:bench", "--json")
    begin = time.monotonic()
    answer = json.loads(project.pgbake(*words).stdout)
    return answer, time.monotonic() - begin


def _layers(project: TestProject, layout: Path) -> None:
    assert project.cache is not None
    shared = test_cache() / "pgbake/downloads"
    shared.mkdir(parents=True, exist_ok=True)
    (project.cache / "pgbake").mkdir(parents=True)
    (project.cache / "pgbake/downloads").symlink_to(shared)
    project.edit(f'  "{_EXTENSION}",\n', "")
    project.pgbake("lock")
    project.pgbake("build")
    _, cold = _image(project, layout)
    project.edit("extensions = [\n", f'extensions = [\n  "{_EXTENSION}",\n')
    project.pgbake("lock")
    project.pgbake("build")
    answer, changed = _image(project, layout)
    made = [layer["title"] for layer in answer["layers"] if layer["made"]]
    _, nothing = _image(project, layout)
    print(f"image, all layers made: {cold:.2f} s")
    print(f"image, one extension changed: {changed:.2f} s (bar 2); layers made: {', '.join(made)}")
    print(f"image, nothing changed: {nothing:.2f} s")
    weight = f"{answer['unpacked'] / 1e6:.1f} MB unpacked (bar 200), {answer['size'] / 1e6:.1f} MB compressed"
    print(f"image of the example: {weight}, {len(answer['layers'])} layers")


def _debian(engine: Engine, directory: Path) -> str:
    """Make an image of Debian's PostgreSQL that starts as ours does, and return its name."""
    tree = debian_tree("bookworm", (*HOST, "gzip", "postgresql-15"))
    root = directory / "debian"
    subprocess.run(["cp", "-a", tree, root], check=True)
    (root / "etc/passwd").write_text("root:x:0:0::/root:/bin/bash\npostgres:x:999:999::/var/lib/postgresql:/bin/bash\n")
    (root / "etc/group").write_text("root:x:0:\npostgres:x:999:\n")
    # A maintainer script would make it a link.
    shutil.rmtree(root / "var/run", ignore_errors=True)
    (root / "var/run").symlink_to("/run")
    (root / "usr/local/bin").mkdir(parents=True, exist_ok=True)
    entrypoint = root / "usr/local/bin/docker-entrypoint.sh"
    shutil.copy(_ENTRYPOINT, entrypoint)
    entrypoint.chmod(0o755)
    gosu = root / "usr/local/bin/gosu"
    gosu.write_text('#!/bin/sh\nshift\nexec setpriv --reuid=999 --regid=999 --clear-groups "$@"\n')
    gosu.chmod(0o755)
    health = root / "usr/lib/pgbake/healthcheck"
    health.parent.mkdir()
    shutil.copy(_ENTRYPOINT.with_name("healthcheck"), health)
    environment = {
        "PATH": "/usr/local/bin:/usr/bin:/usr/lib/postgresql/15/bin", "LANG": "C.UTF-8", "PG_MAJOR": "15",
        "PGDATA": "/var/lib/postgresql/data",
    }  # fmt: skip
    changes = [f"--change=ENV {name}={value}" for name, value in environment.items()]
    changes += ["--change=CMD postgres", "--change=ENTRYPOINT docker-entrypoint.sh", "--change=STOPSIGNAL SIGINT"]
    tar = directory / "debian.tar"
    subprocess.run(["tar", "-C", root, "-cf", tar, "."], check=True)
    engine.podman("import", *changes, str(tar), "localhost/debian:bench")
    tar.unlink()
    return "localhost/debian:bench"


@contextmanager
def _places(directory: Path) -> Iterator[tuple[Path, Path]]:
    with tempfile.TemporaryDirectory(dir=directory) as name:
        data, sockets = Path(name, "data"), Path(name, "run")
        for place in (data, sockets):
            place.mkdir()
            os.chown(place, 999, 999)
        yield data, sockets


def _start(engine: Engine, image: str, directory: Path, with_data: bool) -> float:
    """Return the seconds from the engine's command to the first answer of the server that is there for good."""
    with _places(directory) as (data, sockets):
        options = ["--volume", f"{data}:/var/lib/postgresql/data", "--volume", f"{sockets}:/run/postgresql"]
        password = {"POSTGRES_PASSWORD": "x", "LANG": "C.UTF-8"}
        if with_data:
            with engine.container(image, environment=password, options=options) as container:
                _await(container, data, sockets)
                container.stop()
        begin = time.monotonic()
        with engine.container(image, environment=password, options=options) as container:
            _await(container, data, sockets)
            return time.monotonic() - begin


def _await(container: Container, data: Path, sockets: Path) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        if not (data / ".pgbake-first-start").exists() and (data / "PG_VERSION").exists():
            with suppress(OSError):
                if _answers(sockets / ".s.PGSQL.5432"):
                    return
        time.sleep(0.005)
    raise AssertionError(f"no server in the container:\n{container.log}")


def _answers(path: Path) -> bool:
    """Ask a server for ``SELECT 1``, in the words of PostgreSQL's protocol 3.0."""
    with socket.socket(socket.AF_UNIX) as link:
        link.settimeout(5)
        link.connect(str(path))
        words = struct.pack("!i", 3 << 16) + b"user\0postgres\0database\0postgres\0\0"
        link.sendall(struct.pack("!i", len(words) + 4) + words)
        stream = link.makefile("rb")
        kinds = b""
        while True:
            head = stream.read(5)
            if len(head) < 5 or head[:1] == b"E":
                return False
            stream.read(struct.unpack("!i", head[1:])[0] - 4)
            kinds += head[:1]
            if kinds.count(b"Z") == 1 and head[:1] == b"Z":
                text = b"SELECT 1\0"
                link.sendall(b"Q" + struct.pack("!i", len(text) + 4) + text)
            elif head[:1] == b"Z":
                return b"D" in kinds
