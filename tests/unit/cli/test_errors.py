"""A user's mistakes and a machine's faults: one clear error each, with a hint, and no traceback."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from pgbake.cli.main import COMMANDS
from tests.projects import EXAMPLE

ALL = [name for group in COMMANDS.values() for name in group]


class Project:
    """A copy of the example in a directory of its own, with an empty store."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory / "project"
        self.directory.mkdir()
        for name in ("pgbake.toml", "pgbake.lock"):
            shutil.copy(EXAMPLE / name, self.directory)
        self.store = directory / "store"
        self.cache = directory / "cache"

    def edit(self, old: str, new: str, file: str = "pgbake.toml") -> None:
        text = (self.directory / file).read_text()
        assert old in text
        (self.directory / file).write_text(text.replace(old, new, 1))

    def line(self, part: str) -> int:
        lines = (self.directory / "pgbake.toml").read_text().splitlines()
        return next(number for number, line in enumerate(lines, 1) if part in line)

    def run(
        self, *args: str, environment: Mapping[str, str] | None = None, prefix: tuple[str, ...] = ()
    ) -> subprocess.CompletedProcess[str]:
        variables = {"PGBAKE_STORE": str(self.store), "XDG_CACHE_HOME": str(self.cache)}
        return subprocess.run(
            [*prefix, sys.executable, "-m", "pgbake", "-C", str(self.directory), *args],
            env={**os.environ, **variables, **(environment or {})},
            stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False,
        )  # fmt: skip

    def fails(
        self,
        *args: str,
        status: int | None = 1,
        environment: Mapping[str, str] | None = None,
        prefix: tuple[str, ...] = (),
    ) -> tuple[str, str]:
        """Run a command that must fail, with any status for None; return its one error and its one hint."""
        done = self.run(*args, environment=environment, prefix=prefix)
        assert done.returncode == status or (status is None and done.returncode > 0), done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
        hints = [line for line in done.stderr.splitlines() if line.startswith("hint: ")]
        assert len(errors) == 1 and len(hints) == 1, done.stderr
        return errors[0].removeprefix("error: "), hints[0].removeprefix("hint: ")


@pytest.fixture
def project() -> Iterator[Project]:
    # Not below pytest's own directory, which is closed to the user that root's builds run as.
    with tempfile.TemporaryDirectory(prefix="pgbake-project-") as directory:
        Path(directory).chmod(0o755)
        yield Project(Path(directory))


@pytest.mark.parametrize("name", ALL)
def test_every_command_has_help_with_an_example(name: str) -> None:
    done = subprocess.run([sys.executable, "-m", "pgbake", name, "--help"], capture_output=True, text=True, check=True)
    assert "Example" in done.stdout and f"pgbake {name}" in done.stdout


def test_an_unknown_command_is_answered_with_the_nearest(project: Project) -> None:
    done = project.run("biuld")
    assert done.returncode == 2
    assert "No such command 'biuld'" in done.stderr and "Did you mean build?" in done.stderr


def test_an_unknown_extension_names_its_line_and_near_names(project: Project) -> None:
    project.edit('"pgvector"', '"pgvectr"')
    error, hint = project.fails("plan", status=2)
    assert error.endswith(': extensions: "pgvectr" is no recipe, and the lock does not pin it')
    assert f"pgbake.toml:{project.line('pgvectr')}:" in error
    assert "did you mean pgvector" in hint


@pytest.mark.parametrize(
    ("old", "new", "part", "way_out"),
    [
        ('suite = "bookworm"', 'suite = "trixie"', "that is a step of its own", "pgbake lock --update"),
        ("postgresql = 15", "postgresql = 16", "there is no source of PostgreSQL 16", "known: 15, 17, 18"),
        ("postgresql = 15", "postgresql = 9", "9 is no major version of PostgreSQL", "15, 17 or 18"),
        ("[platform]", '[extension.hll]\norigin = "deb"\n[platform]', "is not listed", 'add "hll"'),
        ("[platform]", '[extension.plsh]\nversion = "7"\n[platform]', "plsh", "pgbake lock"),
        (
            "[platform]",
            '[licences]\nforbid = ["GPL-*"]\n[platform]',
            "numeral has the licence GPL-2.0-or-later",
            "remove",
        ),
        ("[platform]", "[platform]\nrepository = 1", "expected array", "write a list"),
    ],
)
def test_an_extension_that_cannot_be_had_says_why(
    project: Project, old: str, new: str, part: str, way_out: str
) -> None:
    project.edit(old, new)
    error, hint = project.fails("plan", status=None)
    assert part in error and way_out in hint


def test_a_wrong_type_names_its_line(project: Project) -> None:
    project.edit("postgresql = 15", 'postgresql = "fifteen"')
    error, hint = project.fails("plan", status=2)
    assert error.endswith(f"pgbake.toml:{project.line('postgresql =')}: postgresql: expected int, got str")
    assert hint == "write a number, without quotes"


def test_a_wrong_key_names_its_line_and_the_nearest(project: Project) -> None:
    project.edit("security = false", "securty = false")
    error, hint = project.fails("plan", status=2)
    assert error.endswith(f'pgbake.toml:{project.line("securty")}: unknown key "securty" in [platform]')
    assert hint == "did you mean security?"


def test_a_missing_key_is_named(project: Project) -> None:
    project.edit('name = "example"', "")
    error, hint = project.fails("plan", status=2)
    assert 'the key "name" is missing' in error and hint == "add name = ..."


def test_broken_toml_names_its_line(project: Project) -> None:
    project.edit("postgresql = 15", "postgresql = = 15")
    error, hint = project.fails("plan", status=2)
    assert error.endswith(f"pgbake.toml:{project.line('= =')}:14: Invalid value") and "this is not TOML" in hint


@pytest.mark.parametrize(
    ("old", "new", "part"),
    [
        ('"x86_64-linux"', '"vax-linux"', '"vax-linux" is not known'),
        ('"en_US.UTF-8"', '"english"', '"english" is no locale name'),
        ('"plsh",', '"plsh", "plsh",', '"plsh" is listed twice'),
        ('name = "example"', 'name = "An Example"', '"An Example" is no bundle name'),
    ],
)
def test_a_meaningless_value_is_named(project: Project, old: str, new: str, part: str) -> None:
    project.edit(old, new)
    error, _ = project.fails("plan", status=2)
    assert part in error and "pgbake.toml:" in error


def test_without_a_manifest(tmp_path: Path) -> None:
    empty = Project(tmp_path)
    (empty.directory / "pgbake.toml").unlink()
    error, hint = empty.fails("plan", status=2)
    assert error.startswith("there is no pgbake.toml in") and "pgbake init" in hint


def test_without_a_lock(project: Project) -> None:
    (project.directory / "pgbake.lock").unlink()
    error, hint = project.fails("build")
    assert error.endswith("pgbake.lock") and error.startswith("there is no") and "pgbake lock" in hint


def test_a_damaged_lock(project: Project) -> None:
    project.edit('"sources"', '"sauces"', "pgbake.lock")
    error, hint = project.fails("plan")
    assert "is damaged" in error and "pgbake lock" in hint


def test_a_lock_of_another_version(project: Project) -> None:
    project.edit('"version": 2', '"version": 99', "pgbake.lock")
    error, _ = project.fails("plan")
    assert "has version 99; this pgbake writes version 2" in error


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (('"plsh",', '"plsh", "unmade",'), "it does not pin unmade"),
        (("updates = false", "updates = true"), "it was made for another suite"),
        (("security = false", "security = true"), "it was made for another suite, or other pockets"),
    ],
)
def test_a_lock_out_of_date_says_what_differs(project: Project, change: tuple[str, str], why: str) -> None:
    recipes = project.directory / "recipes"
    recipes.mkdir()
    (recipes / "unmade.toml").write_text(
        'name = "unmade"\nsummary = "s"\nlicence = "MIT"\nbuilder = "pgxs"\nsource = { debian = "unmade" }\n'
    )
    project.edit(*change)
    for command in (["plan"], ["build"], ["lock", "--check"]):
        error, hint = project.fails(*command)
        assert error.startswith("the lock is out of date: ") and why in error and hint == "run `pgbake lock`"


def test_a_recipe_that_is_wrong_names_its_file_and_line(project: Project) -> None:
    recipes = project.directory / "recipes"
    recipes.mkdir()
    (recipes / "mine.toml").write_text(
        'name = "mine"\nsummary = "s"\nlicence = "MIT"\nbuilder = "cmaek"\nsource = { debian = "x" }\n'
    )
    error, _ = project.fails("plan", status=2)
    assert "recipes/mine.toml:4: builder: invalid enum value" in error


@pytest.mark.parametrize(("name", "part"), [("support", "a part of every bundle"), ("other", 'call it "other"')])
def test_a_recipe_with_a_name_that_is_not_its_own(project: Project, name: str, part: str) -> None:
    recipes = project.directory / "recipes"
    recipes.mkdir()
    own = name if name == "support" else "mine"
    (recipes / f"{name}.toml").write_text(
        f'name = "{own}"\nsummary = "s"\nlicence = "MIT"\nbuilder = "pgxs"\nsource = {{ debian = "x" }}\n'
    )
    done = project.run("plan")
    assert done.returncode == 2 and part in done.stderr and f"recipes/{name}.toml:1: name:" in done.stderr


AS_OTHER = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups") if os.geteuid() == 0 else ()


def make_unreadable(file: Path, how: str) -> None:
    """Put something else in the place of a file."""
    content = file.read_bytes()
    file.unlink()
    match how:
        case "directory":
            file.mkdir()
        case "pipe":
            os.mkfifo(file)
        case "device":
            file.symlink_to("/dev/zero")
        case "circle":
            file.symlink_to(file.name)
        case "huge":
            with file.open("wb") as stream:
                stream.truncate(10**12)  # of no block
        case "latin1":
            file.write_bytes(content.replace(b"\n", b"\n# caf\xe9\n", 1))
        case "nul":
            file.write_bytes(content.replace(b"\n", b"\n\0\n", 1))
        case "binary":
            file.write_bytes(bytes(range(256)) * 100)
        case "deep":
            file.write_bytes(b"[" * 100_000 if file.suffix == ".lock" else b"x = " + b"[" * 100_000)
        case "long number":
            file.write_bytes(b"x = " + b"9" * 10_000)
        case "half":
            file.write_bytes(content[: len(content) // 2])
        case "empty":
            file.touch()


@pytest.mark.parametrize(
    ("how", "part", "typed"),
    [
        ("directory", ": Is a directory", "ls -l"),
        ("pipe", ": it is no regular file", "ls -l"),
        ("device", ": it is no regular file", "ls -l"),
        ("huge", ": it is larger than 1 MB", "ls -l"),
        ("latin1", "pgbake.toml:2:6: byte 0xe9 is not UTF-8", "iconv"),
        ("nul", "pgbake.toml:2:1: ", "this is not TOML"),
        ("binary", "pgbake.toml:2:118: byte 0x80 is not UTF-8", "iconv"),
        ("deep", "too deeply", "this is not TOML"),
        ("long number", "pgbake.toml: Exceeds the limit", "this is not TOML"),
        ("empty", 'the key "name" is missing', "add name"),
    ],
)
def test_a_manifest_that_cannot_be_read(project: Project, how: str, part: str, typed: str) -> None:
    make_unreadable(project.directory / "pgbake.toml", how)
    error, hint = project.fails("plan", status=2)
    assert part in error and f"{project.directory}/pgbake.toml" in error and typed in hint
    assert len(error) < 300


@pytest.mark.parametrize(
    ("how", "part"),
    [
        ("directory", ": Is a directory"),
        ("pipe", ": it is no regular file"),
        ("device", ": it is no regular file"),
        ("circle", "Too many levels of symbolic links"),
        ("huge", ": it is larger than 50 MB"),
        ("nul", "is damaged: JSON is malformed"),
        ("binary", "is damaged: JSON is malformed"),
        ("deep", "is damaged: "),
        ("half", "is damaged: Input data was truncated"),
        ("empty", "is damaged: Input data was truncated"),
    ],
)
def test_a_lock_that_cannot_be_read(project: Project, how: str, part: str) -> None:
    make_unreadable(project.directory / "pgbake.lock", how)
    error, hint = project.fails("plan")
    assert part in error and f"{project.directory}/pgbake.lock" in error and ("ls -l" in hint or "pgbake lock" in hint)
    assert len(error) < 300


def test_a_manifest_with_a_mark_of_its_encoding_is_read(project: Project) -> None:
    file = project.directory / "pgbake.toml"
    file.write_bytes(b"\xef\xbb\xbf" + file.read_bytes())
    assert project.run("plan").returncode == 0


@pytest.mark.parametrize("name", ["pgbake.toml", "pgbake.lock"])
def test_files_that_are_closed_to_this_user(project: Project, name: str) -> None:
    (project.directory / name).chmod(0)
    project.store.mkdir()
    error, hint = project.fails("plan", status=1 if name == "pgbake.lock" else 2, prefix=AS_OTHER)
    assert f"cannot read {project.directory}/{name}: Permission denied" in error and "chmod u+r" in hint


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root to become another user")
def test_in_a_directory_that_is_closed_to_this_user(project: Project) -> None:
    project.directory.chmod(0o700)
    (project.directory / "below").mkdir()
    done = subprocess.run(
        [*AS_OTHER, sys.executable, "-m", "pgbake", "plan"], cwd=project.directory / "below",
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 2 and done.stderr.startswith("error: cannot read "), done.stderr
    assert "below/pgbake.toml: Permission denied" in done.stderr and "hint: make it readable" in done.stderr


def test_an_unknown_package_is_answered_with_the_nearest(project: Project) -> None:
    error, hint = project.fails("build", "pgvecto", status=2)
    assert error == 'the bundle has no package "pgvecto"' and "pgvector" in hint


def test_a_log_that_is_not_there(project: Project) -> None:
    error, hint = project.fails("log", "pgvector", status=2)
    assert "was not built on this machine" in error and "pgbake build" in hint


def test_a_pin_that_does_not_move_by_itself(project: Project) -> None:
    error, hint = project.fails("lock", "--update", "libssl4", status=2)
    assert '"libssl4"' in error and "libssl3" in hint


def test_another_systems_bundle_is_planned_but_not_built(project: Project) -> None:
    plan = json.loads(project.run("plan", "--system", "aarch64-linux", "--json").stdout)
    assert plan["build"] and plan["fetch"]
    error, hint = project.fails("build", "--system", "aarch64-linux")
    assert error == "this machine cannot build for aarch64-linux" and "pgbake plan" in hint


def test_plan_and_dry_run_change_nothing_and_ask_nobody(project: Project) -> None:
    project.edit("[platform]", '[platform]\nmirrors = ["http://127.0.0.1:9"]')
    for command in (["plan"], ["build", "--dry-run"]):
        done = project.run(*command)
        assert done.returncode == 0 and "To fetch:" in done.stdout and "postgresql-15.18" in done.stdout
    assert not list((project.store / "nix/store").glob("*-*"))


def test_a_mirror_that_is_down_is_named(project: Project) -> None:
    project.edit("[platform]", '[platform]\nmirrors = ["http://127.0.0.1:9", "file:///nowhere"]')
    error, hint = project.fails("build", "locales")
    done = project.run("build", "locales")
    assert "no mirror" in error and "http://127.0.0.1:9" in done.stderr and "file:///nowhere" in done.stderr
    assert hint


@pytest.fixture
def bare_path(tmp_path: Path) -> str:
    """A PATH with nothing in it."""
    directory = tmp_path / "bin"
    directory.mkdir()
    return str(directory)


def test_without_bubblewrap(project: Project, bare_path: str) -> None:
    error, hint = project.fails("build", environment={"PATH": bare_path})
    assert error == "the program bwrap is not installed" and hint == "install it: apt-get install bubblewrap"


def test_where_namespaces_are_forbidden(project: Project) -> None:
    # In a user namespace of our own, forbid making further ones.
    forbid = 'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"'
    prefix = ("unshare", "--user", "--map-root-user", "sh", "-c", forbid, "sh")
    probe = subprocess.run([*prefix, "true"], capture_output=True, check=False)
    if probe.returncode != 0:
        pytest.skip("this machine lets no user namespace be made at all")
    error, hint = project.fails("build", prefix=prefix)
    assert "forbids user namespaces" in error and "user.max_user_namespaces = 0" in error
    assert hint == "as root: sysctl -w user.max_user_namespaces=65536"


def test_init_does_not_overwrite(project: Project) -> None:
    before = (project.directory / "pgbake.toml").read_text()
    error, _ = project.fails("init", status=2)
    assert "there is a" in error
    assert (project.directory / "pgbake.toml").read_text() == before


def test_init_writes_a_manifest_that_is_read(tmp_path: Path) -> None:
    fresh = Project(tmp_path)
    for file in fresh.directory.iterdir():
        file.unlink()
    assert fresh.run("init", "--name", "shop", "pgvector").returncode == 0
    text = (fresh.directory / "pgbake.toml").read_text()
    assert "security = true" in text and "updates = true" in text
    error, hint = fresh.fails("plan")
    assert error.startswith("there is no") and error.endswith("pgbake.lock") and "pgbake lock" in hint


def test_size_and_why_before_a_build(project: Project) -> None:
    for command in (["size"], ["why", "libicu"]):
        error, hint = project.fails(*command, status=2)
        assert error == "the bundle is not built yet" and hint == "run `pgbake build`"
