from __future__ import annotations

from debian.changelog import Changelog
from debian.copyright import Copyright
from debian.deb822 import Deb822

from pgbake.debs import texts


def test_a_control_file_is_read_back() -> None:
    text = texts.description("Vectors and their indexes.", ("word " * 40, "another paragraph"))
    control = Deb822(texts.control_file({"Package": "a", "Depends": "", "Description": text}))
    assert control["Package"] == "a" and "Depends" not in control
    assert control["Description"].splitlines()[0] == "Vectors and their indexes"
    assert " .\n another paragraph" in control["Description"]
    assert all(len(line) < 80 for line in control["Description"].splitlines())


def test_a_changelog_is_read_back() -> None:
    text = texts.changelog("a", "1.0-1+pgbake12.1", "bookworm", ("Built of a.tar.gz.",), "A B <a@b.org>", 315532800)
    changelog = Changelog(text, strict=True)
    assert (str(changelog.version), changelog.distributions, changelog.author) == (
        "1.0-1+pgbake12.1", "bookworm", "A B <a@b.org>",
    )  # fmt: skip
    assert changelog.date == "Tue, 01 Jan 1980 00:00:00 -0000"


def test_a_copyright_file_is_read_back() -> None:
    licence = "The Licence\n\nCopyright (c) 2019-2024, A Group\nDo what you want."
    text = texts.copyright_file("birds", "PostgreSQL", "https://example.org/", "birds.tar.gz", {"LICENSE": licence})
    parsed = Copyright(text.splitlines(), strict=True)
    (files,) = parsed.all_files_paragraphs()
    words = Deb822(files.dump())
    assert (words["Files"], words["Copyright"]) == ("*", "2019-2024, A Group")
    assert words["License"].startswith("PostgreSQL\n") and "Do what you want." in words["License"]


def test_gnu_licences_are_called_as_debian_calls_them() -> None:
    text = texts.copyright_file("p", "GPL-2.0-or-later", None, "p.tar.gz", {})
    assert "License: GPL-2.0+\n" in text and "/usr/share/common-licenses/GPL-2." in text
    assert "Copyright: the authors of p\n" in text
