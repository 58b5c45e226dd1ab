"""Editing the manifest's text: comments, order and layout stay as their writer had them."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from pgbake.errors import ManifestError

#: What tomlkit is to write where a list of the manifest has a line for each name.
_INDENT = "  "


def add_extensions(text: str, names: Iterable[str], settings: Mapping[str, Mapping[str, str]]) -> str:
    """Return a manifest's text with extensions added, and what is said of them.

    :param names: those that are there already stay as they are.
    :param settings: extension -> keys of its table ``[extension.NAME]``.
    :raises ManifestError: ``extensions`` is no list.
    """
    import tomlkit
    from tomlkit.items import Array, Table

    document = tomlkit.parse(text)
    listed = document.get("extensions")
    if listed is None:
        document["extensions"] = listed = tomlkit.array()
        listed = document["extensions"]
    if not isinstance(listed, Array):
        raise _no_list()
    many = "\n" in listed.as_string()
    for name in names:
        if name in listed:
            continue
        if many:
            listed.add_line(name, indent=_INDENT)
        else:
            listed.append(name)
    for name, keys in settings.items():
        if not keys:
            continue
        tables = document.get("extension")
        if tables is None:
            document["extension"] = tables = tomlkit.table(is_super_table=True)
        own = tables.get(name)
        if own is None:
            own = tomlkit.table() if isinstance(tables, Table) else tomlkit.inline_table()
            own.update(keys)
            tables[name] = own
        else:
            own.update(keys)
    return tomlkit.dumps(document)


def remove_extensions(text: str, names: Iterable[str]) -> str:
    """Return a manifest's text without extensions, and without their tables ``[extension.NAME]``.

    :raises ManifestError: ``extensions`` is no list.
    """
    import tomlkit
    from tomlkit.items import Array

    document = tomlkit.parse(text)
    listed = document.get("extensions")
    if not isinstance(listed, Array):
        raise _no_list()
    tables = document.get("extension")
    for name in names:
        if name in listed:
            listed.remove(name)
        if tables is not None and name in tables:
            del tables[name]
    if tables is not None and not tables:
        del document["extension"]
    return tomlkit.dumps(document)


def _no_list() -> ManifestError:
    return ManifestError("extensions: this is no list", hint='write a list: extensions = ["one", "two"]')
