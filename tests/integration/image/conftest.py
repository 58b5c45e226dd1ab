"""A container engine with an image of the example, for all tests of images."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from tests.cache import scratch_directory
from tests.containers import Engine
from tests.projects import TestProject


@dataclass(frozen=True)
class Image:
    """An image of the example.

    :param name: in the engine.
    :param layout: that it was written into.
    :param answer: what the command said.
    """

    engine: Engine
    name: str
    layout: Path
    answer: Any


@pytest.fixture(scope="session")
def engine() -> Iterator[Engine]:
    with scratch_directory("engine") as directory, Engine(directory) as engine:
        yield engine


@pytest.fixture(scope="session")
def image(example: TestProject, engine: Engine) -> Image:
    layout = engine.directory / "layout"
    words = ("image", "container", "--unchecked", "--output", str(layout), "--tag", "example:15", "--json")
    answer = json.loads(example.pgbake(*words).stdout)
    engine.load(layout, "example:15", "localhost/example:15")
    return Image(engine, "localhost/example:15", layout, answer)
