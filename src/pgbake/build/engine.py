"""The local engine: realises one derivation at a time with bubblewrap, as Nix would, without Nix.

For each derivation: its outputs' locks are taken; its script runs in the sandbox of
`pgbake.build.wrapper`, below ``HASH-NAME.drv.chroot`` in the store; its outputs are made read-only, hashed
and scanned for references to what the build could see, moved into place, and registered together.
"""

from __future__ import annotations

import os
import signal
import subprocess
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from pgbake.build.jobserver import JobServer
from pgbake.build.log import BuildLog
from pgbake.build.sandbox import build_command, require_sandbox
from pgbake.build.wrapper import ENVIRONMENT, Wrapped, unwrap
from pgbake.errors import BuildError, HostError, host_error
from pgbake.events import Notice, Sink
from pgbake.formats.derivation import Derivation
from pgbake.formats.storepath import StorePath
from pgbake.run import describe_status
from pgbake.store.database import PathInfo
from pgbake.store.local import LocalStore, remove_tree
from pgbake.store.locks import acquire, open_lock
from pgbake.users import closed_directory, identity

#: First uid, and their distance, of the ranges that Nix's auto-allocate-uids hands to builds.
_FIRST_UID = 872415232
_UID_STEP = 65536
_CLASSICAL_UID = 30001
_MOST_BUILDS = 1024


class LocalEngine:
    """Builds derivations of pgbake's form in a local store. Safe to use from several threads."""

    def __init__(self, store: LocalStore, jobs: JobServer, report: Sink) -> None:
        """:raises HostError: this machine lets no sandbox be made."""
        self.store = store
        self._jobs = jobs
        self._report = report
        self._running: set[subprocess.Popen[bytes]] = set()
        self._turn = threading.Lock()
        self._cancelled = False
        with self._build_uid() as uid:
            if uid is not None and (closed := closed_directory(store.store_dir)):
                raise HostError(
                    f"builds run as a user of their own, who cannot reach {store.store_dir}",
                    hint=f"{closed} is closed to others: name a store elsewhere with --store DIR",
                )
            require_sandbox(uid)

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
        wrapped = unwrap(derivation)
        if wrapped is None:
            raise BuildError(f"{derivation.path} is not of the form that the local engine builds")
        outputs = {name: StorePath.parse(output.path) for name, output in derivation.outputs.items()}
        drv = self.store.add_derivation(derivation)

        def waiting(holder: str) -> None:
            self._report(Notice("info", f"{derivation.name} is being built by {holder}; waiting for it"))

        with ExitStack() as stack:
            for path in sorted(outputs.values()):
                stack.enter_context(self.store.lock(path, waiting))
            if self.store.valid(outputs.values()) == set(outputs.values()):
                return
            uid = stack.enter_context(self._build_uid())
            staging = self.store.staging(drv)
            stack.callback(remove_tree, staging)
            visible = self._visible(derivation)
            try:
                self._perform(wrapped, visible, staging, uid, task)
                made = list(self._collect(derivation, outputs, visible, staging / "store"))
                _check_circle(derivation, made)
                self.store.register(made)
            except OSError as error:
                raise host_error(error, f"cannot build {derivation.name}") from error

    def _perform(self, wrapped: Wrapped, visible: list[StorePath], staging: Path, uid: int | None, task: str) -> None:
        derivation = wrapped.derivation
        for directory in (staging / "store", staging / "build"):
            directory.mkdir()
            if uid is not None:
                os.chown(directory, uid, uid)
        command = build_command(self.store, wrapped.build_root, visible, staging / "store", staging / "build")
        environment = {**derivation.env, **ENVIRONMENT}
        environment |= {"NIX_BUILD_CORES": str(self._jobs.cores), "MAKEFLAGS": self._jobs.makeflags}
        log = BuildLog(self.store.log_file(derivation.path), task, self._report)
        try:
            status = self._run(command, environment, uid, log)
        finally:
            log.close()
        if status != 0:
            raise BuildError(
                f"{derivation.name} failed to build in phase {log.phase}: the build {describe_status(status)}",
                hint=self._where_the_log_is(derivation),
                detail="\n".join(log.last),
            )

    def _run(self, command: list[str], environment: dict[str, str], uid: int | None, log: BuildLog) -> int:
        with self._turn:
            if self._cancelled:
                return -signal.SIGTERM
            process = subprocess.Popen(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                env=environment,
                cwd="/",
                pass_fds=self._jobs.descriptors,
                start_new_session=True,
                umask=0o022,
                **identity(uid),
            )
            self._running.add(process)
        try:
            assert process.stdout is not None
            for line in process.stdout:
                log.write(line)
            return process.wait()
        finally:
            with self._turn:
                self._running.discard(process)
            if process.poll() is None:
                _kill(process)
                process.wait()

    def _where_the_log_is(self, derivation: Derivation) -> str:
        name = derivation.env.get("pname", derivation.name)
        return f"the whole log: pgbake log {name} (kept in {self.store.log_file(derivation.path)})"

    def _visible(self, derivation: Derivation) -> list[StorePath]:
        """Return what the build sees of the store: its inputs and all that they refer to, as in Nix."""
        paths = set(derivation.input_srcs)
        for drv, names in derivation.input_drvs.items():
            built = self.store.derivation(drv)
            paths.update(StorePath.parse(built.outputs[name].path) for name in names)
        return list(self.store.closure(paths))

    def _collect(
        self, derivation: Derivation, outputs: dict[str, StorePath], visible: list[StorePath], made: Path
    ) -> Iterator[PathInfo]:
        for name, path in outputs.items():
            if not os.path.lexists(made / path.basename):
                raise BuildError(
                    f"{derivation.name} did not make its output {name}",
                    hint=self._where_the_log_is(derivation),
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
        uids = _build_uids() if os.geteuid() == 0 else iter(())
        pool = self.store.state_dir / "userpool2"
        try:
            pool.mkdir(exist_ok=True)
        except OSError as error:
            raise host_error(error, f"cannot write to {self.store.state_dir}") from error
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


def _build_uids() -> Iterator[int]:
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
