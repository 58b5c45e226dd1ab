"""File trees made of Debian packages: what a build sees as ``/``, and what a bundle runs on.

Both are pure functions of the packages' files. No maintainer script is run: the little of their work
that a build relies on is written out below, as tables. A build root::

    bin sbin lib lib64 -> usr/...     merged /usr
    usr/                              of the packages, without manuals and translations
    etc/                              of the packages; accounts, name services and hosts are ours
    build dev nix/store proc tmp ...  empty, to mount on
"""

from __future__ import annotations

import filecmp
import fnmatch
import os
import posixpath
import re
import shutil
import stat
import time
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from pgbake.errors import InputError, host_error
from pgbake.events import Finished, Outcome, Progressed, Sink, Started
from pgbake.inputs.deb import MERGED, unpack

#: What no build reads: 190 of the 650 MB of a root for PostgreSQL. ``usr/share/i18n`` stays: localedef makes
#: locales from it. The static libraries named are large, and there is always the shared one.
_BALLAST = (
    "usr/bin/*-lto-dump-*", "usr/lib/*/libicu*.a", "usr/lib/debug/*", "usr/lib/python3*/libpython*.a",
    "usr/share/bash-completion/*", "usr/share/bug/*", "usr/share/doc/*", "usr/share/doc-base/*",
    "usr/share/gtk-doc/*", "usr/share/help/*", "usr/share/info/*", "usr/share/lintian/*",
    "usr/share/locale/*", "usr/share/man/*",
)  # fmt: skip

#: Of a runtime package: what is kept, less what is dropped (in these globs ``*`` passes slashes, too).
_RUNTIME = ("usr/lib/*", "usr/lib32/*", "usr/lib64/*", "usr/libexec/*", "usr/share/*")
_NOT_RUNTIME = (
    *_BALLAST, "*.a", "*.la", "*/cmake/*", "*/pkgconfig/*", "usr/share/aclocal/*",
    "usr/share/applications/*", "usr/share/debconf/*", "usr/share/emacs/*", "usr/share/fish/*",
    "usr/share/icons/*", "usr/share/menu/*", "usr/share/metainfo/*", "usr/share/pam-configs/*",
    "usr/share/pixmaps/*", "usr/share/vim/*", "usr/share/zsh/*",
)  # fmt: skip
#: Always kept: a package's licences, also where its whole directory is a link to another package's.
_COPYRIGHT = re.compile(r"usr/share/doc/[^/]+(/copyright)?")

_MOUNT_POINTS = ("build", "dev", "nix/store", "proc", "root", "run", "sys", "tmp", "var/tmp")

#: Links that update-alternatives or a postinst would make, each with its targets, the preferred first.
#: A target may be a glob; ``{triplet}`` stands for each directory such as ``x86_64-linux-gnu``.
_ALTERNATIVES: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("usr/bin/sh", ("usr/bin/dash", "usr/bin/bash")),
    ("usr/bin/awk", ("usr/bin/gawk", "usr/bin/mawk", "usr/bin/original-awk")),
    ("usr/bin/nawk", ("usr/bin/gawk", "usr/bin/mawk", "usr/bin/original-awk")),
    ("usr/bin/which", ("usr/bin/which.debianutils",)),
    ("usr/bin/cc", ("usr/bin/gcc", "usr/bin/clang")),
    ("usr/bin/c++", ("usr/bin/g++", "usr/bin/clang++")),
    ("usr/bin/c89", ("usr/bin/c89-gcc",)),
    ("usr/bin/c99", ("usr/bin/c99-gcc",)),
    ("usr/bin/f77", ("usr/bin/gfortran",)),
    ("usr/bin/f95", ("usr/bin/gfortran",)),
    ("usr/lib/cpp", ("usr/bin/cpp",)),
    ("usr/bin/yacc", ("usr/bin/bison.yacc", "usr/bin/byacc")),
    ("usr/bin/automake", ("usr/bin/automake-*",)),
    ("usr/bin/aclocal", ("usr/bin/aclocal-*",)),
    *(
        (f"usr/lib/{{triplet}}/lib{name}.{suffix}", tuple(f"usr/lib/{{triplet}}/{d}/lib{name}.{suffix}" for d in (
            "openblas-*", name)))
        for name in ("blas", "lapack")
        for suffix in ("so.3", "so")
    ),
    ("usr/lib/{triplet}/pkgconfig/hdf5.pc", ("usr/lib/{triplet}/pkgconfig/hdf5-serial.pc",)),
    ("usr/lib/{triplet}/libpsm_infinipath.so.1", ("usr/lib/libpsm1/libpsm_infinipath.so.1.*",)),
)  # fmt: skip

#: Files of our own. Builds run as ``build`` (uid 1000, gid 100), as Nix has it.
_FILES = {
    "etc/passwd": """\
root:x:0:0:root:/root:/bin/sh
build:x:1000:100:build user:/build:/bin/sh
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
""",
    "etc/group": "root:x:0:\ntty:x:5:\nusers:x:100:\nnogroup:x:65534:\n",
    "etc/hosts": "127.0.0.1 localhost\n::1 localhost\n",
    "etc/nsswitch.conf": "".join(
        f"{database}: files\n"
        for database in ("passwd", "group", "shadow", "hosts", "networks", "protocols", "services", "rpc")
    ),
}


def make_build_root(debs: Mapping[str, Path], into: Path, report: Sink) -> None:
    """Make the tree that a build sees as ``/`` of unpacked packages.

    :param debs: the name of each package to its ``.deb``; their order does not matter.
    :param into: a directory that does not exist, or an empty one. After an error it is left half-made.
    :param report: told of one ``unpack`` task, whose bytes are those of the ``.deb`` files.
    :raises InputError: a package is damaged or hostile, or two packages disagree on a file; both are named.
    :raises HostError: the disk is full or ``into`` is not writable.
    """
    names = sorted(debs)
    sizes = {name: debs[name].stat().st_size for name in names}
    task = f"unpack:{into.name}"
    title = f"build root of {len(names)} packages"
    report(Started(task, "unpack", title, sum(sizes.values())))
    started = time.monotonic()
    outcome: Outcome = "failed"
    # Beside the root, where no package's path can meet it.
    staging = into.with_name(f"{into.name}.unpack")
    try:
        into.mkdir(parents=True, exist_ok=True)
        into.chmod(0o755)
        staging.mkdir()
        placed: dict[str, tuple[str, ...]] = {}
        for name, paths in _unpack_all([(name, debs[name]) for name in names], staging):
            placed[name] = paths
            report(Progressed(task, sum(sizes[done] for done in placed)))
        for number, name in enumerate(names):
            _move(staging / str(number), into, name, placed)
        _complete(into)
        outcome = "done"
    except OSError as error:
        raise host_error(error, f"cannot make the build root {into}") from None
    except KeyboardInterrupt:
        outcome = "cancelled"
        raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
        report(Finished(task, outcome, time.monotonic() - started))


def import_runtime(
    deb: Path, into: Path, keep: Sequence[str] = (), drop: Sequence[str] = (), links: Mapping[str, str] | None = None
) -> None:
    """Unpack what a bundle needs of one runtime package.

    Kept are libraries and data below ``usr/lib`` and ``usr/share``, and every copyright file. Dropped are
    programs, configuration, manuals, translations, and what only compilers read. Absolute links become
    relative where they point into ``usr/`` or at something kept; others name a place of the machine's
    (``/etc/localtime``) and stay.

    :param into: a directory that does not exist, or an empty one.
    :param keep: globs of paths (``usr/bin/locale``, ``etc/ssl/*``) that are kept whatever the rules say.
    :param drop: globs of paths that are dropped beyond what the rules drop.
    :param links: links to add, which a maintainer script would make: path to target, where the target is there.
    :raises InputError: the package is damaged or hostile.
    :raises HostError: the disk is full or ``into`` is not writable.
    """
    always = _globs(keep)
    kept = _globs(_RUNTIME)
    dropped = _globs((*_NOT_RUNTIME, *drop))

    def wanted(path: str) -> bool:
        if path.endswith("/"):
            return False  # made with what lies in them
        if _COPYRIGHT.fullmatch(path) or always.fullmatch(path):
            return True
        return bool(kept.fullmatch(path)) and not dropped.fullmatch(path)

    _import(deb, into, wanted, links or {})


def import_extension(
    deb: Path,
    into: Path,
    major: int,
    keep: Sequence[str] = (),
    drop: Sequence[str] = (),
    links: Mapping[str, str] | None = None,
) -> None:
    """Unpack what a bundle needs of one package with extensions for PostgreSQL's major version.

    Kept are the directories of that version below ``usr/lib/postgresql`` and ``usr/share/postgresql``, but for
    manuals and bitcode, which the server's just-in-time compiler would read; and copyright files.

    :param into: a directory that does not exist, or an empty one.
    :param keep: see :func:`import_runtime`, as for ``drop`` and ``links``.
    :raises InputError: the package is damaged or hostile.
    :raises HostError: the disk is full or ``into`` is not writable.
    """
    kept = _globs((f"usr/lib/postgresql/{major}/*", f"usr/share/postgresql/{major}/*", *keep))
    dropped = _globs(("*/lib/bitcode/*", f"usr/share/postgresql/{major}/man/*", "*.a", "*.la", *drop))

    def wanted(path: str) -> bool:
        if path.endswith("/"):
            return False
        return bool(_COPYRIGHT.fullmatch(path)) or (bool(kept.fullmatch(path)) and not dropped.fullmatch(path))

    _import(deb, into, wanted, links or {})


def _import(deb: Path, into: Path, wanted: Callable[[str], bool], links: Mapping[str, str]) -> None:
    try:
        into.mkdir(parents=True, exist_ok=True)
        paths = unpack(deb, into, wanted)
        _relink(into, frozenset(paths) | links.keys())
        triplets = sorted(path.name for path in (into / "usr/lib").glob("*-linux-gnu*"))
        for link, target in sorted(links.items()):
            for triplet in triplets if "{triplet}" in link else [""]:
                path = link.format(triplet=triplet)
                _choose(into, path, [posixpath.join(posixpath.dirname(path), target.format(triplet=triplet))])
    except OSError as error:
        raise host_error(error, f"cannot import {deb.name} into {into}") from None


def _relink(tree: Path, paths: Set[str]) -> None:
    """Make absolute links of the tree relative, where they point into ``usr/`` or at one of its paths."""
    for path in sorted(paths):
        link = tree / path
        if not link.is_symlink() or not (target := str(link.readlink())).startswith("/"):
            continue
        inside = posixpath.normpath(target).lstrip("/")
        if inside.split("/")[0] in MERGED:
            inside = f"usr/{inside}"
        if inside.startswith("usr/") or inside in paths:
            link.unlink()
            link.symlink_to(posixpath.relpath(inside, posixpath.dirname(path)))


def _globs(patterns: Sequence[str]) -> re.Pattern[str]:
    # An empty alternation would match the empty path, which is none.
    return re.compile("|".join(fnmatch.translate(pattern) for pattern in patterns))


def _unpack_all(debs: Sequence[tuple[str, Path]], staging: Path) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Unpack each package into a numbered directory; yield its name and paths when it is done.

    Threads serve: nearly all of the time goes to decompression, which lets others run.
    """
    ballast = _globs(_BALLAST)

    def unpack_one(number: int) -> tuple[str, ...]:
        directory = staging / str(number)
        directory.mkdir()
        return unpack(debs[number][1], directory, lambda path: not ballast.fullmatch(path))

    pool = ThreadPoolExecutor(max_workers=os.cpu_count())
    try:
        # Large ones first, so that the last to end is a small one.
        order = sorted(range(len(debs)), key=lambda number: -debs[number][1].stat().st_size)
        futures = {pool.submit(unpack_one, number): debs[number][0] for number in order}
        for future in as_completed(futures):
            yield futures[future], future.result()
    finally:
        pool.shutdown(cancel_futures=True)


def _move(package: Path, into: Path, name: str, placed: Mapping[str, tuple[str, ...]]) -> None:
    """Move a package's tree into the root: directories that are new as a whole, by one rename."""
    todo = [""]
    while todo:
        directory = todo.pop()
        with os.scandir(package / directory) as entries:
            for entry in list(entries):
                path = posixpath.join(directory, entry.name)
                there = into / path
                try:
                    existing = there.lstat()
                except FileNotFoundError:
                    Path(entry.path).rename(there)
                    continue
                if stat.S_ISDIR(existing.st_mode) and entry.is_dir(follow_symlinks=False):
                    todo.append(path)
                elif not _is_equal(Path(entry.path), there):
                    raise _conflict(path, name, placed)


def _is_equal(one: Path, other: Path) -> bool:
    mode = one.lstat().st_mode
    if mode != other.lstat().st_mode:
        return False
    if stat.S_ISLNK(mode):
        return one.readlink() == other.readlink()
    return stat.S_ISREG(mode) and filecmp.cmp(one, other, shallow=False)


def _conflict(path: str, name: str, placed: Mapping[str, tuple[str, ...]]) -> InputError:
    below = path + "/"
    others = (other for other in sorted(placed) if other != name)
    owner = next(o for o in others if any(p == path or p.startswith(below) for p in placed[o]))
    return InputError(
        f"the packages {owner} and {name} both hold {path}, and it differs",
        hint="leave one of the two out: such packages are not made to be unpacked side by side",
    )


def _complete(root: Path) -> None:
    """Add what is no package's: the merged directories, mount points, alternatives and accounts."""
    for directory in ("usr/bin", "usr/lib", "usr/sbin", "etc", *_MOUNT_POINTS):
        _make_directory(root, directory)
    for directory in sorted(MERGED):
        if _is_directory(root / "usr" / directory):
            (root / directory).symlink_to(f"usr/{directory}")
    triplets = sorted(path.name for path in (root / "usr/lib").glob("*-linux-gnu*"))
    for link, targets in _ALTERNATIVES:
        for triplet in triplets if "{triplet}" in link else [""]:
            _choose(root, link.format(triplet=triplet), [target.format(triplet=triplet) for target in targets])
    for name, text in _FILES.items():
        file = root / name
        file.unlink(missing_ok=True)
        file.write_text(text, encoding="utf-8")
        file.chmod(0o644)


def _choose(root: Path, link: str, targets: Sequence[str]) -> None:
    """Make the link to the first target that is there, unless a package brought the link itself."""
    directory = posixpath.dirname(link)
    if os.path.lexists(root / link):
        return
    for target in targets:
        found = sorted(path.relative_to(root).as_posix() for path in root.glob(target))
        if found:
            _make_directory(root, directory)
            (root / link).symlink_to(posixpath.relpath(found[-1], directory))
            return


def _make_directory(root: Path, path: str) -> None:
    """Make a directory and its parents with mode 0755, whatever the umask.

    :raises InputError: a package put a file or link there, through which we would write elsewhere.
    """
    for directory in [*reversed(Path(path).parents), Path(path)]:
        full = root / directory
        if not os.path.lexists(full):
            full.mkdir()
            full.chmod(0o755)
        elif not _is_directory(full):
            raise InputError(f"a package has a file or link at {directory}, where a directory belongs")


def _is_directory(path: Path) -> bool:
    """Whether it is a directory itself, not a link to one."""
    return path.is_dir() and not path.is_symlink()
