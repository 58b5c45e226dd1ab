"""What stage 1 depends on, and programs that no package brings."""

from __future__ import annotations

import io
import tarfile
from collections.abc import Mapping
from pathlib import Path

import pytest

from pgbake.errors import InputError
from pgbake.formats.system import SYSTEMS
from pgbake.image.lock import ImageLock, ImageSystem
from pgbake.image.stage1 import Stage1, place_program
from pgbake.inputs.pins import Pin
from pgbake.lock import PlatformLock
from pgbake.machine.definition import Cluster
from pgbake.machine.image import MachineImage
from pgbake.machine.services import Binary, Setting

SYSTEM = SYSTEMS["x86_64-linux"]
OWN: Setting = {"url": "https://e.org/own", "sha256": "0" * 64}


def pin(digit: str) -> Pin:
    return Pin("1", f"pool/{digit}.deb", 1, digit * 64)


def stage(
    services: Mapping[str, Setting] | None = None,
    profile: str | None = None,
    settings: Mapping[str, str] | None = None,
    package: str = "1",
    own: str = "0",
) -> Stage1:
    system = ImageSystem({"bash": pin(package)}, {"tar": pin("2")}, {})
    lock = ImageLock(2, PlatformLock("bookworm", False, False), ("bash",), {SYSTEM.name: system}, {"own": pin(own)})
    chosen = services or {}
    image = MachineImage.of(chosen, profile, settings or {}, Cluster(15, "main", 5432), Path("pgbake.toml"))
    return Stage1.of(Path("images"), lock, SYSTEM, image)


def test_it_is_another_where_packages_services_profile_or_settings_move() -> None:
    stages = [
        stage(), stage(package="3"), stage({"nginx": {}}), stage({"nginx": {"port": 81}}), stage(profile="aws"),
        stage(settings={"work_mem": "8MB"}), stage({"own": OWN}), stage({"own": {**OWN, "sha256": "1" * 64}}),
    ]  # fmt: skip
    assert len({each.key for each in stages}) == len(stages)
    assert stage().key == stages[0].key


def test_its_programs_are_others_where_packages_or_binaries_move() -> None:
    assert stage().packages == stage({"nginx": {"port": 81}}).packages
    assert stage().packages != stage(package="3").packages
    assert len({each.packages for each in (stage(), stage({"own": OWN}), stage({"own": OWN}, own="4"))}) == 3


def test_a_program_is_placed_as_it_is_or_from_a_tarball(tmp_path: Path) -> None:
    (tmp_path / "own").write_bytes(b"\x7fELF")
    with tarfile.open(tmp_path / "own.tar.xz", "w:xz") as tar:
        member = tarfile.TarInfo("own-1.0/own")
        member.size = 4
        tar.addfile(member, io.BytesIO(b"\x7fELF"))
    for file, name in (("own", None), ("own.tar.xz", "own-1.0/own")):
        place = tmp_path / "root" / file
        place_program(tmp_path / file, Binary("https://e.org/own", "0" * 64, member=name), place)
        assert place.read_bytes() == b"\x7fELF" and place.stat().st_mode & 0o777 == 0o755
    with pytest.raises(InputError, match="there is no file other"):
        place_program(tmp_path / "own.tar.xz", Binary("https://e.org/own", "0" * 64, member="other"), tmp_path / "x")
    with pytest.raises(InputError, match="there is no file own in"):
        place_program(tmp_path / "own", Binary("https://e.org/own", "0" * 64, member="own"), tmp_path / "x")
