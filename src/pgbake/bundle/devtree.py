"""A tree to compile against a bundle: its own files, and the headers that no bundle holds, as one ``/usr`` of links.

On disk, for each project::

    bundle  dev  root    links that keep bundle, headers and build root from being collected
    usr/                 a directory of links; lib/postgresql/15/bin/pg_config is a real copy, which finds
                         everything relative to where it lies itself
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from pathlib import Path

from pgbake.bundle.merge import Bundle
from pgbake.errors import HostError, host_error
from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore, remove_tree

#: Directories of the machine's that the build root's stand for.
_REPLACED = frozenset({"usr", "bin", "sbin", "lib", "lib32", "lib64", "libx32", "nix"})


def headers(bundle: Bundle) -> StorePath:
    """Return the output of PostgreSQL with headers and static libraries."""
    return bundle.packages[0].output("dev")


def make_dev_tree(store: LocalStore, bundle: Bundle, root: StorePath, major: int, directory: Path) -> Path:
    """Make the tree in ``directory``, unless it is there for this very bundle; return its ``usr``.

    :param root: the build root with the compiler.
    :raises HostError: it cannot be written.
    """
    usr = directory / "usr"
    targets = {"bundle": bundle.path, "dev": headers(bundle), "root": root}
    try:
        if usr.is_dir() and all(_leads_to(directory / name, path) for name, path in targets.items()):
            return usr
        if usr.exists():
            remove_tree(usr)
        directory.mkdir(parents=True, exist_ok=True)
        for name, path in targets.items():
            store.link_root(directory / name, path)
        made = directory / "usr.new"
        if made.exists():
            remove_tree(made)
        program = f"lib/postgresql/{major}/bin/pg_config"
        sources = [(store.physical(bundle.path), str(bundle.path))]
        dev = headers(bundle)
        sources.append((store.physical(dev) / "usr", f"{dev}/usr"))
        _link(made, sources, program)
        copy = made / program
        copy.unlink()
        shutil.copy(store.physical(bundle.path) / program, copy)
        made.rename(usr)
    except OSError as error:
        raise host_error(error, f"cannot make {directory}") from error
    return usr


def _leads_to(link: Path, path: StorePath) -> bool:
    return link.is_symlink() and link.readlink().name == str(path).rpartition("/")[2]


def _link(into: Path, sources: Sequence[tuple[Path, str]], real: str) -> None:
    """Make a directory of links to what several directories hold.

    :param sources: each directory on disk, and by what name programs see it.
    :param real: a file below, all of whose directories are real.
    """
    into.mkdir()
    entries: dict[str, list[tuple[Path, str]]] = {}
    for physical, name in sources:
        for entry in sorted(os.listdir(physical)):  # noqa: PTH208 - names are what is wanted
            entries.setdefault(entry, []).append((physical / entry, f"{name}/{entry}"))
    first, _, rest = real.partition("/")
    for entry, found in entries.items():
        directories = [item for item in found if item[0].is_dir()]
        if (entry == first and rest) or (len(found) > 1 and len(directories) == len(found)):
            _link(into / entry, directories, rest if entry == first else "")
        else:
            (into / entry).symlink_to(found[0][1])


def dev_namespace(store: LocalStore, root: StorePath, argv: Sequence[str], where: Path) -> list[str]:
    """Return the command that runs a program with a build root's ``/usr`` in place of the machine's.

    So what is compiled fits the bundle whatever the machine has; all else is the machine's. The store is read-only,
    even for root.

    :param where: the directory to run it in.
    :raises HostError: that directory is not there, since it is one of the machine's ``/usr``.
    """
    place = where.resolve()
    if len(place.parts) > 1 and place.parts[1] in _REPLACED:
        raise HostError(
            f"{place} is not to be seen from the build root, whose /{place.parts[1]} stands in place of the machine's",
            hint="go to a directory that lies elsewhere, below your home or /tmp",
        )
    tree = store.physical(root)
    command = ["bwrap", "--tmpfs", "/"]
    for entry in sorted(os.listdir("/")):  # noqa: PTH208
        source = Path("/", entry)
        if entry in _REPLACED:
            continue
        if source.is_symlink():
            command += ["--symlink", str(source.readlink()), str(source)]
        else:
            command += ["--dev-bind", str(source), str(source)]
    for entry in sorted(_REPLACED - {"nix"}):
        source = tree / entry
        if source.is_symlink():
            command += ["--symlink", str(source.readlink()), f"/{entry}"]
        elif source.is_dir():
            command += ["--ro-bind", str(source), f"/{entry}"]
    nix = Path("/nix") if store.is_at_its_place else store.root / "nix"
    return [*command, "--ro-bind", str(nix), "/nix", "--chdir", str(place), "--", *argv]
