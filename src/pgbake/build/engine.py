"""The local engine: realises one derivation at a time with bubblewrap, as Nix would, without Nix.

For each derivation: its outputs' locks are taken; its script runs in the sandbox of
`pgbake.build.wrapper`, below ``HASH-NAME.drv.chroot`` in the store; its outputs are made read-only, hashed
and scanned for references to what the build could see, moved into place, and registered together.
"""

from __future__ import annotations

import dataclasses
import errno
import os
import signal
import subprocess
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from pgbake.build.jobserver import JobServer
from pgbake.build.log import BuildLog
from pgbake.build.output import Silent, lines
from pgbake.build.sandbox import READY, Sandbox, require_sandbox
from pgbake.build.wrapper import USUAL, Surroundings, Wrapped, unwrap
from pgbake.errors import HOST_HINTS, BuildError, HostError, PgbakeError, host_error
from pgbake.events import Notice, Sink
from pgbake.formats.derivation import Derivation
from pgbake.formats.storepath import StorePath
from pgbake.run import describe_status
from pgbake.store import tree
from pgbake.store.database import PathInfo
from pgbake.store.local import LocalStore, remove_tree
from pgbake.store.locks import acquire, open_lock
from pgbake.users import closed_directory

#: First uid, and their distance, of the ranges that Nix's auto-allocate-uids hands to builds.
_FIRST_UID = 872415232
_UID_STEP = 65536
_CLASSICAL_UID = 30001
_MOST_BUILDS = 1024


#: What the ``pname`` of a check begins with.
CHECK = "check "

#: Gives a derivation by the path of its ``.drv``.
Find = Callable[[StorePath], Derivation]


@dataclass(frozen=True, slots=True)
class BuildOptions:
    """How builds are run, whatever they build.

    :param max_silent: seconds without a line of output after which a build is stopped; None: never.
    :param keep_failed: whether the directory of a build that fails is kept, for `pgbake enter`.
    """

    max_silent: float | None = 1800
    keep_failed: bool = False


class LocalEngine:
    """Builds derivations of pgbake's form in a local store. Safe to use from several threads."""

    def __init__(
        self,
        store: LocalStore,
        jobs: JobServer,
        report: Sink,
        options: BuildOptions | None = None,
        find: Find | None = None,
    ) -> None:
        """Make an engine.

        :param find: gives the derivations that others name as inputs; None looks for them in the store, where those
            are not whose outputs came from a cache.
        :raises HostError: this machine lets no sandbox be made.
        """
        self.store = store
        self._find = find or store.derivation
        self._jobs = jobs
        self._report = report
        self._options = options or BuildOptions()
        self._running: set[subprocess.Popen[bytes]] = set()
        self._turn = threading.Lock()
        self._cancelled = False
        with self._build_uid() as uid:
            if uid is not None and (closed := closed_directory(store.builds_dir)):
                raise HostError(
                    f"builds run as a user of their own, who cannot reach {store.builds_dir}",
                    hint=f"{closed} is closed to others: name another place, with "
                    f"{'--store DIR' if store.builds_dir == store.store_dir else 'XDG_DATA_HOME'}",
                )
            self._sandbox = require_sandbox(uid)

    def cancel(self) -> None:
        """Kill every running build; later ones fail at once."""
        with self._turn:
            self._cancelled = True
            for process in self._running:
                _kill(process)

    @property
    def cancelled(self) -> bool:
        """Whether :meth:`cancel` was called."""
        return self._cancelled

    def build(self, derivation: Derivation, task: str) -> None:
        """Build a derivation whose inputs are valid, unless its outputs are by now.

        :param task: the id under which events are reported.
        :raises BuildError: it failed; the phase, the last lines and the log's place are told.
        """
        wrapped = _unwrap(derivation)
        outputs = derivation.output_paths
        drv = self.store.add_derivation(derivation)
        with self._locked(derivation):
            if self.store.valid(outputs.values()) == set(outputs.values()):
                return
            visible = visible_paths(self.store, derivation, self._find)
            try:
                with self._performed(wrapped, drv, visible, USUAL, {}, task) as made:
                    infos = list(self._collect(derivation, outputs, visible, made))
                    _check_circle(derivation, infos)
                    self.store.register(infos)
            except OSError as error:
                raise host_error(error, f"cannot build {derivation.name}") from error

    @contextmanager
    def again(
        self,
        derivation: Derivation,
        surroundings: Surroundings,
        environment: Mapping[str, str],
        inputs: Iterable[StorePath],
        task: str,
    ) -> Iterator[Path]:
        """Build a derivation a second time, and give the directory that holds its outputs by base name.

        They are as a store has them, but are not put into it; they are gone when the ``with`` block ends.

        :param environment: of the build, beside the usual.
        :param inputs: valid paths that this build sees beside its inputs.
        :raises BuildError: it failed this time, or made other outputs.
        """
        wrapped = _unwrap(derivation)
        outputs = derivation.output_paths
        drv = self.store.add_derivation(derivation)
        with self._locked(derivation):
            visible = [*visible_paths(self.store, derivation, self._find), *inputs]
            try:
                with self._performed(wrapped, drv, visible, surroundings, environment, task) as made:
                    self._require_outputs(derivation, outputs, made)
                    for path in outputs.values():
                        tree.canonicalise(made / path.basename, owner=(0, 0) if os.geteuid() == 0 else None)
                    yield made
            except OSError as error:
                raise host_error(error, f"cannot build {derivation.name} again") from error

    @contextmanager
    def _locked(self, derivation: Derivation) -> Iterator[None]:
        """Hold the locks of a derivation and of its outputs."""

        def waiting(holder: str) -> None:
            self._report(Notice("info", f"{derivation.name} is being built by {holder}; waiting for it"))

        with ExitStack() as stack:
            # The derivation's own lock is for its staging directory and its log.
            for path in (derivation.path, *sorted(derivation.output_paths.values())):
                stack.enter_context(self.store.lock(path, waiting, lambda: self._cancelled))
            yield

    @contextmanager
    def _performed(
        self,
        wrapped: Wrapped,
        drv: StorePath,
        visible: Iterable[StorePath],
        surroundings: Surroundings,
        environment: Mapping[str, str],
        task: str,
    ) -> Iterator[Path]:
        """Perform a derivation's script, and give the directory in which it made its outputs."""
        derivation = wrapped.derivation
        with self._build_uid() as uid, self._staged(drv) as staging:
            directories = staging / "store", staging / "build"
            for directory in directories:
                directory.mkdir()
                if uid is not None:
                    os.chown(directory, uid, uid)
            sandbox = dataclasses.replace(self._sandbox, uid=uid)
            command = sandbox.command(self.store, wrapped.build_root, visible, *directories, surroundings)
            cores = self._jobs.cores + surroundings.more_cores
            variables = {**derivation.env, **surroundings.environment, **environment}
            variables |= {"NIX_BUILD_CORES": str(cores), "MAKEFLAGS": self._jobs.makeflags}
            log = BuildLog(self.store.build_log(derivation.path), task, self._report)
            try:
                status = self._run(sandbox, command, variables, log)
                trouble = None if status == 0 else f"the build {describe_status(status)}"
            except Silent as silent:
                trouble = f"it printed nothing for {self._options.max_silent:g} s and was stopped; {silent}"
            finally:
                log.close()
            if trouble is not None:
                keep = self._options.keep_failed and not self._cancelled
                kept = self.keep(derivation, staging) if keep else None
                raise self._failure(derivation, log, trouble, kept)
            yield staging / "store"

    @contextmanager
    def _staged(self, drv: StorePath) -> Iterator[Path]:
        staging = self.store.staging(drv)
        try:
            yield staging
        finally:
            remove_tree(staging)

    def _run(self, sandbox: Sandbox, command: list[str], environment: Mapping[str, str], log: BuildLog) -> int:
        with self._turn:
            if self._cancelled:
                return -signal.SIGTERM
            process = subprocess.Popen(
                command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd="/",
                pass_fds=self._jobs.descriptors,
                start_new_session=True,
                umask=0o022,
                **sandbox.identity,
            )
            self._running.add(process)
        try:
            assert process.stdin is not None
            for line in lines(process, self._options.max_silent):
                if line == READY and not process.stdin.closed:
                    with suppress(BrokenPipeError):
                        process.stdin.write(b"\n")
                        process.stdin.close()
                else:
                    log.write(line)
            return process.wait()
        finally:
            with self._turn:
                self._running.discard(process)
            if process.stdin is not None:
                process.stdin.close()
            if process.poll() is None:
                _kill(process)
                process.wait()
            if process.stdout is not None:
                process.stdout.close()

    def keep(self, derivation: Derivation, staging: Path) -> Path:
        """Keep the directory of a build, until another one of the same derivation is kept; return its place."""
        kept = self.store.failed_build(derivation.path)
        kept.parent.mkdir(parents=True, exist_ok=True)
        remove_tree(kept)
        return staging.rename(kept)

    def _failure(self, derivation: Derivation, log: BuildLog, trouble: str, kept: Path | None) -> PgbakeError:
        failed = f"{derivation.name} failed to build in phase {log.phase}"
        if derivation.env.get("pname", "").startswith(CHECK):
            failed = f"the check {short_name(derivation)} failed"
            trouble = trouble.replace("the build ", "its sandbox ", 1)
        if log.disk_full:
            return HostError(
                f"{failed}: {os.strerror(errno.ENOSPC)}", hint=HOST_HINTS[errno.ENOSPC], detail=log.summary()
            )
        name = short_name(derivation)
        hints = []
        if log.sought:
            hints.append(
                f"it tried to reach {' and '.join(log.sought)}, and builds have no network: all that they use is "
                "declared in the recipe"
            )
        hints.append(self._where_the_log_is(derivation))
        if kept is not None:
            hints.append(f"its directory is kept; enter it: pgbake enter {name}")
        elif not derivation.env.get("pname", "").startswith(CHECK):
            hints.append("to look into its directory: pgbake build --keep-failed")
        return BuildError(
            f"{failed}: {trouble}",
            hint="\n      ".join(hints),
            detail=log.summary(),
        )

    def _where_the_log_is(self, derivation: Derivation) -> str:
        name = short_name(derivation)
        return f"the whole log: pgbake log {name} (kept in {self.store.build_log(derivation.path)})"

    def _require_outputs(self, derivation: Derivation, outputs: Mapping[str, StorePath], made: Path) -> None:
        for name, path in outputs.items():
            if not os.path.lexists(made / path.basename):
                raise BuildError(
                    f"{derivation.name} did not make its output {name}",
                    hint=self._where_the_log_is(derivation),
                )

    def _collect(
        self, derivation: Derivation, outputs: Mapping[str, StorePath], visible: Iterable[StorePath], made: Path
    ) -> Iterator[PathInfo]:
        self._require_outputs(derivation, outputs, made)
        if not any(_holds_something(made / path.basename) for path in outputs.values()):
            raise BuildError(
                f"{derivation.name} was built, but its makefile installed nothing",
                hint=f"see the end of `pgbake log {short_name(derivation)}`: its `install` must "
                "heed DESTDIR; `make` in the recipe adds words to make's command line, such as variables",
            )
        candidates = {*visible, *outputs.values()}
        # What is valid already may be in use: it stays, as in Nix.
        there = self.store.valid(outputs.values())
        for path in outputs.values():
            if path not in there:
                yield self.store.place(path, made / path.basename, candidates=candidates, deriver=derivation.path)

    @contextmanager
    def _build_uid(self) -> Iterator[int | None]:
        """Hold a uid that no other build on this machine has, when root; else builds run as the user."""
        uids = build_uids() if os.geteuid() == 0 else iter(())
        pool = self.store.uid_pool
        try:
            pool.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise host_error(error, f"cannot write to {pool.parent}") from error
        for slot, uid in enumerate(uids):
            descriptor = open_lock(pool / f"slot-{slot}")
            try:
                if acquire(descriptor, wait=False):
                    # The lock belongs to whoever has the descriptor: closing it frees the uid.
                    yield uid
                    return
            finally:
                os.close(descriptor)
        yield None


def visible_paths(store: LocalStore, derivation: Derivation, find: Find) -> list[StorePath]:
    """Return what a build sees of the store: its inputs and all that they refer to, as in Nix."""
    paths = set(derivation.input_srcs)
    for drv, names in derivation.input_drvs.items():
        built = find(drv).output_paths
        paths.update(built[name] for name in names)
    return list(store.closure(paths))


def short_name(derivation: Derivation) -> str:
    """Return what a package, or a check, is called on the command line."""
    return derivation.env.get("pname", derivation.name).removeprefix(CHECK)


def _unwrap(derivation: Derivation) -> Wrapped:
    wrapped = unwrap(derivation)
    if wrapped is None:
        raise BuildError(f"{derivation.path} is not of the form that the local engine builds")
    return wrapped


def _holds_something(output: Path) -> bool:
    """Whether an output is of any use: a file, or a tree with more in it than licences and other documents."""
    if output.is_symlink() or not output.is_dir():
        return True
    for directory, names, files in os.walk(output):
        if files or any(Path(directory, name).is_symlink() for name in names):
            return True
        if directory == str(output / "usr/share") and "doc" in names:
            names.remove("doc")
    return False


def _check_circle(derivation: Derivation, made: Sequence[PathInfo]) -> None:
    """Refuse outputs that refer to each other in a circle, as Nix does: no collector could ever delete them."""
    paths = {info.path for info in made}
    try:
        TopologicalSorter({info.path: info.references & paths - {info.path} for info in made}).prepare()
    except CycleError as error:
        circle = " -> ".join(str(path) for path in error.args[1])
        raise BuildError(
            f"the outputs of {derivation.name} refer to each other in a circle: {circle}",
            hint="let one output alone name the others",
        ) from None


def build_uids() -> Iterator[int]:
    """Return the uids for builds that this user namespace has; none where root is its only user.

    The machine's own has all. That of a rootless container usually has 65,536, among which are those of
    Nix's classical build users, from 30001 on.
    """
    ranges = [tuple(map(int, line.split())) for line in Path("/proc/self/uid_map").read_text().splitlines()]

    def has(uid: int) -> bool:
        return any(first <= uid < first + count for first, _, count in ranges)

    many = (_FIRST_UID + slot * _UID_STEP for slot in range(_MOST_BUILDS))
    few = (_CLASSICAL_UID + slot for slot in range(_MOST_BUILDS))
    return filter(has, many if has(_FIRST_UID) else few)


def _kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
