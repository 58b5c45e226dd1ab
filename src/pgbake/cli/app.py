"""What every command shares: the options before it, the project, the store, and where output goes."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from pgbake.builders import Builders
    from pgbake.checks.check import Checks
    from pgbake.events import Sink
    from pgbake.places import Engine
    from pgbake.project import Project
    from pgbake.store.local import LocalStore


@dataclass
class App:
    """The options before the command, and what follows from them."""

    directory: Path
    store_option: Path | None
    progress: str
    verbose: bool
    engine_choice: Engine | None = None
    builders_option: str | None = None

    @property
    def engine(self) -> tuple[Engine, str]:
        """Which engine builds, and why."""
        from pgbake.places import engine

        return engine(self.store_option, self.engine_choice)

    @property
    def builders(self) -> Builders:
        """The machines that Nix is to build on: those named on the command line, else those of the manifest.

        :raises ManifestError: what names them means nothing.
        """
        from pgbake.builders import Builders, builders_of, parse_machines

        if self.builders_option is not None:
            return parse_machines(self.builders_option, "--builders")
        return builders_of(self.project.manifest.builders) if self.has_project else Builders()

    @cached_property
    def project(self) -> Project:
        """The project of the directory that the command runs in."""
        from pgbake.project import find_project

        return find_project(self.directory.absolute())

    @cached_property
    def has_project(self) -> bool:
        """Whether the directory belongs to a project."""
        from pgbake.manifest import MANIFEST_NAME

        start = self.directory.absolute()
        return any((directory / MANIFEST_NAME).exists() for directory in (start, *start.parents))

    @cached_property
    def checks(self) -> Checks:
        """The project's bundle with its checks, for this machine."""
        from pgbake.checks.check import lower_checks
        from pgbake.formats.system import host_system

        project, system = self.project, host_system()
        tests = project.directory / "tests"
        return lower_checks(project.bundle(system), project.manifest, project.catalogue, project.lock, system, tests)

    @cached_property
    def store(self) -> LocalStore:
        """The store, opened once for the whole command."""
        return self.open_store()

    def open_store(self, *, release_reserve: bool = False) -> LocalStore:
        """Open the store until the command ends; see :class:`LocalStore`."""
        from pgbake.places import data_dir, store_root
        from pgbake.store.local import LocalStore

        store: LocalStore
        if self.engine[0] == "nix":
            from pgbake.store.nix import NixStore

            store = NixStore(data_dir())
        else:
            store = LocalStore(store_root(self.store_option), release_reserve=release_reserve)
        store.temp_roots.on_wait = lambda holder: self.note(f"garbage is collected by {holder}; waiting for it")
        click.get_current_context().call_on_close(store.close)
        return store

    def require_own_store(self) -> None:
        """Refuse to care for a store that is Nix's.

        :raises StoreError: it is.
        """
        from pgbake.errors import StoreError

        if self.engine[0] == "nix":
            raise StoreError(
                "the store at /nix/store belongs to Nix, which is installed on this machine",
                hint="`nix-store --gc`, `--verify`, `--repair-path` and `--optimise` care for it; with "
                "--engine local, pgbake has a store of its own",
            )

    @property
    def store_root(self) -> Path:
        """The root below which the store lies."""
        from pgbake.places import store_root

        if self.engine[0] == "nix":
            return Path("/")

        return store_root(self.store_option)

    def close_store(self) -> None:
        """Close the store, which is opened anew when it is asked for next."""
        store = self.__dict__.pop("store", None)
        if store is not None:
            store.close()

    @contextmanager
    def reporting(self) -> Iterator[Sink]:
        """Give a sink that draws the events of the ``with`` block on standard error."""
        from pgbake.cli.progress import display

        with display(self.progress, self.verbose) as sink:
            yield sink

    def say(self, text: str = "") -> None:
        """Print one line of a command's answer to standard output."""
        click.echo(text)

    def note(self, text: str) -> None:
        """Print lines that are no part of the answer to standard error."""
        if self.progress == "json":
            from pgbake.cli.progress import json_line
            from pgbake.events import Notice

            json_line(Notice("warning" if text.startswith("warning: ") else "info", text.removeprefix("warning: ")))
        else:
            click.echo(text, err=True)

    def say_json(self, value: Any) -> None:
        """Print a command's answer for a program: one JSON document."""
        import msgspec

        click.echo(msgspec.json.format(msgspec.json.encode(value), indent=2).decode())


pass_app = click.make_pass_decorator(App)

json_option = click.option("--json", "as_json", is_flag=True, help="Print the answer as JSON.")


def engine_option(**more: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option ``--engine``."""
    return click.option(
        "--engine",
        type=click.Choice(["local", "nix"]),
        help="Who builds: pgbake itself, or the Nix of this machine [default: Nix where it owns /nix].",
        **more,
    )


def builders_option(**more: Any) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Return the option ``--builders``."""
    return click.option(
        "--builders",
        metavar="MACHINES",
        help="Where Nix builds: lines of its machines file, parted by ;, or @FILE; nix: where its own configuration "
        "says [default: the manifest's].",
        **more,
    )


system_option = click.option("--system", metavar="SYSTEM", help="System to work for, such as x86_64-linux.")


def on_terminal() -> bool:
    """Whether a person watches standard error."""
    return sys.stderr.isatty() and os.environ.get("TERM") not in (None, "dumb")
