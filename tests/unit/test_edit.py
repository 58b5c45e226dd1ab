"""Editing the manifest keeps what its writer wrote."""

from __future__ import annotations

import tomllib

import pytest

from pgbake.edit import add_extensions, remove_extensions
from pgbake.errors import ManifestError

MANY = """\
# mine
name = "x"
extensions = [
  "a",  # why a
  # of b
  "b",
]

[platform]
suite = "bookworm"  # the release
"""


def test_a_list_of_lines_gets_a_line() -> None:
    assert add_extensions(MANY, ["c"], {}) == MANY.replace('  "b",\n', '  "b",\n  "c",\n')


def test_a_list_of_one_line_stays_one() -> None:
    text = 'extensions = ["a"]  # short\n'
    assert add_extensions(text, ["b", "c"], {}) == 'extensions = ["a", "b", "c"]  # short\n'
    assert add_extensions("extensions = []\n", ["b"], {}) == 'extensions = ["b"]\n'


def test_without_a_list_there_is_one_at_the_top() -> None:
    text = add_extensions('name = "x"\n\n[platform]\nsuite = "y"\n', ["a"], {})
    assert tomllib.loads(text) == {"name": "x", "platform": {"suite": "y"}, "extensions": ["a"]}


def test_what_is_there_is_not_added_twice() -> None:
    assert add_extensions(MANY, ["a"], {}) == MANY


def test_words_for_an_extension_get_a_table() -> None:
    text = add_extensions(MANY, ["hll"], {"hll": {"origin": "deb", "version": "2.17"}})
    assert text.startswith("# mine\n") and "# why a" in text and "# the release" in text
    assert '[extension.hll]\norigin = "deb"\nversion = "2.17"\n' in text
    again = add_extensions(text, ["foo"], {"foo": {"version": "1"}})
    assert tomllib.loads(again)["extension"] == {"hll": {"origin": "deb", "version": "2.17"}, "foo": {"version": "1"}}


def test_an_inline_table_is_added_to() -> None:
    text = add_extensions('extensions = ["a"]\nextension = { a = { version = "1" } }\n', ["b"], {"b": {"version": "2"}})
    assert tomllib.loads(text)["extension"] == {"a": {"version": "1"}, "b": {"version": "2"}}


@pytest.mark.parametrize("name", ["hll", "pg_x.y", "a-b"])
def test_what_was_added_can_be_removed(name: str) -> None:
    added = add_extensions(MANY, [name], {name: {"version": "1"}})
    removed = remove_extensions(added, [name])
    assert removed.rstrip() == MANY.rstrip()


def test_removing_takes_the_table_and_keeps_others() -> None:
    text = MANY + '\n[extension.a]\nversion = "1"\n\n[extension.b]\n# of b\nversion = "2"\n'
    left = tomllib.loads(remove_extensions(text, ["a"]))
    assert (left["extensions"], left["extension"]) == (["b"], {"b": {"version": "2"}})


@pytest.mark.parametrize("text", ['extensions = "a"\n', "name = 'x'\n"])
def test_no_list_is_one_clear_error(text: str) -> None:
    with pytest.raises(ManifestError, match="no list"):
        remove_extensions(text, ["a"])
