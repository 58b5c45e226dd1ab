"""The all-in-one container: PostgreSQL and the services that a manifest chooses, run by s6.

It is stage 1 and stage 2 of an image in the profile ``container``, as layers of an OCI image:

=============  ====================================================================================================
layer          what is in it
=============  ====================================================================================================
stage 1        Debian, the services, the files of the machine definition
the closure    as in a container of the bundle alone: an unchanged package is an unchanged layer
the machine    what else stage 2 has and stage 1 has not: conventional paths, configuration, migrations; and what
               starts PostgreSQL
=============  ====================================================================================================
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pgbake.formats.system import System
from pgbake.image import contract, tree
from pgbake.image.container import MOST_LAYERS, Container, entry_programs
from pgbake.image.oci import Entry, LayerPlan, content_key
from pgbake.image.stage1 import Record as Stage1Record
from pgbake.image.stage2 import Stage2
from pgbake.image.workshop import Workshop

#: What no layer says: the engine's own places, and the store, whose paths have layers.
_ELSEWHERE = ("/dev", "/nix/store", "/nix/var/nix", "/proc", "/run", "/sys", "/tmp", "/var/tmp")
_PORT = 5432
#: Programs of containers that are Debian's here.
_DEBIANS = ("usr/local/bin/gosu",)


@dataclass(frozen=True)
class AllInOne:
    """An all-in-one container as it is to be.

    :param container: the same bundle as a container of PostgreSQL alone.
    :param stage2: made, in the profile ``container``.
    :param told: of the stage 1 below it.
    :param workshop: unpacks stage 1, where its layer is not there yet.
    """

    container: Container
    stage2: Stage2
    told: Stage1Record
    workshop: Workshop

    def layers(self, _debs: object, scratch: Path) -> list[LayerPlan]:
        """Return all layers, the lowest first.

        :param scratch: an empty directory, which stays until the layers are made.
        """
        stage1 = LayerPlan(content_key("stage1", self.told.sha256), "stage 1", lambda: self._debian(scratch))
        return [stage1, *self.container.closure_layers(MOST_LAYERS - 2), self._machine()]

    def _debian(self, scratch: Path) -> Iterator[Entry]:
        root = tree.unpack(self.workshop, self.stage2.stage1.tar, scratch)
        for path, entry in contract.changes(root, contract.Memory({}, {}, {}), _ELSEWHERE):
            yield from _entry(root, path, entry)
        for path in ("dev", "proc", "run", "sys"):
            yield Entry(path, "directory")
        for path in ("tmp", "var/tmp"):
            yield Entry(path, "directory", 0o1777)

    def _machine(self) -> LayerPlan:
        root = self.stage2.root
        entries = [
            Entry(path, "file", 0o755, content=content) for path, content in entry_programs() if path not in _DEBIANS
        ]
        words: list[object] = [(entry.path, entry.content) for entry in entries]
        for path, entry in contract.changes(root, self.stage2.stage1.memory, _ELSEWHERE):
            entries += _entry(root, path, entry)
            words.append((path, entry))
        return LayerPlan(content_key("machine", *words), "the machine: paths, configuration", lambda: entries)

    @property
    def system(self) -> System:
        """What it is made for."""
        return self.container.system

    @property
    def default_name(self) -> str:
        """What the image is called."""
        name, _, tag = self.container.default_name.partition(":")
        return f"{name}-aio:{tag}"

    @property
    def created_text(self) -> str:
        """When it was made, as RFC 3339 has it."""
        return self.container.created_text

    @property
    def annotations(self) -> dict[str, str]:
        """What the image tells of itself; see :attr:`Container.annotations`."""
        services = ", ".join(each.name for each in self.stage2.stage1.image.run)
        return {**self.container.annotations, "pgbake.services": services}

    @property
    def config(self) -> dict[str, Any]:
        """The image's configuration, without what follows from the layers."""
        whole = self.container.config
        of_postgres = whole["config"]
        cluster = self.stage2.stage1.image.cluster
        ports = sorted({_PORT, *(port.number for port in self.stage2.stage1.rendered.ports)})
        # Debian's programs know no other language here, nor does the cluster of a machine.
        own = {"PGDATA": cluster.data, "LANG": "C.UTF-8"}
        environment = [word for word in of_postgres["Env"] if word.partition("=")[0] not in own]
        return {
            **whole,
            "config": {
                **of_postgres,
                "Env": [*environment, *(f"{name}={value}" for name, value in own.items())],
                "Entrypoint": ["/usr/lib/pgbake/all-in-one"],
                "Cmd": [],
                "ExposedPorts": {f"{port}/tcp": {} for port in ports},
                "Volumes": {"/var/lib/postgresql": {}},
                "StopSignal": "SIGTERM",
                "Labels": self.annotations,
                "Healthcheck": {**of_postgres["Healthcheck"], "Test": ["CMD", "/usr/lib/pgbake/all-healthy"]},
            },
        }


def _entry(root: Path, path: str, entry: contract.Entry | None) -> Iterator[Entry]:
    """Yield the member of a layer for a path of a tree; for one that is gone, what engines take for that."""
    name = path.lstrip("/")
    if entry is None:
        above, _, last = name.rpartition("/")
        yield Entry(f"{above}/.wh.{last}".lstrip("/"), "file", 0o644)
    elif entry.kind == "d":
        yield Entry(name, "directory", entry.mode, entry.uid, entry.gid)
    elif entry.kind == "l":
        yield Entry(name, "link", 0o777, entry.uid, entry.gid, target=entry.what)
    elif entry.kind == "f":
        yield Entry(name, "file", entry.mode, entry.uid, entry.gid, content=root / name)
