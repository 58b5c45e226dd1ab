"""Stage 1: a machine's tree with everything but the bundle, made by mmdebstrap of pinned packages, and kept.

It depends on the packages, the workshop, the files of the machine definition that images have, and the programs that
the manifest brings itself, and on nothing else: so it is made again only when one of these changes, and two machines
make the same bytes. On disk, below the directory of images::

    stage1-KEY/root.tar        the tree
    stage1-KEY/packages        its packages: name, version, architecture, one a line
    stage1-KEY/contents.json   every path of it, and its accounts: what `pgbake.image.contract` remembers
    stage1-KEY/stage1.json     what it was made of, and the sha256 of root.tar; written last
"""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tarfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec

from pgbake.errors import InputError
from pgbake.events import PhaseChanged, Sink, task
from pgbake.files import write_whole
from pgbake.formats.system import System
from pgbake.image import contract, tree
from pgbake.image.kept import bench_for, read_record, use
from pgbake.image.lock import ImageLock, binaries_of, pins_of
from pgbake.image.workshop import Workshop
from pgbake.inputs.fetch import fetch
from pgbake.inputs.mirrors import Mirrors
from pgbake.inputs.pins import Pin
from pgbake.machine.accounts import account_lines
from pgbake.machine.apply import Machine
from pgbake.machine.definition import Part, Rendered
from pgbake.machine.image import MachineImage
from pgbake.machine.services import PROGRAMS, Binary
from pgbake.run import run
from pgbake.store.local import remove_tree

#: Changes with every change of how the tree is made.
STAGE1_VERSION = 3
_RECORD = "stage1.json"
#: Declared accounts are there before any package makes one, so that their numbers are free.
_ACCOUNTS_FIRST = """\
for file in passwd group; do
  cat "$1/usr/share/base-passwd/$file.master" "/run/accounts/$file" > "$1/etc/$file"
done
"""
#: Debian's PostgreSQL makes no data directory when it is installed: the first boot does.
_NO_CLUSTER = """\
mkdir -p "$1/etc/postgresql-common"
echo "create_main_cluster = false" > "$1/etc/postgresql-common/createcluster.conf"
"""


class Record(msgspec.Struct, frozen=True):
    """The file ``stage1.json``.

    :param sha256: of the packed tree.
    :param packages: digest of its programs; see :attr:`Stage1.packages`.
    :param files: the paths of the machine definition's files in it.
    """

    version: int
    key: str
    suite: str
    system: str
    sha256: str
    packages: str
    files: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Stage1:
    """A stage 1 as it is to be, or is."""

    directory: Path
    suite: str
    system: System
    pins: Mapping[str, Pin]
    image: MachineImage
    binaries: Mapping[str, Pin]
    debs: Mapping[str, Path]

    @classmethod
    def of(
        cls, images: Path, lock: ImageLock, system: System, image: MachineImage, debs: Mapping[str, Path] | None = None
    ) -> Stage1:
        """Return what a lock and a machine definition mean.

        :param images: the directory of images.
        :param debs: packages of our own, by name, for a machine with Debian's PostgreSQL; None of one with a bundle.
        :raises LockError: the lock has no packages for the system.
        """
        pins = pins_of(lock, system)
        packages = pins.packages if debs is None else pins.conventional
        rendered = image.rendered
        words = [
            str(STAGE1_VERSION), lock.platform.suite, system.name,
            *(f"{name} {pin.sha256}" for part in (packages, pins.workshop) for name, pin in sorted(part.items())),
            *(_words(part) for part in rendered.parts),
            repr((rendered.groups, rendered.users, rendered.units)),
            *(f"{each.name} {each.binary.member} {each.binary.sha256}" for each in image.services if each.binary),
            *(f"{name} {_digest(deb)}" for name, deb in sorted((debs or {}).items())),
        ]  # fmt: skip
        key = hashlib.sha256("\n".join(words).encode()).hexdigest()[:32]
        return cls(
            images / f"stage1-{key}", lock.platform.suite, system, packages, image, binaries_of(lock, image), debs or {}
        )

    @property
    def rendered(self) -> Rendered:
        """What the machine definition says of it."""
        return self.image.rendered

    @property
    def key(self) -> str:
        """What all that it is made of comes to: 32 hexadecimal digits."""
        return self.directory.name.removeprefix("stage1-")

    @property
    def packages(self) -> str:
        """What its programs come to, of packages and of what the manifest brings: 32 hexadecimal digits."""
        pins = (*sorted(self.pins.items()), *sorted(self.binaries.items()))
        words = [self.suite, self.system.name, *(f"{name} {pin.sha256}" for name, pin in pins)]
        return hashlib.sha256("\n".join(words).encode()).hexdigest()[:32]

    @property
    def tar(self) -> Path:
        """The packed tree."""
        return self.directory / "root.tar"

    @property
    def memory(self) -> contract.Memory:
        """What it has put into the tree."""
        return contract.recall(self.directory / "contents.json")

    @property
    def record(self) -> Record | None:
        """What is told of it; None where it is not made yet.

        :raises StoreError: that is damaged.
        """
        return read_record(self.directory / _RECORD, Record)

    def make(self, workshop: Workshop, mirrors: Mirrors, downloads: Path, report: Sink) -> Record:
        """Make it, where it is not there; return what is told of it.

        :raises PgbakeError: a package cannot be had or installed, or the disk is full.
        """
        if self.record is None:
            with bench_for(self.directory, _RECORD) as bench:
                if bench is not None:
                    debs = {**fetch(self.pins, mirrors, downloads, report), **self.debs}
                    programs = fetch(self.binaries, mirrors, downloads, report)
                    with task(report, "stage1", "pack", f"stage 1 of {len(debs)} packages"):
                        self._make(workshop, bench, debs, programs, report)
        use(self.directory)
        record = self.record
        assert record is not None
        return record

    def _make(
        self, workshop: Workshop, bench: Path, debs: Mapping[str, Path], programs: Mapping[str, Path], report: Sink
    ) -> None:
        report(PhaseChanged("stage1", "install"))
        repository = bench / "repository"
        self._lay_out(repository, debs)
        names = ",".join(sorted(debs))
        root = bench / "root"
        accounts = bench / "accounts"
        accounts.mkdir()
        for name, lines in account_lines(self.rendered.groups, self.rendered.users).items():
            (accounts / name).write_text(lines)
        workshop.run(
            [
                "mmdebstrap", "--mode=root", "--variant=custom", f"--include={names}", "--format=directory",
                # What is flushed to disk is the packed tree, and not each of its files.
                "--dpkgopt=force-unsafe-io", "--quiet", f"--extract-hook={_ACCOUNTS_FIRST}",
                *([f"--extract-hook={_NO_CLUSTER}"] if "postgresql-common" in self.pins else []),
                self.suite, "/build/root",
                "deb [trusted=yes] copy:///run/repository ./",
            ],
            bench, {repository: "/run/repository", accounts: "/run/accounts"},
        )  # fmt: skip
        remove_tree(repository)
        remove_tree(accounts)
        report(PhaseChanged("stage1", "configure"))
        (root / "etc/apt/sources.list").write_text("# See sources.list(5); cloud-init may write this file.\n")
        machine = Machine(root, bench / "unused")
        for part in self.rendered.parts:
            machine.make(part)
        for user in self.rendered.users:
            if user.groups:
                members = ["usermod", "--prefix", "/build/root", "--append", "--groups", ",".join(user.groups)]
                workshop.run([*members, user.name], bench)
        for each in self.image.services:
            if each.binary is not None:
                place_program(programs[each.name], each.binary, root / f"{PROGRAMS}/{each.name}".lstrip("/"))
        if not self.image.is_supervised:
            self._set_units(workshop, bench)
        tree.tidy(root)
        report(PhaseChanged("stage1", "pack"))
        write_whole(bench / "packages", "".join(f"{line}\n" for line in installed(root)).encode())
        contract.remember(root, bench / "contents.json")
        tree.pack(workshop, bench)
        remove_tree(root)
        digest = _digest(bench / "root.tar")
        with (bench / "root.tar").open("rb") as file:
            os.fsync(file.fileno())
        files = tuple(part.path for part in self.rendered.parts if part.kind == "file")
        record = Record(STAGE1_VERSION, self.key, self.suite, self.system.name, digest, self.packages, files)
        write_whole(bench / _RECORD, msgspec.json.encode(record))

    def _set_units(self, workshop: Workshop, bench: Path) -> None:
        """Enable and disable units as the definition says."""
        workshop.run(["systemctl", "--root=/build/root", "preset-all"], bench)
        # What is enabled may enable others along with it.
        off = [unit.name for unit in self.rendered.units if unit.state == "disabled"]
        workshop.run(["systemctl", "--root=/build/root", "disable", *off], bench)

    def _lay_out(self, repository: Path, debs: Mapping[str, Path]) -> None:
        """Lay packages out as a repository that apt reads: its index says what the pins say."""
        pool = repository / "pool"
        pool.mkdir(parents=True)
        paragraphs = []
        for name, deb in sorted(debs.items()):
            digest = self.pins[name].sha256 if name in self.pins else _digest(deb)
            try:
                os.link(deb, pool / f"{name}.deb")
            except OSError:  # another disk
                shutil.copyfile(deb, pool / f"{name}.deb")
            control = run(["dpkg-deb", "--field", str(deb)], sandbox="host").stdout.strip("\n")
            size = deb.stat().st_size
            paragraphs.append(f"{control}\nFilename: pool/{name}.deb\nSize: {size}\nSHA256: {digest}\n")
        (repository / "Packages").write_text("\n".join(paragraphs))


def place_program(file: Path, binary: Binary, place: Path) -> None:
    """Put a program that no package brings where it lies on the machine.

    :param file: what was fetched: the program, or a tarball with it.
    :raises InputError: the tarball has no such member.
    """
    place.parent.mkdir(parents=True, exist_ok=True)
    if binary.member is None:
        shutil.copyfile(file, place)
    else:
        try:
            with tarfile.open(file) as tar:
                content = tar.extractfile(binary.member)
                if content is None:
                    raise KeyError(binary.member)
                with content, place.open("wb") as out:
                    shutil.copyfileobj(content, out)
        except (KeyError, tarfile.TarError) as error:
            raise InputError(
                f"there is no file {binary.member} in {binary.url}",
                hint="`tar -tf` lists what it holds",
                detail=str(error),
            ) from None
    place.chmod(0o755)


def _digest(file: Path) -> str:
    with file.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def _words(part: Part) -> str:
    """Return what of a part is in the tree, as a line."""
    digest = hashlib.sha256(part.content).hexdigest()
    return f"{part.path} {part.mode:o} {part.owner}:{part.group} {part.target} {digest}"


def installed(root: Path) -> Iterable[str]:
    """Return the packages of a tree as dpkg has them: ``NAME VERSION ARCHITECTURE``, sorted."""
    text = (root / "var/lib/dpkg/status").read_text(errors="replace")
    found = []
    for paragraph in text.split("\n\n"):
        fields = dict(re.findall(r"^(Package|Version|Architecture|Status): (.*)$", paragraph, re.MULTILINE))
        if fields.get("Status", "").endswith(" installed"):
            found.append(f"{fields['Package']} {fields['Version']} {fields['Architecture']}")
    return sorted(found)
