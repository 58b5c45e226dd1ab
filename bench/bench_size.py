"""How large the example bundle's closure is, with every procedural language and with none."""

from __future__ import annotations

import tempfile
from pathlib import Path

from tests.projects import TestProject


def main() -> None:
    """Print both sizes and their bars."""
    with tempfile.TemporaryDirectory() as directory:
        project = TestProject.copy(Path(directory, "project"), Path(directory, "home"))
        for title, bar in (("with every PL", 200), ("without", 150)):
            project.pgbake("build")
            size = project.json("size")["closure"]
            print(f"closure {title}: {size / 1e6:.1f} MB (bar {bar})")
            if bar == 200:
                project.edit('languages = ["plperl", "plpython3u", "pltcl"]', "languages = []")
