"""What a Debian package's maintainer scripts would do, read but never run.

A package is imported by unpacking it. Most packages' scripts do nothing that a bundle misses: they tell the system
about the package (ldconfig, byte-compiling, menus). Some make what the package needs when it runs: alternatives,
dictionaries, generated files. Such work must be declared in the catalogue, where what the bundle does instead stands
beside it; else the import is refused.

Read are ``preinst`` and ``postinst`` (Debian Policy, chapter 6); what ``prerm`` and ``postrm`` do is undone by nobody.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from fnmatch import fnmatchcase
from pathlib import Path

from pgbake.errors import InputError
from pgbake.inputs.deb import control_files

_SCRIPTS = ("preinst", "postinst")

#: A part that a tool of debhelper's has added; what these tools do, no bundle needs.
_GENERATED = re.compile(
    r"^# Automatically added by (?P<tool>\S+)\n(?P<body>.*?)^# End automatically added section$",
    re.DOTALL | re.MULTILINE,
)
_HARMLESS_TOOLS = (
    "dh_apparmor", "dh_icons", "dh_installcron", "dh_installdeb*", "dh_installdocs*", "dh_installinfo*",
    "dh_installinit*", "dh_installmenu*", "dh_installman*", "dh_installmime*", "dh_installsystemd*", "dh_makeshlibs*",
    "dh_pypy*", "dh_python*", "dh_strip*", "dh_systemd*", "dh_usrlocal*", "dh_link*", "pyversions*",
)  # fmt: skip

#: What stands before a statement on its line: the pattern of a case, and words that a statement follows.
_BEFORE = re.compile(r"""(\(?["'\w|*.? -]+["']?\)(?=\s|$))?\s*((if|elif|while|until|then|else|do|!|\{|\()\s+)*""")

#: Statements that make nothing: the skeleton of a script, questions, messages, the end.
_SKELETON = re.compile(
    r"""
    (set\s+-\w+ | case\s.*\bin | esac | then | else | fi | for\s.* | do | done | [{}()]
    | exit(\s+\S+)? | return(\s+\S+)? | true | false | : | shift | break | continue | unset\s.*
    | (function\s+)?\w+\s*\(\)\s*\{? | local\s.* | (export\s+)?\w+=("[^"`$(]*"|'[^']*'|[^\s"'`$(]*|"?\$\{?\w+\}?"?)
    | (\[|\[\[|test|echo|printf|command\s+-v|which|type|getent|dpkg\s+--compare-versions|dpkg-query|grep\s+-\w*q\w*)\s.*
    | cat\s*<<.* | \.\s+/usr/share/debconf/confmodule | db_\w+.* | ldconfig
    | (dpkg-maintscript-helper|deb-systemd-\w+|update-rc\.d|invoke-rc\.d|dpkg-trigger)\s.*
    )
    """,
    re.VERBOSE,
)
#: Output that goes into a file, and not to another stream or nowhere.
_WRITES = re.compile(r">\s*(?!&|/dev/null\b)")
#: Where one statement ends and another begins; text in quotes is passed over.
_SEPARATOR = re.compile(r"""("(?:\\.|[^"\\])*"|'[^']*'|\$\([^)]*\)) | ;; | ; | && | \|\| """, re.VERBOSE)


def undeclared(deb: Path, declared: Iterable[str]) -> list[str]:
    """Return what a package's maintainer scripts do that makes something and that nobody has declared.

    :param declared: globs of whole lines, in which runs of white space count as one space.
    :returns: lines, each after the name of its script: ``postinst: update-alternatives --install ...``.
    :raises InputError: the file is no Debian package, or damaged.
    """
    globs = tuple(declared)
    files = control_files(deb)
    return [
        f"{script}: {line}"
        for script in _SCRIPTS
        for line in _statements(files.get(script, ""))
        if not any(fnmatchcase(line, glob) for glob in globs)
    ]


def require_declared(debs: Mapping[str, Path], declared: Callable[[str], Iterable[str]]) -> None:
    """Refuse packages whose scripts make what nobody has declared.

    :param debs: the name of each package to its ``.deb``.
    :param declared: gives what is declared for a package of that name; see :func:`undeclared`.
    :raises InputError: there is something; packages, scripts and lines are named.
    """
    lines = [f"{name}: {line}" for name, deb in debs.items() for line in undeclared(deb, declared(name))]
    if lines:
        names = sorted({line.partition(":")[0] for line in lines})
        raise InputError(
            f"the maintainer scripts of {', '.join(names)} make what nobody has declared, and no script is run",
            hint="leave out what needs these packages, or declare each line: under `scripts` in recipes/debian.toml",
            detail="\n".join(dict.fromkeys(lines)),
        )


def _statements(script: str) -> Iterator[str]:
    """Yield the lines of a script that may make something."""
    if not script:
        return
    if not re.match(r"#!\s*/bin/(ba|da)?sh\b", script):
        yield script.splitlines()[0]
        return

    def generated(found: re.Match[str]) -> str:
        tool = found["tool"].partition("/")[0]
        return "" if any(fnmatchcase(tool, glob) for glob in _HARMLESS_TOOLS) else found["body"]

    text = _GENERATED.sub(generated, script)
    heredoc = None
    for line in text.replace("\\\n", " ").splitlines():
        line = " ".join(line.split())
        if heredoc is not None:
            heredoc = None if line == heredoc else heredoc
            continue
        if line.startswith("#"):
            continue
        if mark := re.search(r"<<-?\s*[\"']?(\w+)", line):
            heredoc = mark[1]
        if any(not _makes_nothing(statement) for statement in _split(line)):
            yield line


def _split(line: str) -> Iterator[str]:
    """Split a line into its statements, without the words that stand before them."""
    start = 0
    ends = [found.span() for found in _SEPARATOR.finditer(line) if not found[1]]
    for begin, end in (*ends, (len(line), len(line))):
        statement = line[start:begin].strip()
        while found := _BEFORE.match(statement):
            if not found[0]:
                break
            statement = statement[found.end() :].strip()
        if statement:
            yield statement
        start = end


def _makes_nothing(statement: str) -> bool:
    return bool(_SKELETON.fullmatch(statement)) and not _WRITES.search(statement)
