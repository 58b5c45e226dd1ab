"""Reading TOML files that people write, with errors that name file, line and key."""

from __future__ import annotations

import difflib
import re
import tomllib
from fnmatch import fnmatchcase
from pathlib import Path
from typing import TypeVar, get_args

import msgspec

from pgbake.errors import ManifestError
from pgbake.files import read_hint, read_small_file

#: Bytes; a file that people write by hand has a thousandth of it.
_LARGEST = 1_000_000

_NOT_TOML = "this is not TOML: strings stand in quotes, lists in brackets, true and false in small letters"

T = TypeVar("T", bound=msgspec.Struct)

_UNKNOWN = re.compile(r"Object contains unknown field `([^`]*)`(?: - at `\$\.?(.*)`)?")
_MISSING = re.compile(r"Object missing required field `([^`]*)`(?: - at `\$\.?(.*)`)?")

#: How a value of each type is written.
_FORMS = {
    "array": 'write a list: ["one", "two"]; or [[NAME]] above a table of which there may be several',
    "bool": "write true or false, without quotes",
    "int": "write a number, without quotes",
    "object": "write a table: { key = value }",
    "str": 'write it in quotes: "value"',
}
_WRONG = re.compile(r"(.*) - at `(key in )?\$\.?(.*)`")
_INDEX = re.compile(r"\[.*?\]")  # [0] of a list; [...] of a table whose keys are the user's
_HEADER = re.compile(r"""\s*\[+\s*([\w."'-]+)\s*\]+\s*(?:#.*)?""")


def load_toml(file: Path, kind: type[T]) -> T:
    """Read a TOML file into a struct of type ``kind``.

    :raises ManifestError: it cannot be read, is no TOML, or holds a wrong key or type.
    """
    text = _read_text(file)
    try:
        return msgspec.convert(tomllib.loads(text), kind)
    except RecursionError:
        raise ManifestError(f"{file}: lists or tables stand in each other too deeply", hint=_NOT_TOML) from None
    except msgspec.ValidationError as error:  # this first: it is a ValueError too
        raise _explain(file, text, str(error), kind) from None
    except ValueError as error:  # tomllib's own error, or Python's of a number with thousands of digits
        place = re.search(r"\(at line (\d+), column (\d+)\)", str(error))
        where = f"{file}:{place[1]}:{place[2]}" if place else str(file)
        raise ManifestError(f"{where}: {str(error).partition(' (at')[0]}", hint=_NOT_TOML) from None


def _read_text(file: Path) -> str:
    try:
        content = read_small_file(file, _LARGEST)
    except FileNotFoundError:
        raise ManifestError(f"there is no {file}", hint="make one with `pgbake init`") from None
    except OSError as error:
        raise ManifestError(f"cannot read {file}: {error.strerror}", hint=read_hint(error, file)) from error
    try:
        return content.decode("utf-8-sig")  # some editors begin a file with a mark of its encoding
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        column = error.start - content.rfind(b"\n", 0, error.start)
        raise ManifestError(
            f"{file}:{line}:{column}: byte 0x{content[error.start]:02x} is not UTF-8",
            hint=f"save it as UTF-8, as with: iconv -f latin1 -t utf-8 {file} -o NEW",
        ) from None


def wrong_value(file: Path, key: str, problem: str, hint: str | None = None, value: str | None = None) -> ManifestError:
    """Return the error for a value that is of the right type but means nothing, at ``key``'s line.

    :param value: a text that stands several times under such keys, or in a list of several lines: the last line that
        holds it is named instead, where there is one.
    """
    try:
        text = file.read_text(encoding="utf-8-sig")
    except OSError:
        text = ""
    line = _line_of(text, key)
    if value is not None:
        quoted = {f'"{value}"', f"'{value}'"}
        lines = [number for number, found in enumerate(text.splitlines(), 1) if any(q in found for q in quoted)]
        line = lines[-1] if lines else line
    return ManifestError(f"{_at(file, line)}: {key}: {problem}", hint=hint)


def _explain(file: Path, text: str, problem: str, kind: type[msgspec.Struct]) -> ManifestError:
    if unknown := _UNKNOWN.fullmatch(problem):
        key, parent = unknown[1], unknown[2] or ""
        known = _fields(kind, parent)
        near = difflib.get_close_matches(key, known, 1)
        hint = f"did you mean {near[0]}?" if near else f"known keys: {', '.join(known)}" if known else None
        table = f" in [{parent}]" if parent else ""
        line = _line_of(text, key, _pattern(parent))
        return ManifestError(f'{_at(file, line)}: unknown key "{key}"{table}', hint=hint)
    if missing := _MISSING.fullmatch(problem):
        table = f" in [{missing[2]}]" if missing[2] else ""
        return ManifestError(f'{file}: the key "{missing[1]}" is missing{table}', hint=f"add {missing[1]} = ...")
    if wrong := _WRONG.fullmatch(problem):
        parent, _, key = _pattern(wrong[3]).rpartition(".")
        words = wrong[1].replace("`", "")
        expected = re.match(r"Expected (\w+)", words)
        return ManifestError(
            f"{_at(file, _line_of(text, key, parent))}: {wrong[3]}: {words[0].lower()}{words[1:]}",
            hint=_FORMS.get(expected[1] if expected else "", "`pgbake init --dry-run` shows a manifest that is right"),
        )
    return ManifestError(f"{file}: {problem}")


def _fields(kind: type[msgspec.Struct], parent: str) -> list[str]:
    for part in filter(None, parent.replace("[...]", "[]").split(".")):
        name = _INDEX.sub("", part)
        types = [f.type for f in msgspec.structs.fields(kind) if f.encode_name == name]
        within = get_args(types[0]) if types and name != part else types
        # of a union also what its lists hold
        within = [*within, *(inner for kind in within for inner in get_args(kind))]
        match = [t for t in within if isinstance(t, type) and issubclass(t, msgspec.Struct)]
        if not match:
            return []
        kind = match[0]
    return [field.encode_name for field in msgspec.structs.fields(kind)]


def _pattern(place: str) -> str:
    """Turn msgspec's notation of a place into a glob of dotted names: ``provides[...].preload``, ``list[0]``."""
    return _INDEX.sub("", place.replace("[...]", ".*"))


def _line_of(text: str, key: str, table: str | None = None) -> int | None:
    """Return the line of a key of ``table``, or of the table itself if it is an inline one.

    :param table: glob of dotted names; None means any.
    """
    pattern = re.compile(rf"""\s*["']?{re.escape(key)}["']?\s*[=.]""")
    current = ""
    for number, line in enumerate(text.splitlines(), 1):
        if header := _HEADER.fullmatch(line):
            current = header[1]
            if fnmatchcase(current, f"*{key}" if table is None else f"{table}.{key}".lstrip(".")):
                return number
        elif pattern.match(line) and (table is None or fnmatchcase(current, table)):
            return number
    parent, _, name = (table or "").rpartition(".")
    return _line_of(text, name, parent) if name else None


def _at(file: Path, line: int | None) -> str:
    return f"{file}:{line}" if line else str(file)
