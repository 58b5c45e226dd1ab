"""The engine ``nix``: derivations are given to a real Nix, which builds them, here or on its remote builders.

All of a plan's builds are one request, so that Nix spreads them over its machines. What it tells of them becomes the
events of pgbake's own progress; logs are where Nix keeps them, which is where the local engine puts its own.

Nix passes over a builder that it cannot reach. One that is lost in the middle of a build it takes for a build that
failed; here that build is asked for again, and the builder, where pgbake named it, for no more of them.
"""

from __future__ import annotations

import re
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Literal

import msgspec

from pgbake.build.engine import CHECK, BuildOptions, Find, short_name
from pgbake.build.log import OF_CHECKS, SHOWN_LINES
from pgbake.errors import BuildError, HostError, PgbakeError
from pgbake.events import Finished, LogLine, Notice, PhaseChanged, Sink, Started
from pgbake.formats.derivation import Derivation
from pgbake.formats.storepath import StorePath
from pgbake.store.daemon import (
    BUILD,
    LOG_LINE,
    SET_PHASE,
    Activity,
    Connection,
    DaemonError,
    Message,
    Result,
    Stopped,
    Told,
)
from pgbake.store.nix import NixStore

Takes = Callable[[Derivation, BuildError], bool]

#: What bubblewrap says where a machine forbids the namespaces that a build root is entered by.
_NO_NAMESPACES = re.compile(
    r"bwrap: .*(No permissions to create new namespace|setting up uid map|Creating new namespace)"
)
#: What Nix says, from version to version, of a builder that it cannot reach, and of having none at all.
_UNREACHABLE = re.compile(r"cannot build on '?(?P<where>[^':]+(?:://[^']+)?)'?: (?P<why>.*)")
#: What it says of a build that failed by itself on a builder; of one whose builder was lost it says other things.
_FAILED_THERE = re.compile(r"build of '(?P<path>[^']+)' on '(?P<where>[^']+)' failed: (?P<why>.*)", re.DOTALL)
#: Before the path of a derivation that failed by itself, where it was built here.
_OF_ONE = ("builder for", "Cannot build", "building of")
#: What a builder says to a user whom it does not trust.
_UNSIGNED = re.compile(r"lacks a (valid )?signature")
_KEPT = re.compile(r"keeping build directory '([^']+)'")
_RESTRICTED = re.compile(r"ignoring the (?:user|client)-specified setting 'builders'")
#: How often a builder may be lost before that is an error, where it is not pgbake that names it.
_MOST_LOSSES = 3
_NOBODY = re.compile(r"unable to start any build|[Rr]equired system|required \(system, features\)|is required to build")


@dataclass
class _Running:
    """A build of which Nix has told, and not yet that it ended."""

    derivation: Derivation
    begun: float
    machine: str = ""
    last: deque[str] = field(default_factory=lambda: deque(maxlen=SHOWN_LINES))
    phase: str = "start"


def _deaf(_told: Told) -> None:
    """Heed nothing of it."""


class NixEngine:
    """Builds derivations by the Nix of this machine.

    :param settings: of Nix's configuration for these builds, such as ``builders``.
    """

    def __init__(
        self,
        store: NixStore,
        report: Sink,
        find: Find,
        cores: int = 0,
        options: BuildOptions | None = None,
        settings: Mapping[str, str] | None = None,
    ) -> None:
        self._store = store
        self._report = report
        self._find = find
        self._cores = cores
        self._options = options or BuildOptions()
        self._settings = dict(settings or {})
        self._connection: Connection | None = None
        self._turn = threading.Lock()
        self._cancelled = False
        self._running: dict[int, _Running] = {}
        self._ended: dict[StorePath, _Running] = {}
        self._said: list[str] = []
        self._failed_there: dict[StorePath, str] = {}
        self._times_lost: Counter[str] = Counter()
        self._losses: dict[str, str] = {}

    def cancel(self) -> None:
        """Stop what is being built, from another thread."""
        with self._turn:
            self._cancelled = True
            if self._connection is not None:
                self._connection.interrupt()

    def build(self, derivations: Iterable[Derivation], takes: Takes | None = None) -> None:
        """Build derivations whose inputs are valid, or built by others of them.

        :param takes: see :func:`pgbake.build.realise.realise`.
        :raises BuildError: one failed; its last lines and the log's place are told.
        :raises HostError: Nix cannot start builds at all.
        """
        derivations = list(derivations)
        for derivation in derivations:
            for needed in derivation.input_drvs:
                self._register(needed)
            self._register(derivation.path)
        left = derivations
        while left:
            trouble = self._attempt(left, keep_going=takes is not None or bool(self._settings.get("builders")))
            if self._cancelled:
                raise BuildError("the builds were stopped")
            left = [one for one in left if self._store.valid(one.output_paths.values()) != {*one.output_paths.values()}]
            if left and not self._leave_lost():
                self._judge(left, trouble, takes)
                return

    def _attempt(self, derivations: Iterable[Derivation], *, keep_going: bool) -> str:
        """Let Nix build derivations, as far as it gets; return what it says of what failed."""
        self._ended.clear()
        self._said.clear()
        self._failed_there.clear()
        connection = Connection()
        with self._turn:
            self._connection = connection
        try:
            self._configure(connection, keep_going=keep_going)
            connection.build([derivation.path for derivation in derivations], self._hear)
        except DaemonError as error:
            return str(error)
        finally:
            self._end_all()
            connection.close()
            self._store.refresh()
        return ""

    def _leave_lost(self) -> bool:
        """Name the builders that were lost in this attempt no more; return whether there are any.

        :raises HostError: it is Nix that names one, and that has been lost too often.
        """
        lost: dict[str, list[_Running]] = {}
        for running in filter(self._is_lost, self._ended.values()):
            lost.setdefault(running.machine, []).append(running)
        for machine, builds in sorted(lost.items()):
            lines = self._settings.get("builders", "").split("\n")
            others = [line for line in lines if line.split(" ")[0] != machine]
            if len(others) < len(lines):
                self._settings["builders"] = "\n".join(others)
            why = self._losses[machine] = self._why_lost(builds)
            self._times_lost[machine] += 1
            if self._times_lost[machine] >= _MOST_LOSSES:
                raise HostError(
                    f"builder {machine} was lost in the middle of builds, {self._times_lost[machine]} times: {why}",
                    hint="`pgbake builders check` asks each of them; `--builders` names those that are to be used",
                    detail="\n".join(self._said),
                )
            names = ", ".join(sorted(one.derivation.name for one in builds))
            self._report(Notice("warning", f"builder {machine} was lost ({why}); built once more, elsewhere: {names}"))
        return bool(lost)

    def _why_lost(self, builds: Iterable[_Running]) -> str:
        """Say why a builder did not bring builds to an end: by its last words, which are ssh's, or by Nix's."""
        lines = [line for running in builds for line in running.last if line.strip()]
        if any(_UNSIGNED.search(text) for text in (*lines, *self._said)):
            return "its user is not trusted there to bring inputs that nobody has signed"
        return lines[-1].strip() if lines else "the connection ended"

    def _is_lost(self, running: _Running) -> bool:
        """Whether a build that ended was on a builder, and neither came about nor failed by itself."""
        path = running.derivation.path
        return bool(running.machine) and path not in self._failed_there and not self._is_built(running.derivation)

    def _is_built(self, derivation: Derivation) -> bool:
        outputs = set(derivation.output_paths.values())
        return self._store.valid(outputs) == outputs

    def _register(self, path: StorePath) -> None:
        """Give Nix a derivation, and before it those that it names."""
        if self._store.valid([path]):
            return
        derivation = self._find(path)
        for needed in derivation.input_drvs:
            self._register(needed)
        self._store.add_text(path, derivation.to_aterm(), derivation.references, derivation.output_paths)

    def _configure(self, connection: Connection, *, keep_going: bool) -> None:
        refused = connection.trusted is False
        if connection.trusted is None:

            def listen(told: Told) -> None:
                nonlocal refused
                refused |= isinstance(told, Message) and _RESTRICTED.search(told.text) is not None

            self._set_options(connection, keep_going, listen, talkative=True)
        # None at all may be chosen by everybody.
        if refused and self._settings.get("builders"):
            raise HostError(
                "Nix's daemon does not let you choose builders: you are no trusted user",
                hint="let trusted-users in nix.conf name you; or build on those that Nix itself has: --builders nix",
            )
        self._set_options(connection, keep_going)

    def _set_options(
        self, connection: Connection, keep_going: bool, tell: Callable[[Told], None] = _deaf, talkative: bool = False
    ) -> None:
        connection.set_options(
            self._settings, keep_going=keep_going, keep_failed=self._options.keep_failed, cores=self._cores,
            max_silent=int(self._options.max_silent or 0), tell=tell, talkative=talkative,
        )  # fmt: skip

    # --- what Nix tells ---------------------------------------------------------------------------

    def _hear(self, told: Told) -> None:
        match told:
            case Activity(type=type) if type == BUILD:
                self._begin(told)
            case Result(type=type, fields=(str(line), *_)) if type == LOG_LINE:
                self._line(told.id, line)
            case Result(type=type, fields=(str(phase), *_)) if type == SET_PHASE:
                if running := self._running.get(told.id):
                    running.phase = phase
                    self._report(PhaseChanged(str(running.derivation.path), phase))
            case Stopped(id) if id in self._running:
                self._end(id)
            case Message(text):
                self._said.append(text)
                if failed := _FAILED_THERE.search(text):
                    self._failed_there[StorePath.parse(failed["path"])] = failed["why"]
                if unreachable := _UNREACHABLE.search(text):
                    self._report(Notice("warning", f"builder {unreachable['where']}: {unreachable['why']}"))

    def _begin(self, activity: Activity) -> None:
        path = StorePath.parse(str(activity.fields[0]).partition("!")[0])
        derivation = self._find(path)
        machine = str(activity.fields[1]) if len(activity.fields) > 1 else ""
        self._running[activity.id] = _Running(derivation, time.monotonic(), machine)
        title = short_name(derivation) if kind_of(derivation) == "check" else derivation.name
        self._report(Started(str(path), kind_of(derivation), f"{title} on {machine}" if machine else title))

    def _line(self, id: int, line: str) -> None:
        running = self._running.get(id)
        if running is None:
            return
        task = str(running.derivation.path)
        if line.startswith(OF_CHECKS):
            with suppress(msgspec.MsgspecError, KeyError, TypeError):
                self._report(PhaseChanged(task, msgspec.json.decode(line[len(OF_CHECKS) :])["begin"]))
            return
        running.last.append(line)
        self._report(LogLine(task, line))

    def _end(self, id: int) -> None:
        running = self._running.pop(id)
        self._ended[running.derivation.path] = running
        self._store.refresh()
        outcome: Literal["done", "failed", "cancelled"] = "failed"
        if self._is_built(running.derivation):
            outcome = "done"
        elif self._cancelled or self._is_lost(running):
            outcome = "cancelled"
        self._report(Finished(str(running.derivation.path), outcome, time.monotonic() - running.begun))

    def _end_all(self) -> None:
        for id in list(self._running):
            self._end(id)

    # --- what went wrong --------------------------------------------------------------------------

    def _judge(self, failed: list[Derivation], trouble: str, takes: Takes | None) -> None:
        """Raise what is to be told of builds that did not come about, unless all of it is taken."""
        tried = [derivation for derivation in failed if derivation.path in self._ended]
        if not tried:
            raise self._not_started(failed, trouble)
        # Others were stopped when one failed.
        for derivation in [one for one in tried if self._told_of(one, trouble)] or tried:
            error = self._failure(derivation, trouble)
            if takes is None or not isinstance(error, BuildError) or not takes(derivation, error):
                raise error

    def _told_of(self, derivation: Derivation, trouble: str) -> str:
        """Return what Nix says of a build that failed by itself; "" where it says nothing."""
        texts = (self._failed_there.get(derivation.path, ""), *self._said, trouble)
        ways = [f"{words} '{derivation.path}" for words in _OF_ONE]
        return next((text for text in texts if any(way in text for way in ways)), "")

    def _failure(self, derivation: Derivation, trouble: str) -> PgbakeError:
        running = self._ended[derivation.path]
        lines = "\n".join(running.last)
        is_check = kind_of(derivation) == "check"
        name = short_name(derivation)
        what = f"the check {name} failed" if is_check else f"{derivation.name} failed to build in phase {running.phase}"
        if _NO_NAMESPACES.search(lines):
            return HostError(
                f"{what}: the machine that built it forbids user namespaces",
                hint="`pgbake builders check` says which, and what to do there",
                detail=lines,
            )
        said = self._told_of(derivation, trouble)
        told = re.search(r"'(?: |\.\s+Reason: builder )((?:failed|timed out) [^;.\n]*)", said)
        why = told[1] if told else "its builder failed"
        hints = [f"the whole log: pgbake log {name} (kept in {self._store.log_file(derivation.path)})"]
        if kept := [found[1] for text in self._said for found in [_KEPT.search(text)] if found]:
            hints.append(f"Nix keeps its directory{f' on {running.machine}' if running.machine else ''}: {kept[-1]}")
        return BuildError(
            f"{what}: {why}",
            hint="\n      ".join(hints),
            detail=lines,
        )

    def _not_started(self, failed: list[Derivation], trouble: str) -> PgbakeError:
        said = [text for text in self._said if _UNREACHABLE.search(text)]
        message = f"Nix cannot build {failed[0].name}: {_first(trouble)}"
        if said:
            found = _UNREACHABLE.search(said[-1])
            assert found is not None
            return HostError(
                f"no builder could be reached; {found['where']}: {found['why']}",
                hint="`pgbake builders check` asks each of them, and says what to do",
                detail="\n".join(said),
            )
        if self._losses:
            machine, why = next(reversed(self._losses.items()))
            return HostError(
                f"no builder is left; {machine}: {why}",
                hint="`pgbake builders check` asks each of them, and says what to do",
                detail=trouble,
            )
        if _NOBODY.search(trouble):
            return HostError(
                message,
                hint="no machine of Nix's may build it: see `pgbake builders check`, and max-jobs in nix.conf",
                detail=trouble,
            )
        return BuildError(message, hint="what Nix says is above; or build without it: --engine local", detail=trouble)


def kind_of(derivation: Derivation) -> Literal["build", "check"]:
    """Return which kind of task a derivation's build is."""
    return "check" if derivation.env.get("pname", "").startswith(CHECK) else "build"


def _first(text: str) -> str:
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[0].removeprefix("error: ") if lines else "it does not say why"
