"""The page of commands is what the commands say."""

from __future__ import annotations

import subprocess
import sys

from tests.projects import REPOSITORY


def test_the_reference_is_current() -> None:
    page = subprocess.run(
        [sys.executable, str(REPOSITORY / "scripts/reference")], capture_output=True, text=True, check=True
    ).stdout
    assert (REPOSITORY / "docs/commands.md").read_text() == page, (
        "run: .venv/bin/python scripts/reference > docs/commands.md"
    )
