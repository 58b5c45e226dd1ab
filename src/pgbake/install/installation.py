"""Installing, switching, going back, and removing: what `pgbake install` and its kin do, in order.

What a machine sees changes by one rename (`pgbake.install.profiles`). All before it is made beside what is in use, and
is found and removed, or used, by the next run when this one is killed; all after it follows from the links, and
:meth:`Installation.heal` brings it about once more.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path

from pgbake.bundle.cluster import await_ready
from pgbake.bundle.receipt import Receipt
from pgbake.errors import CommandError, ManifestError, PgbakeError, ServerError, StoreError
from pgbake.events import Notice, Sink, task
from pgbake.formats.storepath import StorePath
from pgbake.formats.system import SYSTEMS
from pgbake.install import host, service
from pgbake.install.profiles import Generation, Origin, Profiles, settings_text
from pgbake.install.servers import Runs, ServerDirectories, parts_of, runs
from pgbake.machine.apply import Machine, Plan, Way, below
from pgbake.machine.definition import Cluster, Rendered, render
from pgbake.store.local import LocalStore

_FIRST_PORT = 5432


@dataclass(frozen=True, slots=True)
class Wish:
    """What a user wants installed, and how.

    :param cluster: the name of the cluster that a first install makes.
    :param port: of that cluster; None: the first free one from 5432.
    :param way: what is done with files in the way.
    :param restart: restart servers where a switch needs it.
    :param start: start the server of a machine that is installed for the first time.
    :param limit: seconds that a server has to come up.
    """

    bundle: StorePath
    origin: Origin = field(default_factory=Origin)
    cluster: str = "main"
    port: int | None = None
    way: Way = "refuse"
    restart: bool = False
    start: bool = True
    limit: float = 60


@dataclass(frozen=True, slots=True)
class Done:
    """What was done, or is to be done.

    :param before: the generation that was current, or None.
    :param now: the one that is; None in a dry run, or where none is left.
    :param plan: of the machine's files and accounts.
    :param reasons: why servers that run must be restarted to use the new bundle.
    :param live: whether servers that run use it already.
    :param restarted: the clusters that were restarted, each with the seconds in which it gave no answer.
    :param started: the clusters that were started.
    """

    major: int
    before: Generation | None = None
    now: Generation | None = None
    plan: Plan = field(default_factory=Plan)
    reasons: tuple[str, ...] = ()
    live: bool = False
    restarted: tuple[tuple[Cluster, float], ...] = ()
    started: tuple[Cluster, ...] = ()


class Installation:
    """An installed machine, or a tree that becomes one."""

    def __init__(self, store: LocalStore, report: Sink) -> None:
        """``store`` is that of the machine; its root is the tree's."""
        self.store = store
        self.root = store.root
        self.report = report
        self.profiles = Profiles(store)
        self.servers = ServerDirectories(self.profiles)
        self.machine = Machine(self.root, self.profiles.record_file)

    @property
    def live(self) -> bool:
        """Whether it is this machine itself."""
        return self.machine.live

    @property
    def default(self) -> int | None:
        """The version whose programs have the plain names."""
        return self.machine.record.default

    def clusters(self, major: int | None = None) -> tuple[Cluster, ...]:
        """Return the clusters of installed versions, or of one."""
        majors = self.profiles.majors() if major is None else [major]
        return tuple(cluster for cluster in self.machine.record.clusters if cluster.major in majors)

    def wanted(
        self, majors: Iterable[int] | None = None, clusters: Iterable[Cluster] | None = None
    ) -> tuple[Rendered, tuple[Cluster, ...], int | None]:
        """Return what the machine is to have, its clusters, and the version with the plain names."""
        majors = set(self.profiles.majors() if majors is None else majors)
        clusters = self.machine.record.clusters if clusters is None else clusters
        found = tuple(sorted(cluster for cluster in clusters if cluster.major in majors))
        default = self.machine.record.default
        if default not in majors:
            default = max(majors, default=None)
        return render(majors, found, default), found, default

    def lock_waits(self, holder: str) -> None:
        """Tell that another pgbake is at work."""
        self.report(Notice("info", f"another install is at work, {holder}; waiting for it"))

    def heal(self) -> None:
        """Finish, or take back, what a killed run has left: all but the current links follows from them."""
        wanted, clusters, default = self.wanted()
        plan = self.machine.plan(wanted)
        plan = replace(plan, conflicts=())
        record = self.machine.record
        stale = any(made.before is not None for made in record.parts.values())
        if not plan.empty or clusters != record.clusters or default != record.default or stale:
            gone = not self.profiles.majors()
            data = self._has_data(record.clusters)
            self.machine.apply(plan, wanted, clusters, default, remove_accounts_too=gone and not data)
        self.servers.heal()

    def _has_data(self, clusters: Iterable[Cluster]) -> bool:
        return any(service.initialised(self.root, cluster) for cluster in clusters) or any(
            below(self.root, "/var/lib/postgresql").glob("*/*/PG_VERSION")
        )

    # --- install -------------------------------------------------------------------------------------

    def install(self, wish: Wish, *, dry_run: bool = False) -> Done:
        """Install a bundle of the machine's store, or switch to it.

        :raises PgbakeError: something stands in the way; nothing is changed then.
        """
        receipt = self.profiles.receipt(wish.bundle)
        host.require_fitting(self.root, receipt)
        if dry_run:
            return self._install(wish, receipt, dry_run=True)
        with self.profiles.lock(self.lock_waits):
            self.machine = Machine(self.root, self.profiles.record_file)
            self.heal()
            return self._install(wish, receipt, dry_run=False)

    def foresee(self, wish: Wish) -> Done:
        """Say what installing a bundle would change that is not in the store yet, as far as its name tells."""
        found = re.fullmatch(r".*-postgresql-([0-9]+)(?:\.[0-9]+)*", wish.bundle.name)
        if found is None:
            raise ManifestError(f"{wish.bundle} is no bundle", hint="name one that `pgbake build` has made")
        major = int(found[1])
        clusters = self.clusters()
        if not any(cluster.major == major for cluster in clusters):
            clusters = (*clusters, self.new_cluster(major, wish.cluster, wish.port, None, wish.way))
        wanted, _, _ = self.wanted({*self.profiles.majors(), major}, clusters)
        plan = self.machine.plan(wanted, wish.way)
        self.refuse_conflicts(plan)
        return Done(major, self.profiles.current(major), None, plan)

    def _install(self, wish: Wish, receipt: Receipt, *, dry_run: bool) -> Done:
        major = receipt.postgresql.major
        current = self.profiles.current(major)
        clusters = self.clusters()
        if not any(cluster.major == major for cluster in clusters):
            clusters = (*clusters, self.new_cluster(major, wish.cluster, wish.port, receipt, wish.way))
        wanted, clusters, default = self.wanted({*self.profiles.majors(), major}, clusters)
        plan = self.machine.plan(wanted, wish.way)
        self.refuse_conflicts(plan)
        new = self.runs(wish.bundle, receipt)
        same = current is not None and current.bundle == wish.bundle
        key, reasons = self.servers.choose(new, current)
        reasons = [*reasons, *self._reasons(current, receipt, wish.bundle)] if not same else []
        if dry_run:
            return Done(major, current, None, plan, tuple(reasons) if self._running(major) else ())
        if not plan.empty:
            self.machine.apply(plan, wanted, clusters, default)
        if same and current is not None:
            started = self._start_first(wish, major)
            return Done(major, current, current, plan, started=started)
        with task(self.report, f"switch-{major}", "start", f"PostgreSQL {receipt.postgresql.version}"):
            self.servers.make(key, wish.bundle, new)
            generation = self.profiles.add(major, wish.bundle, key, settings_text(receipt), wish.origin)
            try:
                done = self._switch(generation, current, reasons, wish.restart, wish.limit)
            except PgbakeError:
                self.profiles.drop(generation)
                self.servers.heal()
                raise
        if self.live and not plan.empty:
            service.reload_units()
        return replace(done, plan=plan, started=self._start_first(wish, major) if current is None else ())

    def runs(self, bundle: StorePath, receipt: Receipt) -> Runs:
        """Return what a server that runs a bundle may have loaded."""
        return runs(self.store.physical(bundle), SYSTEMS[receipt.system].triplet)

    def new_cluster(self, major: int, name: str, port: int | None, receipt: Receipt | None, way: Way) -> Cluster:
        """Return a cluster that is to be made, once nothing stands in its way.

        :raises PgbakeError: its port is taken, or its data directory is another's.
        """
        known = self.machine.record.clusters
        old = next((cluster for cluster in known if (cluster.major, cluster.name) == (major, name)), None)
        taken = {cluster.port for cluster in known}
        ours = old is not None or f"/etc/postgresql/{major}/{name}/postgresql.conf" in self.machine.record.kept
        if not ours:
            taken |= host.used_ports(self.root)
        chosen = port or (old.port if old else next(p for p in range(_FIRST_PORT, 65536) if p not in taken))
        cluster = Cluster(major, name, chosen, receipt.locales[0] if receipt and receipt.locales else "C")
        host.require_data(self.root, cluster, ours or self._was_ours(cluster), way == "adopt")
        if self.live and service.running(self.root, cluster) is None:
            host.require_port(cluster, known)
        return cluster

    def _was_ours(self, cluster: Cluster) -> bool:
        """Whether an uninstall left this cluster's data."""
        return cluster.data in self.machine.record.kept

    def refuse_conflicts(self, plan: Plan) -> None:
        """Refuse what would overwrite what is not ours, or write where nothing can be written.

        :raises ManifestError: something is in the way; each is named.
        :raises HostError: a file system is mounted read-only.
        """
        host.require_changeable(self.root, plan)
        if not plan.conflicts:
            return
        adoptable = all(conflict.adoptable for conflict in plan.conflicts)
        raise ManifestError(
            f"{len(plan.conflicts)} path{'s are' if len(plan.conflicts) > 1 else ' is'} in the way, not made by pgbake",
            hint=("--adopt keeps what is there and uses it; " if adoptable else "")
            + "--divert moves it aside until `pgbake uninstall`; or remove the package that it belongs to",
            detail="\n".join(f"{conflict.path}: {conflict.what}" for conflict in plan.conflicts),
        )

    # --- switching -----------------------------------------------------------------------------------

    def _running(self, major: int) -> list[Cluster]:
        return [cluster for cluster in self.clusters(major) if service.running(self.root, cluster) is not None]

    def _reasons(self, current: Generation | None, receipt: Receipt, bundle: StorePath) -> list[str]:
        """Return why servers must be restarted though they could be shown the bundle: what they read at their start."""
        if current is None or not self.store.valid([current.bundle]):
            return []
        before = self.profiles.receipt(current.bundle)
        found = []
        if gone := [name for name in before.preload if name not in receipt.preload]:
            found.append(f"{', '.join(gone)} preloaded no more")
        if new := [name for name in receipt.preload if name not in before.preload]:
            found.append(f"{', '.join(new)} to be preloaded")
        old_parts, new_parts = (
            {package.name: package for package in parts_of(self.store.physical(path)).packages}
            for path in (current.bundle, bundle)
        )
        preloading = {e.package for e in receipt.extensions if set(e.preload) & set(receipt.preload)}
        found += [
            f"{name}, which is preloaded, {old_parts[name].version} -> {new_parts[name].version}"
            for name in sorted(preloading & old_parts.keys() & new_parts.keys() - {"postgresql"})
            if old_parts[name].path != new_parts[name].path
        ]
        changed = {
            name
            for name in before.settings.keys() | receipt.settings.keys()
            if before.settings.get(name) != receipt.settings.get(name)
        }
        return found + [
            f"setting {name} = {receipt.settings.get(name, 'its default')}"
            for name in sorted(changed & self._read_at_start(current.major, changed))
        ]

    def _read_at_start(self, major: int, names: set[str]) -> set[str]:
        """Return which settings a running server reads at its start only; all of them where it cannot be asked."""
        running = self._running(major)
        if not (running and names):
            return names
        listed = ",".join("'" + name.replace("'", "''") + "'" for name in sorted(names))
        try:
            if not self.live:
                return names
            later = service.ask(
                running[0],
                f"SELECT name FROM pg_settings WHERE name IN ({listed}) AND context NOT IN ('postmaster', 'internal')",
            )
        except CommandError:
            return names
        return names - set(later.splitlines())

    def _switch(
        self, new: Generation, current: Generation | None, reasons: Sequence[str], restart: bool, limit: float
    ) -> Done:
        """Make a generation current whose server directory is there; see the module.

        :raises ServerError: a server did not come up; the old one runs again.
        """
        running = self._running(new.major)
        new, current = replace(new, current=True), replace(current, current=False) if current else None
        if not running:
            self._move(new, current)
            return Done(new.major, current, new)
        if not reasons:
            self._move(new, current)
            self._reload(running, new, current)
            return Done(new.major, current, new, live=True)
        if not restart:
            self._move(new, current)
            return Done(new.major, current, new, reasons=tuple(reasons))
        if not self.live:
            raise ServerError(
                f"a server runs in {self.root}, and cannot be restarted from outside",
                hint="run pgbake in that machine, or leave --restart out and restart the server there",
            )
        return self._restart(running, new, current, reasons, limit)

    def _move(self, new: Generation, current: Generation | None) -> None:
        if current is not None and current.server != new.server:
            self.servers.freeze(current)
        self.profiles.switch(new)
        self.servers.thaw(new)

    def _reload(self, running: Iterable[Cluster], new: Generation, current: Generation | None) -> None:
        texts = {(generation.place / "settings.conf").read_bytes() for generation in (new, current) if generation}
        if len(texts) > 1 and self.live:
            for cluster in running:
                with suppress(CommandError):
                    service.ask(cluster, "SELECT pg_reload_conf()")

    def _restart(
        self,
        running: Sequence[Cluster],
        new: Generation,
        current: Generation | None,
        reasons: Sequence[str],
        limit: float,
    ) -> Done:
        assert current is not None
        restarted = []
        for cluster in running:
            with suppress(CommandError):  # a standby, for one, has a restartpoint only
                service.ask(cluster, "CHECKPOINT", timeout=3600)
        self._move(new, current)
        try:
            for cluster in running:
                with service.watched(cluster) as watch:
                    service.stop(cluster)
                    service.reload_units()
                    service.start(cluster, limit)
                restarted.append((cluster, watch.downtime))
        except (ServerError, CommandError, KeyboardInterrupt) as error:
            self._go_back(running, new, current, limit)
            if isinstance(error, KeyboardInterrupt):
                raise
            raise ServerError(
                f"{error.message}; generation {current.number} is current again, and its server runs",
                hint=error.hint,
                detail=error.detail,
            ) from error
        return Done(new.major, current, new, reasons=tuple(reasons), live=True, restarted=tuple(restarted))

    def _go_back(self, running: Iterable[Cluster], new: Generation, current: Generation, limit: float) -> None:
        for cluster in running:
            with suppress(PgbakeError):
                service.stop(cluster)
        self._move(current, new)
        for cluster in running:
            service.start(cluster, limit)

    def _start_first(self, wish: Wish, major: int) -> tuple[Cluster, ...]:
        if not (self.live and wish.start):
            return ()
        started = []
        for cluster in self.clusters(major):
            if service.running(self.root, cluster) is None:
                with task(self.report, cluster.label, "start", f"PostgreSQL {cluster.label} on port {cluster.port}"):
                    self._make_log(cluster)
                    service.reload_units()
                    service.start(cluster, wish.limit)
                started.append(cluster)
            else:
                await_ready(Path(cluster.data))
        return tuple(started)

    def _make_log(self, cluster: Cluster) -> None:
        """Make an empty log that belongs to the server's user: systemd would make it as root."""
        from pgbake.machine.accounts import group_id, user_id

        log = self.machine.place(cluster.log)
        if not log.exists():
            log.touch(0o640)
            owner = user_id(self.root, "postgres")
            group = group_id(self.root, "adm")
            os.chown(log, -1 if owner is None else owner, -1 if group is None else group)

    # --- going back ----------------------------------------------------------------------------------

    def rollback(
        self, major: int, number: int | None, *, restart: bool = False, limit: float = 60, dry_run: bool = False
    ) -> Done:
        """Switch to another generation, which needs no network.

        :param number: the generation; None: the one before the current one.
        :raises ManifestError: there is none.
        """
        if dry_run:
            return self._rollback(major, number, restart, limit, dry_run=True)
        with self.profiles.lock(self.lock_waits):
            self.machine = Machine(self.root, self.profiles.record_file)
            self.heal()
            return self._rollback(major, number, restart, limit, dry_run=False)

    def _rollback(self, major: int, number: int | None, restart: bool, limit: float, *, dry_run: bool) -> Done:
        target = self.profiles.choose(major, number)
        current = self.profiles.current(major)
        if current is None or target.number == current.number:
            return Done(major, current, current)
        receipt = self.profiles.receipt(target.bundle)
        new = self.runs(target.bundle, receipt)
        key, reasons = self.servers.choose(new, current, target.server)
        reasons = [*reasons, *self._reasons(current, receipt, target.bundle)]
        if dry_run:
            return Done(major, current, target, reasons=tuple(reasons) if self._running(major) else ())
        self.servers.make(key, target.bundle, new)
        if key != target.server:
            self.profiles.set_server(target, key)
            target = replace(target, server=key)
        return self._switch(target, current, reasons, restart, limit)

    # --- clusters ------------------------------------------------------------------------------------

    def add_cluster(
        self, major: int, name: str, port: int | None, way: Way, *, start: bool, limit: float, dry_run: bool = False
    ) -> tuple[Cluster, Plan]:
        """Give an installed version one more cluster.

        :raises PgbakeError: the version is not installed, or something stands in the way.
        """
        with self.profiles.lock(self.lock_waits):
            self.machine = Machine(self.root, self.profiles.record_file)
            self.heal()
            current = self.profiles.current(major)
            if current is None:
                raise ManifestError(f"PostgreSQL {major} is not installed", hint="run `pgbake install`")
            if any(cluster.name == name for cluster in self.clusters(major)):
                raise ManifestError(f"the cluster {major}/{name} is there already", hint="name another")
            receipt = self.profiles.receipt(current.bundle)
            cluster = self.new_cluster(major, name, port, receipt, way)
            wanted, clusters, default = self.wanted(None, (*self.clusters(), cluster))
            plan = self.machine.plan(wanted, way)
            self.refuse_conflicts(plan)
            if not dry_run:
                self.machine.apply(plan, wanted, clusters, default)
                if self.live:
                    service.reload_units()
                    self._start_first(Wish(current.bundle, start=start, limit=limit), major)
        return cluster, plan

    def remove_cluster(self, major: int, name: str, *, purge: bool, dry_run: bool = False) -> tuple[Cluster, Plan]:
        """Take a cluster away from an installed version; its data and changed configuration stay unless ``purge``.

        :raises ManifestError: there is none of that name.
        """
        with self.profiles.lock(self.lock_waits):
            self.machine = Machine(self.root, self.profiles.record_file)
            self.heal()
            cluster = next((c for c in self.clusters(major) if c.name == name), None)
            if cluster is None:
                known = ", ".join(c.label for c in self.clusters()) or "none"
                raise ManifestError(f"there is no cluster {major}/{name}", hint=f"clusters here: {known}")
            wanted, clusters, default = self.wanted(None, [c for c in self.clusters() if c != cluster])
            plan = self.machine.plan(wanted, purge=purge)
            if not dry_run:
                self._stop([cluster])
                if purge:
                    self._remove_data([cluster])
                self.machine.apply(self.machine.plan(wanted, purge=purge), wanted, clusters, default)
                if self.live:
                    service.reload_units()
        return cluster, plan

    # --- uninstall -----------------------------------------------------------------------------------

    def uninstall(self, major: int, *, purge: bool = False, dry_run: bool = False) -> Done:
        """Remove a version from the machine: all that was made and nothing else. The store's paths stay for `gc`.

        :param purge: remove data and changed configuration, too.
        :raises ManifestError: it is not installed.
        """
        if dry_run:
            return self._uninstall(major, purge, dry_run=True)
        with self.profiles.lock(self.lock_waits):
            self.machine = Machine(self.root, self.profiles.record_file)
            return self._uninstall(major, purge, dry_run=False)

    def _uninstall(self, major: int, purge: bool, *, dry_run: bool) -> Done:
        current = self.profiles.current(major)
        gone = tuple(cluster for cluster in self.machine.record.clusters if cluster.major == major)
        # What a killed uninstall has left is removed by the next, whatever is recorded of its clusters by then.
        halfway = not self.profiles.majors() and bool(self.machine.record.parts)
        if current is None and not gone and not halfway and not (purge and self.machine.record.kept):
            raise ManifestError(
                f"PostgreSQL {major} is not installed", hint="`pgbake generations` lists what is installed"
            )
        left = [m for m in self.profiles.majors() if m != major]
        wanted, clusters, default = self.wanted(left, None)
        plan = self.machine.plan(wanted, purge=purge)
        if dry_run:
            return Done(major, current, None, plan)
        if self.live:
            self._stop(gone)
        self.profiles.remove(major)
        if purge:
            self._remove_data(gone)
        plan = self.machine.plan(wanted, purge=purge)
        stays = self._has_data(gone)
        self.machine.apply(plan, wanted, clusters, default, remove_accounts_too=not left and not stays)
        if stays:
            self.machine.keep(cluster.data for cluster in gone)
        self.servers.heal()
        if self.live:
            service.reload_units()
        if not left:
            for name in ("servers", "profiles"):
                with suppress(OSError):
                    (self.profiles.state / name).rmdir()
            (self.profiles.state / "install.lock").unlink(missing_ok=True)
        return Done(major, current, None, plan)

    def _stop(self, clusters: Iterable[Cluster]) -> None:
        for cluster in clusters:
            if self.live:
                service.stop(cluster)
            elif service.running(self.root, cluster) is not None:
                raise ServerError(f"the server of {cluster.label} runs in {self.root}", hint="stop it first")

    def _remove_data(self, clusters: Iterable[Cluster]) -> None:
        places = [
            self.machine.place(path) for cluster in clusters for path in (cluster.data, cluster.conf, cluster.log)
        ]
        self.machine.remove_data(place for place in places if os.path.lexists(place))

    # --- looking -------------------------------------------------------------------------------------

    def inspect(self) -> list[tuple[str, str]]:
        """Return what of the installed state is not as it was made: paths, each with what is wrong."""
        found: list[tuple[str, str]] = []
        if not self.profiles.majors() and not self.machine.record.parts:
            return found
        wanted, _, _ = self.wanted()
        plan = self.machine.plan(wanted)
        verbs = {"make": "is missing", "change": "is an older one", "remove": "is left over", "keep": "is left over"}
        found += [
            (change.path, verbs.get(change.verb, change.verb))
            for change in plan.changes
            # An uninstall that was killed at its end has left records alone, of what is gone.
            if change.verb != "remove" or os.path.lexists(self.machine.place(change.path))
        ]
        found += [(conflict.path, f"was replaced by {conflict.what}") for conflict in plan.conflicts]
        found += [(f"user {user}", "is missing") for user in plan.users]
        for major in self.profiles.majors():
            for generation in self.profiles.generations(major):
                if not self.store.valid([generation.bundle]):
                    found.append((str(generation.place), f"its bundle {generation.bundle} is not in the store"))
                elif generation.current:
                    found += self._inspect_server(generation)
        return found

    def _inspect_server(self, generation: Generation) -> Iterable[tuple[str, str]]:
        import filecmp

        place = self.servers.place(generation.server)
        if self.servers.read(generation.server) is None:
            yield str(place), "is not there, or not whole"
            return
        programs = f"lib/postgresql/{generation.major}/bin"
        bundle = self.store.physical(generation.bundle)
        for file in sorted((bundle / programs).iterdir()):
            copy = place / programs / file.name
            if file.is_symlink():
                continue
            if not copy.is_file() or not filecmp.cmp(file, copy, shallow=False):
                yield str(copy), "is not the bundle's program"


def installed_major(profiles: Profiles, wanted: int | None) -> int:
    """Return the version that a command is about: as named, else the only one that is installed.

    :raises ManifestError: none is, or several are.
    """
    majors = profiles.majors()
    if wanted is not None:
        return wanted
    if len(majors) == 1:
        return majors[0]
    if not majors:
        raise ManifestError("nothing is installed here", hint="run `pgbake install`")
    raise ManifestError(f"several versions are installed: {', '.join(map(str, majors))}", hint="name one with --major")


def require_valid(store: LocalStore, bundle: StorePath) -> None:
    """Check that a bundle is in the machine's store.

    :raises StoreError: it is not.
    """
    if not store.valid([bundle]):
        raise StoreError(f"{bundle} is not in the store at {store.store_dir}", hint="name a cache with --from")
