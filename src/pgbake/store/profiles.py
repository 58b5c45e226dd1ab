"""Profiles and their generations, in Nix's place.

nix/var/nix/profiles/NAME            -> NAME-N-link, the generation that is current
nix/var/nix/profiles/NAME-N-link     -> /nix/store/...; generation N, made when its link was
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

_LINK = re.compile(r"(.+)-([0-9]+)-link")


@dataclass(frozen=True, slots=True)
class Generation:
    """One generation of a profile.

    :param profile: the place of the link that names the current one.
    :param made: when, in Unix seconds.
    """

    profile: Path
    number: int
    link: Path
    made: float
    current: bool


def generations(state_dir: Path) -> dict[Path, list[Generation]]:
    """Return the generations of each profile of a store, the newest first."""
    found: dict[Path, list[Generation]] = {}
    for link in _links(state_dir / "profiles"):
        if match := _LINK.fullmatch(link.name):
            profile = link.with_name(match[1])
            current = profile.is_symlink() and profile.parent / profile.readlink() == link
            made = link.lstat().st_mtime
            found.setdefault(profile, []).append(Generation(profile, int(match[2]), link, made, current))
    return {profile: sorted(found[profile], key=lambda item: -item.number) for profile in sorted(found)}


def superseded(
    profiles: Iterable[Sequence[Generation]], keep: int | None = None, older_than: float | None = None, now: float = 0
) -> list[Generation]:
    """Return the generations that may go. One that is current never may, nor any where neither limit is given.

    Where both are given, what either would keep stays.

    :param profiles: the generations of each profile, the newest first.
    :param keep: how many stay of each profile, the newest.
    :param older_than: seconds; what was current so long ago stays, as in Nix, since one may want to go back to it.
    :param now: in Unix seconds.
    """
    if keep is None and older_than is None:
        return []
    going = []
    for profile in profiles:
        old = list(profile)
        if keep is not None:
            old = old[keep:]
        if older_than is not None:
            before = [item for item in profile if item.made < now - older_than]
            old = [item for item in old if item in before[1:]]
        going += [item for item in old if not item.current]
    return going


def _links(directory: Path) -> Iterator[Path]:
    if not directory.is_dir():
        return
    with os.scandir(directory) as entries:
        for entry in sorted(entries, key=lambda entry: entry.name):
            if entry.is_symlink():
                yield Path(entry.path)
            elif entry.is_dir():
                yield from _links(Path(entry.path))
