"""Licences out of copyright files, in SPDX's words."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgbake.inputs.licences import UNKNOWN, licence_of, spdx


@pytest.mark.parametrize(
    ("debian", "name"),
    [
        ("PostgreSQL", "PostgreSQL"),
        ("Expat", "MIT"),
        ("GPL-2+", "GPL-2.0-or-later"),
        ("GPL-3", "GPL-3.0-only"),
        ("LGPL-2.1+", "LGPL-2.1-or-later"),
        ("AGPL-3", "AGPL-3.0-only"),
        ("BSD-3-clause", "BSD-3-Clause"),
        ("Apache-2.0", "Apache-2.0"),
        ("GPL-2+ or PostgreSQL", "GPL-2.0-or-later OR PostgreSQL"),
        ("GPL-2+ with OpenSSL exception", "GPL-2.0-or-later"),
    ],
)
def test_names_are_spdx(debian: str, name: str) -> None:
    assert spdx(debian) == name


def copyright_of(tmp_path: Path, text: str) -> str:
    file = tmp_path / "usr/share/doc/thing/copyright"
    file.parent.mkdir(parents=True)
    file.write_text(text)
    return licence_of(tmp_path, "thing")


def test_the_licence_of_all_files_counts(tmp_path: Path) -> None:
    text = "Format: x\n\nFiles: debian/*\nLicense: GPL-3+\n\nFiles: *\nCopyright: me\nLicense: PostgreSQL\n text\n"
    assert copyright_of(tmp_path, text) == "PostgreSQL"


def test_else_all_that_are_not_debians_count(tmp_path: Path) -> None:
    text = "Files: debian/*\nLicense: GPL-3+\n\nFiles: src/*\nLicense: Expat\n\nFiles: lib/*\nLicense: BSD-2-clause\n"
    assert copyright_of(tmp_path, text) == "MIT AND BSD-2-Clause"


def test_what_cannot_be_read_is_said(tmp_path: Path) -> None:
    assert licence_of(tmp_path, "thing") == UNKNOWN
    assert copyright_of(tmp_path, "This package was debianized by somebody.\n") == UNKNOWN
