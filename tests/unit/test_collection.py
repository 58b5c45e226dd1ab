"""No test is left out unseen."""

from __future__ import annotations

from fnmatch import fnmatch

import pytest

from tests.projects import REPOSITORY


def test_pytest_goes_into_every_directory(request: pytest.FixtureRequest) -> None:
    left_out = request.config.getini("norecursedirs")
    directories = {file.parent for file in (REPOSITORY / "tests").rglob("test_*.py")}
    assert len(directories) > 15
    for directory in directories:
        parts = directory.relative_to(REPOSITORY).parts
        assert not [(part, pattern) for part in parts for pattern in left_out if fnmatch(part, pattern)]
