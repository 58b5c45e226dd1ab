"""Build logs: kept compressed in Nix's place and format, told line by line while they are written."""

from __future__ import annotations

import bz2
import errno
import os
import re
from collections import deque
from contextlib import suppress
from pathlib import Path

import msgspec

from pgbake.errors import ManifestError
from pgbake.events import LogLine, PhaseChanged, Sink

#: How many lines of a failed build are shown with its error.
SHOWN_LINES = 25

#: How many lines of its first errors are shown where they stand further up.
_SHOWN_ERRORS = 12

_STRUCTURED = b"@nix "
#: Lines of a check's harness for `pgbake check`, as JSON.
OF_CHECKS = "@pgbake "
_DISK_FULL = os.strerror(errno.ENOSPC).encode()  # in a build all speak English

#: Lines in which tools that builds use tell what is wrong; with many jobs at once they stand far from the end.
_ERROR = re.compile(
    r"(^|[\s:])(fatal )?error(\[\w+\])?: |: undefined reference to |^ERROR[: ]|\bld: cannot find |^CMake Error"
    r"|: No such file or directory$|: command not found$|^make(\[\d+\])?: \*\*\* No rule "
)
#: What gcc and rustc print below an error: the source's own line, and a mark below it.
_SOURCE_LINE = re.compile(r"^\s+(\d+ |-->)?\s*\||^\s+-->")

#: How tools say that they found no network, with the host that they sought.
_SOUGHT = re.compile(
    r"[Cc]ould not resolve (?:hostname|host|proxy)?:? ?'?(?P<curl>[\w.-]+)"
    r"|unable to resolve host address \W(?P<wget>[\w.-]+)"
    r"|HTTPS?ConnectionPool\(host='(?P<python>[^']+)'"
    r"|getaddrinfo (?:EAI_AGAIN|ENOTFOUND) (?P<node>[\w.-]+)"
    r"|dial tcp: lookup (?P<go>[\w.-]+)"
    r"|[Tt]emporary failure resolving '(?P<apt>[^']+)'"
    r"|unable to look up (?P<git>[\w.-]+)"
    r"|[Ff]ailed to connect to (?P<connect>[\w.-]+) port"
    r"|(?P<bash>[\w.-]+): (?:Temporary failure in name resolution|Name or service not known)"
    r"|(?P<nobody>[Tt]emporary failure in name resolution|Name or service not known|Network is unreachable)"
)


class _Action(msgspec.Struct):
    action: str
    phase: str = ""


class _Begun(msgspec.Struct):
    begin: str


class BuildLog:
    """The log of one build while it is written. Lines that begin with ``@nix`` are Nix's own notes, as JSON."""

    def __init__(self, file: Path, task: str, report: Sink) -> None:
        self.file = file
        self.phase = "start"
        self.last: deque[str] = deque(maxlen=SHOWN_LINES)
        #: Hosts of the network that the build sought in vain.
        self.sought: list[str] = []
        self._errors: list[tuple[int, str]] = []
        self._lines = 0
        #: Whether some program said that the disk is full; how it failed then says nothing of the kind.
        self.disk_full = False
        self._task = task
        self._report = report
        file.parent.mkdir(parents=True, exist_ok=True)
        # Whoever builds holds the derivation's lock, so what is there is a killed process's.
        self._temporary = file.with_name(f"{file.name}.new")
        self._stream = bz2.open(self._temporary, "wb", compresslevel=5)  # noqa: SIM115 - closed by close()

    def write(self, line: bytes) -> None:
        """Take in one line of the builder's output."""
        if line.startswith(_STRUCTURED):
            try:
                action = msgspec.json.decode(line[len(_STRUCTURED) :], type=_Action)
            except msgspec.MsgspecError:
                action = _Action("")
            if action.action == "setPhase":
                self.phase = action.phase
                self._report(PhaseChanged(self._task, action.phase))
                line = f"--- phase: {action.phase}\n".encode()
        elif line.startswith(OF_CHECKS.encode()):
            self._stream.write(line)
            with suppress(msgspec.MsgspecError):
                begun = msgspec.json.decode(line[len(OF_CHECKS) :], type=_Begun).begin
                self._report(PhaseChanged(self._task, begun))
            return
        self.disk_full = self.disk_full or _DISK_FULL in line
        self._stream.write(line)
        text = line.decode(errors="replace").rstrip("\n")
        self._look_at(text)
        self.last.append(text)
        self._report(LogLine(self._task, text))

    def _look_at(self, text: str) -> None:
        self._lines += 1
        if len(self._errors) < _SHOWN_ERRORS:
            follows = self._errors and self._errors[-1][0] == self._lines - 1 and _SOURCE_LINE.search(text)
            if follows or _ERROR.search(text):
                self._errors.append((self._lines, text))
        if found := _SOUGHT.search(text):
            host = "the network" if found.lastgroup == "nobody" else found[found.lastgroup or 0]
            if host not in self.sought and not (host == "the network" and self.sought):
                self.sought.append(host)

    def summary(self) -> str:
        """Return what a failed build is shown with: its first errors where they are further up, and its end."""
        first = self._lines - len(self.last) + 1
        above = [text for number, text in self._errors if number < first]
        return "\n".join([*above, *(["..."] if above else []), *self.last])

    def close(self) -> None:
        """Finish the file and put it into its place."""
        self._stream.close()
        self._temporary.replace(self.file)


def read_log(file: Path, hint: str = "`pgbake build` builds what is missing") -> str:
    """Return a kept log as text.

    :param hint: how to come by one.
    :raises ManifestError: there is no log, since the package was never built here.
    """
    try:
        with bz2.open(file) as stream:
            return stream.read().decode(errors="replace")
    except FileNotFoundError:
        raise ManifestError("there is no log: this was not built on this machine", hint=hint) from None
