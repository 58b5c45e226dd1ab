"""Build logs: kept compressed in Nix's place and format, told line by line while they are written."""

from __future__ import annotations

import bz2
import os
from collections import deque
from pathlib import Path

import msgspec

from pgbake.errors import ManifestError
from pgbake.events import LogLine, PhaseChanged, Sink

#: How many lines of a failed build are shown with its error.
SHOWN_LINES = 25

_STRUCTURED = b"@nix "


class _Action(msgspec.Struct):
    action: str
    phase: str = ""


class BuildLog:
    """The log of one build while it is written. Lines that begin with ``@nix`` are Nix's own notes, as JSON."""

    def __init__(self, file: Path, task: str, report: Sink) -> None:
        self.file = file
        self.phase = "start"
        self.last: deque[str] = deque(maxlen=SHOWN_LINES)
        self._task = task
        self._report = report
        file.parent.mkdir(parents=True, exist_ok=True)
        self._temporary = file.with_name(f"{file.name}.{os.getpid()}")
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
        self._stream.write(line)
        text = line.decode(errors="replace").rstrip("\n")
        self.last.append(text)
        self._report(LogLine(self._task, text))

    def close(self) -> None:
        """Finish the file and put it into its place."""
        self._stream.close()
        self._temporary.replace(self.file)


def read_log(file: Path) -> str:
    """Return a kept log as text.

    :raises ManifestError: there is no log, since the package was never built here.
    """
    try:
        with bz2.open(file) as stream:
            return stream.read().decode(errors="replace")
    except FileNotFoundError:
        raise ManifestError(
            "there is no log: this was not built on this machine", hint="`pgbake build` builds what is missing"
        ) from None
