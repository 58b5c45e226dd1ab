"""What a report tells, as values that go to JSON and back. Sizes are bytes of NARs, times Unix seconds."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

#: Which part of a bundle a store path is.
Part = Literal["bundle", "postgresql", "extension", "runtime", "other"]


@dataclass(frozen=True, slots=True)
class Side:
    """What two bundles are compared by; small enough to be kept, since a bundle itself may be deleted.

    :param extensions: versions by names in SQL, contrib's among them.
    :param runtime: versions of runtime packages.
    :param closure: sizes by the paths' names, without their digests.
    :param interface: SQL objects by extension, as the check ``interface/all`` wrote them; None where it has not passed.
    """

    path: str
    postgresql: str
    platform: str
    extensions: dict[str, str]
    packages: dict[str, str]
    runtime: dict[str, str]
    closure: dict[str, int]
    interface: dict[str, tuple[str, ...]] | None = None

    @property
    def size(self) -> int:
        """Size of the closure."""
        return sum(self.closure.values())


@dataclass(frozen=True, slots=True)
class StatementFacts:
    """A signed statement that is kept about the bundle; nobody has verified it here.

    :param result: what a check's statement says of itself.
    """

    kind: str
    signers: tuple[str, ...]
    result: str


@dataclass(frozen=True, slots=True)
class BundleFacts:
    """The bundle itself.

    :param registered: when it became valid in this store.
    :param built_here: False where it came from a cache or an archive.
    :param signatures: names of the keys.
    """

    name: str
    postgresql: str
    platform: str
    system: str
    path: str
    nar_hash: str
    registered: int
    built_here: bool
    signatures: tuple[str, ...]
    statements: tuple[StatementFacts, ...]
    preload: tuple[str, ...]
    settings: dict[str, str]
    locales: tuple[str, ...]
    collations: dict[str, str]
    kernel: str


@dataclass(frozen=True, slots=True)
class ExtensionFacts:
    """One extension as SQL knows it.

    :param package: that brings it; of contrib it is ``postgresql``.
    :param origin: ``source``, ``deb`` or ``contrib``.
    :param size: of its package; None of contrib's.
    """

    name: str
    version: str
    package: str
    origin: str
    licence: str
    preload: tuple[str, ...]
    size: int | None
    summary: str
    requires: tuple[str, ...]
    trusted: bool


@dataclass(frozen=True, slots=True)
class PackageFacts:
    """A package of the bundle that is not the platform's.

    :param source: name of the tarball or Debian package that it was made from.
    """

    name: str
    version: str
    origin: str
    licence: str
    path: str
    source: str
    sha256: str
    size: int | None


@dataclass(frozen=True, slots=True)
class RuntimeFacts:
    """A Debian package that the bundle needs when it runs.

    :param licence: the file of the bundle that tells it.
    """

    name: str
    version: str
    path: str
    sha256: str
    licence: str
    size: int | None


@dataclass(frozen=True, slots=True)
class PathFacts:
    """A path of the closure.

    :param alone: what would leave the closure if nothing referred to it.
    :param brought_by: names of the paths that refer to it.
    """

    path: str
    name: str
    part: Part
    size: int
    alone: int
    brought_by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class StepFacts:
    """How a package came into this store.

    :param how: ``built``: on this machine; ``taken``: from a cache or an archive.
    :param begun: birth of the log's file; None where there is no log, or it was copied.
    :param ended: last write to that log.
    :param registered: when the package became valid.
    """

    name: str
    path: str
    how: Literal["built", "taken"]
    begun: float | None
    ended: float | None
    registered: int


@dataclass(frozen=True, slots=True)
class TestFacts:
    """One test of a check; see `pgbake.checks.results`."""

    test: str
    outcome: str
    reason: str
    seconds: float | None
    detail: str


@dataclass(frozen=True, slots=True)
class CheckFacts:
    """What the store knows of one check of exactly this bundle.

    :param state: ``open``: no run of it is known.
    :param seconds: that its tests took in the last run on this machine.
    :param log: its log, cut where it is long; "" where it was not run here.
    :param left_out: lines that were cut out of the log.
    """

    name: str
    about: str | None
    state: Literal["passed", "failed", "open"]
    seconds: float | None
    tests: tuple[TestFacts, ...]
    log: str
    left_out: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """With which bundle this one is compared.

    :param why: why with that one, in words.
    """

    side: Side
    why: str


@dataclass(frozen=True, slots=True)
class Facts:
    """All that a report tells.

    :param budget: for the closure, from the manifest.
    :param absent: packages of the graph that are not in this store, since nothing needs them here.
    """

    bundle: BundleFacts
    extensions: tuple[ExtensionFacts, ...]
    packages: tuple[PackageFacts, ...]
    runtime: tuple[RuntimeFacts, ...]
    closure: tuple[PathFacts, ...]
    budget: int | None
    timeline: tuple[StepFacts, ...]
    absent: int
    checks: tuple[CheckFacts, ...]
    side: Side
    against: Comparison | None

    @property
    def size(self) -> int:
        """Size of the closure."""
        return sum(item.size for item in self.closure)
