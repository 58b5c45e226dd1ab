"""Two configurations beside one another."""

from __future__ import annotations

from pathlib import Path

from pgbake.machine.definition import Part
from pgbake.machine.difference import Difference, differences, side_of_parts, side_of_tree

FILE = Part("file", "/etc/one", 0o644, content=b"first\nsecond\n")
LINK = Part("link", "/etc/two", target="one")
DIRECTORY = Part("directory", "/etc/three", 0o755)


def test_equal_sides_do_not_differ() -> None:
    assert differences(side_of_parts([FILE, LINK, DIRECTORY]), side_of_parts([DIRECTORY, FILE, LINK])) == []


def test_each_way_to_differ_is_told() -> None:
    other = [
        Part("file", "/etc/one", 0o600, "postgres", "postgres", content=b"first\nother\n"),
        Part("link", "/etc/two", target="elsewhere"),
        Part("file", "/etc/three", 0o644),
        Part("file", "/etc/four", 0o644),
    ]
    assert differences(side_of_parts([FILE, LINK, DIRECTORY]), side_of_parts(other)) == [
        Difference("/etc/four", ("only in the second: file",)),
        Difference(
            "/etc/one",
            (
                "mode 0644, and 0600", "belongs to root:root, and to postgres:postgres",
                "@@ -1,2 +1,2 @@", " first", "-second", "+other",
            ),
        ),
        Difference("/etc/three", ("a directory, and a file",)),
        Difference("/etc/two", ("leads to one, and to elsewhere",)),
    ]  # fmt: skip


def test_a_tree_beside_what_is_declared(tmp_path: Path) -> None:
    (tmp_path / "etc/three").mkdir(parents=True)
    (tmp_path / "etc/one").write_bytes(FILE.content)
    (tmp_path / "etc/beside").touch()
    absolute = Part("file", "/run/begins-empty", 0o644, runtime=True)
    given = Part("file", "/etc/given", 0o644, unless=("/etc/beside",))
    side = side_of_parts([FILE, LINK, DIRECTORY, absolute, given], tmp_path)
    assert differences(side, side_of_tree(tmp_path, side)) == [Difference("/etc/two", ("only in the first: link",))]


def test_two_trees(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "etc/alternatives").mkdir(parents=True)
        (tmp_path / name / "etc/file").write_text(name)
        (tmp_path / name / "etc/bytes").write_bytes(b"\0" + name.encode())
        (tmp_path / name / "etc/shadow").write_text(f"root:{name}:::::::\n")  # nobody's to see
        (tmp_path / name / "etc/alternatives/pager").symlink_to(name)
    assert differences(side_of_tree(tmp_path / "a"), side_of_tree(tmp_path / "b")) == [
        Difference("/etc/bytes", ("other bytes, which are no text",)),
        Difference("/etc/file", ("@@ -1 +1 @@", "-a", "+b")),
    ]
