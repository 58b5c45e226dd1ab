"""Nothing of a bundle leads outside of it: libraries, links, marks of the build, and modes. No server is started.

Read is the bundle's tree as a server sees it, through its links into packages, and each package's own tree.
"""

from __future__ import annotations

import mmap
import os
import re
import stat
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

from pgbake.bundle.merge_program import Elf, read_elf
from pgbake.checks.harness.report import Failure, Report
from pgbake.checks.harness.server import Session

#: What a build leaves in what it makes: its directories, and its root among the store's paths. Not meant are the option
#: that keeps the first of them out, which `pg_config` tells, and where PGXS says that PostgreSQL's sources have been.
_MARKS = re.compile(
    rb"(?<!-prefix-map=)(?<!abs_top_builddir = )(?<!abs_top_srcdir = )/build/(?:source|image|target|vendor)\b"
    rb"|/[0-9a-z]{32}-build-root-[\w+-]+"
)
#: What stands in every mark, and how much of a file around it is looked at.
_WORDS = (b"/build/", b"-build-root-")
_AROUND = 100
#: Where links may lead that are meant to be the machine's: the time zone ``localtime`` is the one that it has chosen.
_OF_THE_MACHINE = ("/etc/localtime",)
_SHOWN = 40


def check(session: Session) -> None:
    """Perform the check. The specification holds ``loader``, a file's name, and ``known``: globs with reasons."""
    report, receipt = session.report, session.receipt
    trees = [session.bundle, *(Path(item["path"]) for item in (*receipt["packages"], *receipt["runtime"]))]
    bundle = Reader(session.bundle, trees, session.spec["loader"])
    known = session.spec["known"]
    _none(report, known, "links lead to files", bundle.dangling(), "lead to nothing")
    _none(
        report,
        known,
        "libraries are found in the bundle",
        bundle.unresolved(),
        "are not, as the loader would look for them",
    )
    _none(report, known, "no mark of the build", marks(trees), "files hold a name of the build's")
    _none(report, known, "nobody else may write, nothing changes its user", modes(trees), "have other modes")


def _none(report: Report, known: dict[str, str], test: str, found: Iterator[str], what: str) -> None:
    """Do a test that finds nothing but what is known, as globs with the reason for each."""
    with report.test(test):
        problems = []
        for problem in sorted(set(found)):
            reason = next((reason for glob, reason in known.items() if fnmatchcase(problem, glob)), None)
            if reason is None:
                problems.append(problem)
            else:
                report.add(f"{test}: {problem}", "skipped", f"known: {reason}")
        if problems:
            shown = problems[:_SHOWN] + ([f"and {len(problems) - _SHOWN} more"] if len(problems) > _SHOWN else [])
            raise Failure(f"{len(problems)} {what}: {problems[0]}", "\n".join(shown))


class Reader:
    """A bundle's tree as its programs see it.

    :param trees: all that belongs to it.
    """

    def __init__(self, bundle: Path, trees: list[Path], loader: str) -> None:
        self.bundle = bundle
        #: libc and the loader are there before anything else, so nobody searches for them.
        self.first = ("libc.so.6", loader)
        self.inside = tuple(f"{os.path.realpath(tree)}/" for tree in trees)
        self.links: list[str] = []
        #: Files by their names in the bundle.
        self.files: list[str] = []
        self._walk(str(bundle), frozenset())

    def _walk(self, directory: str, above: frozenset[str]) -> None:
        """Collect what is below a directory, through links; ``above``: the real names of the directories on the way."""
        real = os.path.realpath(directory)
        if real in above:  # a link to a directory that it lies in
            return
        with os.scandir(directory) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.is_symlink():
                    self.links.append(entry.path)
                if entry.is_dir():
                    self._walk(entry.path, above | {real})
                elif entry.is_file():
                    self.files.append(entry.path)

    def dangling(self) -> Iterator[str]:
        """Yield the links that lead to nothing, or out of the bundle and its packages."""
        for link in self.links:
            target = os.path.realpath(link)
            where = f"{os.path.relpath(link, self.bundle)} -> {os.readlink(link)}"
            if os.readlink(link) in _OF_THE_MACHINE:
                continue
            if not os.path.exists(target):
                yield where
            elif not f"{target}/".startswith(self.inside) and not self._of_the_store(target):
                yield f"{where}, which is outside"

    @staticmethod
    def _of_the_store(target: str) -> bool:
        """Whether a path is one that came with the bundle: the receipt does not name those of pgbake's own."""
        return target.startswith("/nix/store/")

    def unresolved(self) -> Iterator[str]:
        """Yield the libraries that files need and the loader does not find."""
        elves = {file: elf for file in self.files if (elf := elf_of(file)) is not None}
        server = os.path.realpath(self.bundle / "bin/postgres")
        # DT_RPATH of the program is inherited by all that it loads; that of each program names the same directories.
        inherited = _places(elves[server].rpath, server) if server in elves else []
        for file, elf in elves.items():
            name = os.path.relpath(file, self.bundle)
            if elf.is_program:
                if not elf.rpath or elf.runpath:
                    yield f"{name} is a program without the bundle's DT_RPATH"
                    continue
                places = _places(elf.rpath, os.path.realpath(file))
            else:
                # The loader takes $ORIGIN for the directory in which it has found the library, link or not.
                places = _places(elf.runpath, file) if elf.runpath else [*_places(elf.rpath, file), *inherited]
            for needed in elf.needed:
                if needed not in self.first and not any(os.path.isfile(os.path.join(at, needed)) for at in places):
                    yield f"{name} needs {needed}"


def _places(path: str, file: str) -> list[str]:
    """Return the directories of a DT_RPATH or DT_RUNPATH of a file."""
    origin = os.path.dirname(file)
    return [p.replace("${ORIGIN}", origin).replace("$ORIGIN", origin) for p in path.split(":") if p]


def elf_of(file: str) -> Elf | None:
    """Read an ELF file.

    :raises Failure: it is damaged.
    """
    try:
        return read_elf(file)
    except SystemExit:
        raise Failure(f"{file} is a damaged ELF file") from None


def below(trees: list[Path]) -> Iterator[os.DirEntry[str]]:
    """Yield all that lies in trees, without following links."""
    pending = [str(tree) for tree in dict.fromkeys(trees)]
    while pending:
        with os.scandir(pending.pop()) as entries:
            for entry in entries:
                yield entry
                if entry.is_dir(follow_symlinks=False):
                    pending.append(entry.path)


def marks(trees: list[Path]) -> Iterator[str]:
    """Yield the files and links that hold a name that only a build has."""
    for entry in below(trees):
        mark = b""
        if entry.is_symlink():
            mark = _mark(os.fsencode(os.readlink(entry.path)))
        elif entry.is_file(follow_symlinks=False) and entry.stat(follow_symlinks=False).st_size:
            with open(entry.path, "rb") as stream, mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as data:
                mark = _mark(data)
        if mark:
            yield f"{entry.path}: {os.fsdecode(mark)}"


def _mark(data: bytes | mmap.mmap) -> bytes:
    """Return the first mark in a file. What all marks hold is sought first, which is twenty times as fast."""
    for word in _WORDS:
        at = data.find(word)
        while at >= 0:
            start = max(0, at - _AROUND)
            for found in _MARKS.finditer(data[start : at + _AROUND]):
                if found.start() <= at - start < found.end():
                    return found[0]
            at = data.find(word, at + len(word))
    return b""


def modes(trees: list[Path]) -> Iterator[str]:
    """Yield what anybody may write, and what changes its user or group when it is run."""
    for entry in below(trees):
        if not entry.is_symlink():
            mode = entry.stat(follow_symlinks=False).st_mode
            if mode & (stat.S_IWOTH | stat.S_ISUID | stat.S_ISGID):
                yield f"{entry.path}: {stat.filemode(mode)}"
