"""Groups of commands, each a module that is imported when the command is called."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Mapping
from typing import Any

import click

#: Section of a group's help -> command -> what it does, in the order of the help.
Table = Mapping[str, Mapping[str, str]]


class LazyGroup(click.Group):
    """A group whose commands are named by a table, and found in modules of their own."""

    def __init__(self, *args: Any, table: Table, module: str, **kwargs: Any) -> None:
        """``module``: name of the module that holds a command as ``command``, with ``{}`` for the command's name."""
        super().__init__(*args, **kwargs)
        self.table = table
        self._module = module

    def list_commands(self, _ctx: click.Context) -> list[str]:
        return [name for section in self.table.values() for name in section]

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in self.list_commands(ctx):
            return None
        command = importlib.import_module(self._module.format(name)).command
        assert isinstance(command, click.Command)
        return command

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        try:
            return super().resolve_command(ctx, args)
        except click.UsageError as error:
            near = difflib.get_close_matches(args[0], self.list_commands(ctx), 1)
            if near:
                raise click.UsageError(f"{error.message} Did you mean {near[0]}?", ctx) from None
            raise

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, section in self.table.items():
            with formatter.section(title):
                formatter.write_dl(list(section.items()))
