"""docs/contract.md says what the tests hold, and which variables the bundle sets."""

from __future__ import annotations

import ast
import re

from pgbake.bundle.environment import debian_rows
from tests.projects import REPOSITORY

CONTRACT = (REPOSITORY / "docs/contract.md").read_text(encoding="utf-8")


def test_every_row_is_held_by_tests() -> None:
    tests = {
        node.name
        for file in (REPOSITORY / "tests").rglob("test_*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    rows = [line.split("|")[1:-1] for line in CONTRACT.splitlines() if line.startswith("| ")][1:]
    rows = [row for row in rows if not row[0].startswith(" ---")]
    assert len(rows) > 20
    for row in rows:
        assert len(row) == 4, row
        named = re.findall(r"`(test_\w+)`", row[3])
        assert named, f"no test holds: {row[0]}"
        assert set(named) <= tests, row


def test_every_variable_is_named() -> None:
    block = re.search(r"hands them on to nobody:\n\n((?:    .*\n)+)", CONTRACT)
    assert block and block[1].split() == sorted(row.variable for row in debian_rows("x86_64-linux-gnu"))
