"""Bringing a machine, or an offline tree, to what the definition says; and telling what is in the way first.

    nix/var/pgbake/machine.json      what was made here: of each path, what it was when it was made

The record is written before the first change, with what is about to be made, and again after the last: so after a kill
the next run knows what is its own, and finishes. A path counts as ours while it is what the record says, or said
before. What somebody has changed since is theirs: it stays, and so does what was there before.

Whatever a path leads through is looked up below the tree's root, never in the machine that works on it.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import stat
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import msgspec

from pgbake.errors import HostError, StoreError, host_error
from pgbake.files import write_whole
from pgbake.machine.accounts import group_id, make_accounts, remove_accounts, user_id
from pgbake.machine.definition import Cluster, Part, Rendered

Way = Literal["refuse", "adopt", "divert"]
Verb = Literal["make", "change", "remove", "adopt", "divert", "restore", "keep"]

#: In place of a fingerprint: it was there before, and is never taken for what was made here.
_ADOPTED = "adopted"

#: What a diverted path is called meanwhile.
DIVERTED = ".pgbake-diverted"


class Made(msgspec.Struct, frozen=True, omit_defaults=True):
    """What was made at a path.

    :param what: its fingerprint: ``directory``, ``link:TARGET`` or ``file:SHA256``.
    :param before: the fingerprint that an earlier generation gave it; either may be there after a kill.
    :param diverted: whether something of somebody else's was moved aside for it.
    :param keep: whether it stays when it was changed, and ``data``: unless somebody asks for its removal.
    """

    what: str
    before: str | None = None
    diverted: bool = False
    keep: bool = False


class Record(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a machine has by pgbake's doing.

    :param kept: paths of ours that an uninstall left, since they were changed.
    """

    version: int = 1
    clusters: tuple[Cluster, ...] = ()
    default: int | None = None
    groups: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    parts: dict[str, Made] = {}
    kept: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Change:
    """One path that changes, and how."""

    verb: Verb
    path: str
    part: Part | None = None


@dataclass(frozen=True, slots=True)
class Conflict:
    """Something in the way that is not ours.

    :param adoptable: whether it can be taken over as it is.
    """

    path: str
    what: str
    adoptable: bool


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be done to a machine."""

    groups: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    changes: tuple[Change, ...] = ()
    conflicts: tuple[Conflict, ...] = ()

    @property
    def empty(self) -> bool:
        """Whether everything is as it should be."""
        return not (self.groups or self.users or self.changes or self.conflicts)


def below(root: Path, path: str) -> Path:
    """Return where a path of a tree lies, following links of the tree on the way, but not the last.

    :raises StoreError: links lead in a circle.
    """
    if root == Path("/"):
        return Path(path)
    pending = [part for part in path.split("/") if part]
    here: list[str] = []
    links = 0
    while pending:
        part = pending.pop(0)
        if part == "..":
            here = here[:-1]
            continue
        place = root.joinpath(*here, part)
        if pending and place.is_symlink():
            links += 1
            if links > 40:
                raise StoreError(f"links below {root} lead in a circle: {path}", hint="look at them: ls -l")
            target = str(place.readlink())
            pending = [word for word in target.split("/") if word and word != "."] + pending
            if target.startswith("/"):
                here = []
            continue
        here.append(part)
    return root.joinpath(*here)


def fingerprint(place: Path) -> str | None:
    """Return what lies at a place, in short; None where nothing does."""
    try:
        mode = place.lstat().st_mode
        if stat.S_ISLNK(mode):
            return f"link:{place.readlink()}"
        if stat.S_ISDIR(mode):
            return "directory"
        if stat.S_ISREG(mode):
            return f"file:{hashlib.sha256(place.read_bytes()).hexdigest()}"
    except (FileNotFoundError, NotADirectoryError):
        return None
    return "special"


def intended(part: Part) -> str:
    """Return the fingerprint that a part is to have."""
    if part.kind == "link":
        return f"link:{part.target}"
    return "directory" if part.kind == "directory" else f"file:{hashlib.sha256(part.content).hexdigest()}"


def load_record(file: Path) -> Record:
    """Read the record of a machine; an empty one where there is none.

    :raises StoreError: it is damaged.
    """
    try:
        return msgspec.json.decode(file.read_bytes(), type=Record)
    except FileNotFoundError:
        return Record()
    except (OSError, msgspec.MsgspecError) as error:
        raise StoreError(
            f"{file} cannot be read: {error}", hint="it tells what pgbake has made here: take it from a backup"
        ) from error


@dataclass
class Machine:
    """A machine or a tree, and what is recorded of it.

    :param root: ``/`` for this machine.
    """

    root: Path
    record_file: Path
    record: Record = field(init=False)

    def __post_init__(self) -> None:
        self.record = load_record(self.record_file)

    @property
    def live(self) -> bool:
        """Whether it is this machine itself."""
        return self.root == Path("/")

    def place(self, path: str) -> Path:
        """Return where a path lies, as this process names it."""
        return below(self.root, path)

    # --- what is to be done --------------------------------------------------------------------------

    def plan(self, wanted: Rendered, way: Way = "refuse", *, purge: bool = False) -> Plan:
        """Compare what is to be with what is.

        :param way: what is done with what is in the way.
        :param purge: remove also what was changed since it was made, and what servers have written.
        """
        changes: list[Change] = []
        conflicts: list[Conflict] = []
        parts = {part.path: part for part in wanted.parts if self._applies(part)}
        for part in parts.values():
            change, conflict = self._compare(part, way)
            changes += change
            conflicts += [conflict] if conflict else []
        for path, made in reversed(self.record.parts.items()):
            if path not in parts and not any(_is_below(other, path) for other in parts):
                changes += self._removal(path, made, purge)
        for path in reversed(self.record.kept):
            if path not in parts and path not in self.record.parts and not any(_is_below(p, path) for p in parts):
                changes += [Change("remove", path)] if purge or self._is_emptied(path) else []
        groups = tuple(group.name for group in wanted.groups if group_id(self.root, group.name) is None)
        users = tuple(user.name for user in wanted.users if user_id(self.root, user.name) is None)
        return Plan(groups, users, tuple(changes), tuple(conflicts))

    def _applies(self, part: Part) -> bool:
        if part.data or (part.runtime and not self.live):
            return False
        return not any(os.path.lexists(self.place(path)) for path in part.unless)

    def _compare(self, part: Part, way: Way) -> tuple[list[Change], Conflict | None]:
        there = fingerprint(self.place(part.path))
        wanted = intended(part)
        made = self.record.parts.get(part.path)
        if made is not None:
            if there == wanted or (part.keep and there is not None):
                return [], None
            if there is None or there in (made.what, made.before):
                return [Change("make" if there is None else "change", part.path, part)], None
        elif there is None:
            return [Change("make", part.path, part)], None
        elif part.path in self.record.kept:
            return [Change("adopt", part.path, part)], None
        elif part.kind == "directory" and self.place(part.path).is_dir():
            return [], None  # a directory is shared
        if way == "adopt" and (part.keep or there == wanted):
            return [Change("adopt", part.path, part)], None
        if way == "divert":
            return [Change("divert", part.path, part)], None
        what = {"link": f"a link to {(there or '')[5:]}", "file": "a file", "directory": "a directory"}
        adoptable = part.keep or there == wanted
        return [], Conflict(part.path, what.get((there or "").partition(":")[0], "something else"), adoptable)

    def _removal(self, path: str, made: Made, purge: bool) -> list[Change]:
        place = self.place(path)
        there = fingerprint(place)
        changes = []
        if there in (made.what, made.before) or (purge and made.keep and there is not None):
            if there != "directory" or purge or not any(self._stays(path, name) for name in os.listdir(place)):  # noqa: PTH208
                changes = [Change("remove", path)]
        elif there is not None and made.keep:
            changes = [Change("keep", path)]
        if made.diverted:
            changes.append(Change("restore", path))
        # A record of something that is gone goes without a word.
        return changes or ([Change("keep", path)] if there is not None else [Change("remove", path)])

    def _is_emptied(self, path: str) -> bool:
        place = self.place(path)
        return fingerprint(place) == "directory" and not any(self._stays(path, name) for name in os.listdir(place))  # noqa: PTH208

    def _stays(self, directory: str, name: str) -> bool:
        """Whether something in a directory of ours will be there when all that is ours has gone."""
        path = f"{directory}/{name}"
        made = self.record.parts.get(path)
        if made is None:
            return True
        there = fingerprint(self.place(path))
        if there == "directory":
            return any(self._stays(path, below) for below in os.listdir(self.place(path)))  # noqa: PTH208
        return there not in (made.what, made.before)

    # --- doing it ------------------------------------------------------------------------------------

    def apply(
        self,
        plan: Plan,
        wanted: Rendered,
        clusters: tuple[Cluster, ...],
        default: int | None,
        *,
        remove_accounts_too: bool = False,
    ) -> None:
        """Do what was planned, and record it.

        :param remove_accounts_too: remove the accounts that were made here.
        :raises HostError: the disk is full, or the file system is read-only.
        """
        try:
            self._apply(plan, wanted, clusters, default, remove_accounts_too)
        except OSError as error:
            raise host_error(error, f"cannot change {error.filename or self.root}") from error

    def _apply(
        self,
        plan: Plan,
        wanted: Rendered,
        clusters: tuple[Cluster, ...],
        default: int | None,
        remove_accounts_too: bool,
    ) -> None:
        before = self.record
        parts = dict(before.parts)
        for change in plan.changes:
            if change.part is not None:
                self._announce(parts, change)
        groups = tuple(dict.fromkeys((*before.groups, *plan.groups)))
        users = tuple(dict.fromkeys((*before.users, *plan.users)))
        self._write(
            msgspec.structs.replace(before, clusters=clusters, default=default, groups=groups, users=users, parts=parts)
        )
        make_accounts(self.root, wanted.groups, wanted.users)
        for change in plan.changes:
            self._do(change, parts)
        kept = {path for path in before.kept if path not in parts and os.path.lexists(self.place(path))}
        for change in plan.changes:
            if change.verb in ("remove", "keep", "restore"):
                parts.pop(change.path, None)
            if change.verb == "keep":
                kept.add(change.path)
        if remove_accounts_too:
            remove_accounts(self.root, groups, users)
            groups = users = ()
        parts = {
            path: Made(made.what, None, made.diverted, made.keep) if path in {c.path for c in plan.changes} else made
            for path, made in parts.items()
        }
        self._write(Record(1, clusters, default, groups, users, parts, tuple(sorted(kept))))

    def _announce(self, parts: dict[str, Made], change: Change) -> None:
        part = change.part
        assert part is not None
        for parent in reversed(list(Path(part.path).parents)):
            if not os.path.lexists(self.place(str(parent))) and str(parent) not in parts:
                parts[str(parent)] = Made("directory")
        old = parts.get(part.path)
        what = intended(part)
        diverted = change.verb == "divert" or (old is not None and old.diverted)
        if change.verb == "adopt" and part.kind != "directory":
            what = _ADOPTED
        parts[part.path] = Made(what, old.what if old and old.what != what else None, diverted, part.keep)

    def _write(self, record: Record) -> None:
        self.record = record
        if not (record.parts or record.kept or record.clusters or record.users or record.groups):
            self.record_file.unlink(missing_ok=True)
            return
        self.record_file.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.record_file, msgspec.json.format(msgspec.json.encode(record), indent=1))

    def _do(self, change: Change, parts: Mapping[str, Made]) -> None:
        place = self.place(change.path)
        if change.verb in ("make", "change"):
            assert change.part is not None
            self._make(change.part, place)
        elif change.verb == "divert":
            assert change.part is not None
            aside = place.with_name(place.name + DIVERTED)
            if not os.path.lexists(aside):
                place.rename(aside)
            self._make(change.part, place)
        elif change.verb == "remove":
            if place.is_dir() and not place.is_symlink():
                try:
                    place.rmdir()
                except OSError:
                    if any(place.iterdir()):
                        return  # somebody has put something there meanwhile
                    raise
            else:
                place.unlink(missing_ok=True)
        elif change.verb == "restore":
            aside = place.with_name(place.name + DIVERTED)
            if os.path.lexists(aside) and not os.path.lexists(place):
                aside.rename(place)

    def make(self, part: Part) -> None:
        """Make a part that begins empty at each boot, as tmpfiles.d would.

        :raises OSError: it cannot be made.
        """
        self._make(part, self.place(part.path))

    def _make(self, part: Part, place: Path) -> None:
        for parent in reversed(place.parents):
            if not os.path.lexists(parent):
                parent.mkdir()
                parent.chmod(0o755)
        if part.kind == "directory":
            place.mkdir(exist_ok=True)
            self._give(part, place)
        elif part.kind == "link":
            temporary = place.with_name(f".{place.name}.pgbake-new")
            temporary.unlink(missing_ok=True)
            temporary.symlink_to(part.target)
            temporary.replace(place)
        else:
            temporary = place.with_name(f".{place.name}.pgbake-new")
            temporary.unlink(missing_ok=True)
            temporary.write_bytes(part.content)
            self._give(part, temporary)
            temporary.replace(place)

    def _give(self, part: Part, place: Path) -> None:
        owner, group = user_id(self.root, part.owner), group_id(self.root, part.group)
        if owner is None or group is None:
            raise HostError(
                f"the account {part.owner if owner is None else part.group} is not there, to whom {part.path} belongs",
                hint=f"make it: useradd --system {part.owner}",
            )
        os.chown(place, owner, group)
        place.chmod(part.mode)  # a change of owner takes some bits away

    def keep(self, paths: Iterable[str]) -> None:
        """Record that something of ours stays, so that the next install knows it."""
        kept = {*self.record.kept, *(path for path in paths if os.path.lexists(self.place(path)))}
        if kept != set(self.record.kept):
            self._write(msgspec.structs.replace(self.record, kept=tuple(sorted(kept))))

    # --- data ----------------------------------------------------------------------------------------

    def remove_data(self, places: Iterable[Path]) -> None:
        """Remove what servers have written.

        :raises HostError: it cannot be removed.
        """
        try:
            for place in places:
                if place.is_dir() and not place.is_symlink():
                    shutil.rmtree(place)
                else:
                    place.unlink(missing_ok=True)
        except OSError as error:
            raise host_error(error, f"cannot remove {error.filename}") from error


def _is_below(path: str, directory: str) -> bool:
    return path.startswith(f"{directory}/")
