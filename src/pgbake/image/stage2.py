"""Stage 2: stage 1 with a bundle installed from a cache, and migrations, as a tree and as a disk, never booted.

On disk, below the directory of images::

    stage2-KEY/root            the tree, as it is on the machine
    stage2-KEY/disk.raw        and disk.qcow2, disk.vmdk, disk.vhd, where they were asked for
    stage2-KEY/packages        the packages of the tree: name, version, architecture, one a line
    stage2-KEY/receipt.json    the bundle's receipt; not of an image with Debian's PostgreSQL
    stage2-KEY/stage2.json     what it was made of; written last
"""

from __future__ import annotations

import hashlib
import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pgbake.errors import StoreError, host_error
from pgbake.events import PhaseChanged, Sink, task
from pgbake.files import write_whole
from pgbake.formats.storepath import StorePath
from pgbake.image import tree
from pgbake.image.conventional import Conventional
from pgbake.image.disk import Format, convert, write_disk
from pgbake.image.kept import bench_for, read_record, use
from pgbake.image.migrations import Migration, migration_parts, prove
from pgbake.image.stage1 import Record as Stage1Record
from pgbake.image.stage1 import Stage1, installed
from pgbake.image.verify import wanted_of
from pgbake.image.workshop import EPOCH, Workshop
from pgbake.machine.apply import Machine
from pgbake.machine.definition import Cluster, Rendered
from pgbake.store.database import rewrite
from pgbake.store.local import remove_tree
from pgbake.store.locks import path_lock
from pgbake.store.locks import silent as silent_wait

#: Changes with every change of how the tree is made of stage 1 and a bundle.
STAGE2_VERSION = 2
_RECORD = "stage2.json"


class Record(msgspec.Struct, frozen=True):
    """The file ``stage2.json``.

    :param stage1: the sha256 of the tree that it was made of.
    """

    version: int
    key: str
    stage1: str
    bundle: str


@dataclass(frozen=True, slots=True)
class Stage2:
    """A stage 2 as it is to be, or is."""

    directory: Path
    stage1: Stage1
    bundle: StorePath
    migrations: tuple[Migration, ...] = ()
    conventional: Conventional | None = None

    @classmethod
    def of(
        cls,
        images: Path,
        stage1: Stage1,
        told: Stage1Record,
        bundle: StorePath,
        how: str,
        migrations: tuple[Migration, ...] = (),
        conventional: Conventional | None = None,
    ) -> Stage2:
        """Return what a stage 1, a bundle and migrations come to.

        :param how: in what else two installations of the bundle may differ: what the machine definition says.
        :param conventional: what stands in the bundle's place; None of an image with a bundle.
        """
        wanted = () if conventional is None else conventional.wanted.parts
        words = [
            str(STAGE2_VERSION), told.sha256, str(bundle), how,
            *(
                f"{part.path} {part.target} {hashlib.sha256(part.content).hexdigest()}"
                for part in (*migration_parts(migrations), *wanted)
            ),
        ]  # fmt: skip
        key = hashlib.sha256("\n".join(words).encode()).hexdigest()[:32]
        return cls(images / f"stage2-{key}", stage1, bundle, migrations, conventional)

    @property
    def key(self) -> str:
        """What all that it is made of comes to: 32 hexadecimal digits."""
        return self.directory.name.removeprefix("stage2-")

    @property
    def root(self) -> Path:
        """The tree."""
        return self.directory / "root"

    @property
    def record(self) -> Record | None:
        """What is told of it; None where it is not made yet.

        :raises StoreError: that is damaged.
        """
        return read_record(self.directory / _RECORD, Record)

    def wanted(self, root: Path | None = None) -> tuple[Rendered, tuple[Cluster, ...]]:
        """Return what the machine definition says of the PostgreSQL that is installed in the tree, and the clusters.

        :param root: the tree, where it has not its place yet.
        """
        if self.conventional is not None:
            return self.conventional.wanted, (self.conventional.cluster,)
        return wanted_of(root or self.root)

    def make(self, workshop: Workshop, told: Stage1Record, install: Callable[[Path], object], report: Sink) -> Record:
        """Make the tree, where it is not there; return what is told of it.

        :param install: installs the bundle into a tree, from caches alone.
        :raises PgbakeError: the bundle cannot be installed, a migration fails, something is left in the tree that must
            not be, or the disk is full; nothing is kept then.
        """
        if self.record is None:
            with bench_for(self.directory, _RECORD) as bench:
                if bench is not None:
                    with task(report, "stage2", "pack", f"stage 2: {self.bundle.name}"):
                        report(PhaseChanged("stage2", "unpack"))
                        root = tree.unpack(workshop, self.stage1.tar, bench)
                        report(PhaseChanged("stage2", "install"))
                        install(root)
                        if self.migrations:
                            report(PhaseChanged("stage2", "migrate"))
                            self._migrate(root, bench)
                        report(PhaseChanged("stage2", "tidy"))
                        self._finish(bench, root, told)
        use(self.directory)
        record = self.record
        assert record is not None
        return record

    def _migrate(self, root: Path, bench: Path) -> None:
        """Lay the migrations into the tree, once a throwaway server has shown that the first boot can apply them."""
        machine = Machine(root, bench / "unused")
        for part in migration_parts(self.migrations):
            machine.make(part)
        for cluster in self.wanted(root)[1]:
            prove(root, cluster, bench / "proof")

    def replay(self) -> None:
        """See that each migration can be run a second time.

        :raises MigrationError: one cannot, or changes the schema once more.
        """
        with path_lock(self.directory, silent_wait):
            for cluster in self.wanted()[1] if self.migrations else ():
                prove(self.root, cluster, self.directory / "proof", replay=True)

    def _finish(self, bench: Path, root: Path, told: Stage1Record) -> None:
        tree.tidy(root)
        require_clean(root)
        self._settle(root)
        if self.conventional is None:
            shutil.copyfile(root / str(self.bundle).lstrip("/") / "receipt.json", bench / "receipt.json")
        write_whole(bench / "packages", "".join(f"{line}\n" for line in installed(root)).encode())
        record = Record(STAGE2_VERSION, self.key, told.sha256, str(self.bundle))
        write_whole(bench / _RECORD, msgspec.json.encode(record))

    def _settle(self, root: Path) -> None:
        if self.conventional is None:
            settle_store(root)
        settle_times(root)

    def disks(self, workshop: Workshop, size: int, forms: Sequence[Format], report: Sink) -> list[Path]:
        """Write the tree as disks, those that are not there yet; return where each lies.

        :param size: of the disk, in bytes.
        :raises PgbakeError: the tree does not fit, or the disk of this machine is full.
        """
        with path_lock(self.directory, silent_wait):
            raw = self.directory / "disk.raw"
            if not raw.exists() or raw.stat().st_size != size - size % (1 << 20):
                for old in self.directory.glob("disk.*"):
                    old.unlink()
                with task(report, "disk", "pack", f"disk of {self.bundle.name}"):
                    self._settle(self.root)  # who has looked at it may have left a lock
                    bench = self.directory / "bench"
                    remove_tree(bench)
                    bench.mkdir()
                    try:
                        self.root.rename(bench / "root")
                        try:
                            made = write_disk(workshop, bench, size, self.key)
                        finally:
                            (bench / "root").rename(self.root)
                        made.rename(raw)
                    except OSError as error:
                        raise host_error(error, f"cannot write {raw}") from error
                    finally:
                        remove_tree(bench)
            for form in forms:
                if not (self.directory / f"disk.{form}").exists():
                    with task(report, f"disk.{form}", "pack", f"disk as {form}"):
                        convert(workshop, self.directory, form)
            return [self.directory / f"disk.{form}" for form in forms]


def settle_store(root: Path) -> None:
    """Bring a tree's store into the form that depends on nothing but what is in it: no log, no lock, no time."""
    state = root / "nix/var/nix"
    rewrite(state / "db/db.sqlite", EPOCH)
    for pattern in ("temproots/*", "db/big-lock", "gc.lock", "userpool*/*"):
        for left in state.glob(pattern):
            left.unlink()
    for left in (root / "nix/store").glob("*.lock"):
        left.unlink()
    shutil.rmtree(root / "nix/var/log", ignore_errors=True)


def settle_times(root: Path) -> None:
    """Give everything in a tree that is younger than :data:`EPOCH` that time, as packing does."""
    when = EPOCH * 10**9
    for directory, names, files in os.walk(root, topdown=False):
        for name in (*names, *files):
            place = Path(directory, name)
            if place.lstat().st_mtime_ns > when:
                os.utime(place, ns=(when, when), follow_symlinks=False)
    os.utime(root, ns=(when, when))


def require_clean(root: Path) -> None:
    """Check that a tree has nothing that one machine must not share with another.

    :raises StoreError: it has; all of it is named.
    """
    found = list(tree.leftovers(root))
    if found:
        raise StoreError(
            f"{len(found)} things are in the tree that an image must not have",
            detail="\n".join(found),
            hint="what writes them must not run while an image is made",
        )
