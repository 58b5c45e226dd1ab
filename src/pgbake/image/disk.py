"""A tree as a disk: one that boots by UEFI and by BIOS, written without a loop device, the same bytes each time.

=========  =====================================================================================================
partition  what is in it
=========  =====================================================================================================
bios       1 MiB: GRUB's core for machines that boot by BIOS, named by the boot sector
EFI        64 MiB, FAT: GRUB for UEFI, by the name that firmware looks for
root       the rest, ext4: the tree; it grows with the disk at the first boot
=========  =====================================================================================================

The GUID partition table is the UEFI specification's (2.10, chapter 5), the types are those of the Discoverable
Partitions Specification. What GRUB's own installer would find out on a running machine is known here: where
the core lies.
"""

from __future__ import annotations

import hashlib
import os
import re
import struct
import time
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, Literal

from pgbake.errors import ManifestError
from pgbake.image.workshop import EPOCH, Workshop
from pgbake.quantities import human_size

Format = Literal["raw", "qcow2", "vmdk", "vhd"]

_SECTOR = 512
_MIB = 1 << 20
_BIOS = (1 * _MIB, 1 * _MIB)  # begin and size
_EFI = (2 * _MIB, 64 * _MIB)
#: Where the root file system begins, in bytes.
ROOT_BEGIN = 66 * _MIB
_TYPES = {
    "bios": "21686148-6449-6E6F-744E-656564454649",
    "EFI": "C12A7328-F81F-11D2-BA4B-00A0C93EC93B",
    "root": "4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709",
}
#: Read by both GRUBs: all else is in the tree, where the machine's administrator can change it.
_EARLY = "search --no-floppy --set=root --label root\nset prefix=($root)/boot/grub\nconfigfile /boot/grub/grub.cfg\n"
_MODULES = (
    "part_gpt",
    "ext2",
    "search",
    "search_label",
    "linux",
    "normal",
    "configfile",
    "echo",
    "serial",
    "terminal",
    "test",
)
#: How qemu-img calls what people call by other names; options that leave out what differs each time.
_FORMATS: dict[str, tuple[str, ...]] = {
    "qcow2": ("qcow2",),
    "vmdk": ("vmdk", "-o", "subformat=streamOptimized"),
    "vhd": ("vpc", "-o", "subformat=dynamic"),
}


def write_disk(workshop: Workshop, bench: Path, size: int, seed: str, name: str = "root") -> Path:
    """Write the tree ``NAME`` of a bench as ``disk.raw`` beside it, sparse; return it.

    :param size: of the disk, in bytes.
    :param seed: what the identities of file systems and partitions are made of.
    :raises ManifestError: the tree does not fit.
    :raises CommandError: a program of the workshop failed.
    """
    size -= size % _MIB
    used = sum(int(line.split()[0]) for line in workshop.run(["du", "-sk", name], bench).stdout.splitlines()) * 1024
    room = size - ROOT_BEGIN - _MIB
    if used * 1.1 + 64 * _MIB > room:
        raise ManifestError(
            f"the tree has {human_size(used)} and does not fit into a disk of {human_size(size)}",
            hint="name a larger one: [image] size in the manifest",
        )
    _write_root(workshop, bench, room, seed, name)
    (bench / "early.cfg").write_text(_EARLY)
    _write_efi(workshop, bench, seed)
    core = _core(workshop, bench)
    (bench / "early.cfg").unlink()
    disk = bench / "disk.raw"
    with disk.open("wb") as file:
        file.truncate(size)
    _partition(workshop, bench, size, seed)
    with disk.open("r+b") as file:
        boot = (workshop.tree / "usr/lib/grub/i386-pc/boot.img").read_bytes()
        _place_bios(file, boot, core)
        for part, begin in (("efi.img", _EFI[0]), ("root.img", ROOT_BEGIN)):
            _copy_sparse(bench / part, file, begin)
            (bench / part).unlink()
        os.fsync(file.fileno())
    return disk


def convert(workshop: Workshop, bench: Path, form: Format) -> Path:
    """Write ``disk.raw`` of a bench in another form, beside it; return it.

    :raises CommandError: qemu-img failed.
    """
    target = bench / f"disk.{form}"
    if form != "raw":
        kind, *options = _FORMATS[form]
        words = ["qemu-img", "convert", "-f", "raw", "-O", kind, *options, "disk.raw", target.name]
        workshop.run(words, bench)
    return target


def identity(seed: str, what: str) -> uuid.UUID:
    """Return the identity of a part of a disk: of the form of a random UUID (RFC 9562, version 4)."""
    return uuid.UUID(bytes=hashlib.sha256(f"{seed} {what}".encode()).digest()[:16], version=4)


def _write_root(workshop: Workshop, bench: Path, room: int, seed: str, name: str) -> None:
    with (bench / "root.img").open("wb") as file:
        file.truncate(room)
    mark = str(identity(seed, "root"))
    options = f"hash_seed={mark},lazy_itable_init=0,lazy_journal_init=0,root_owner=0:0,nodiscard"
    # E2fsprogs 1.47.0 takes the time from this variable, later ones from SOURCE_DATE_EPOCH, too.
    fixed = {"E2FSPROGS_FAKE_TIME": str(EPOCH)}
    workshop.run(
        ["mke2fs", "-q", "-t", "ext4", "-L", "root", "-U", mark, "-E", options, "-d", name, "root.img"],
        bench, env=fixed,
    )  # fmt: skip
    # Made of a tree, inodes keep its times of change and of reading, which nobody can set in a tree.
    told = workshop.run(["dumpe2fs", "root.img"], bench, env=fixed).stdout
    when = time.strftime("%Y%m%d%H%M%S", time.gmtime(EPOCH))
    fields = {"ctime": when, "atime": when, "crtime": when, "ctime_extra": "0", "atime_extra": "0"}
    commands = "".join(
        f"sif <{inode}> {field} {value}\n" for inode in _used_inodes(told) for field, value in fields.items()
    )
    workshop.run(["debugfs", "-w", "-f", "-", "root.img"], bench, env=fixed, stdin=commands.encode())


def _used_inodes(told: str) -> Iterator[int]:
    """Yield the inodes in use from the second one, the root directory, on, of what dumpe2fs tells."""
    total = int(re.search(r"^Inode count:\s+(\d+)$", told, re.MULTILINE)[1])  # type: ignore[index]
    free = [
        (int(first), int(last or first))
        for line in re.findall(r"^  Free inodes: (.+)$", told, re.MULTILINE)
        for first, last in re.findall(r"(\d+)(?:-(\d+))?", line)
    ]
    begin = 11  # below it are the file system's own, but for the root directory
    yield 2
    for first, last in sorted(free):
        yield from range(begin, first)
        begin = last + 1
    yield from range(begin, total + 1)


def _write_efi(workshop: Workshop, bench: Path, seed: str) -> None:
    workshop.run(
        [
            "grub-mkimage", "--format=x86_64-efi", "--output=BOOTX64.EFI", "--prefix=/boot/grub", "--config=early.cfg",
            *_MODULES, "fat", "efi_gop", "all_video",
        ],
        bench,
    )  # fmt: skip
    with (bench / "efi.img").open("wb") as file:
        file.truncate(_EFI[1])
    serial = identity(seed, "EFI").hex[:8]
    os.utime(bench / "BOOTX64.EFI", (EPOCH, EPOCH))
    workshop.run(["mkfs.vfat", "-F", "32", "-n", "EFI", "-i", serial, "--invariant", "efi.img"], bench)
    for directory in ("::EFI", "::EFI/BOOT"):
        workshop.run(["mmd", "-i", "efi.img", directory], bench)
    workshop.run(["mcopy", "-m", "-i", "efi.img", "BOOTX64.EFI", "::EFI/BOOT/BOOTX64.EFI"], bench)
    (bench / "BOOTX64.EFI").unlink()


def _core(workshop: Workshop, bench: Path) -> bytes:
    workshop.run(
        [
            "grub-mkimage", "--format=i386-pc", "--output=core.img", "--prefix=/boot/grub", "--config=early.cfg",
            "biosdisk", *_MODULES,
        ],
        bench,
    )  # fmt: skip
    core = (bench / "core.img").read_bytes()
    (bench / "core.img").unlink()
    return core


def _partition(workshop: Workshop, bench: Path, size: int, seed: str) -> None:
    ends = {"bios": _BIOS, "EFI": _EFI, "root": (ROOT_BEGIN, size - ROOT_BEGIN - _MIB)}
    lines = ["label: gpt", f"label-id: {identity(seed, 'disk')}", "unit: sectors", "first-lba: 34"]
    for name, (begin, length) in ends.items():
        mark = identity(seed, f"partition {name}")
        lines.append(
            f"start={begin // _SECTOR}, size={length // _SECTOR}, type={_TYPES[name]}, uuid={mark}, name={name}"
        )
    workshop.run(["sfdisk", "--quiet", "disk.raw"], bench, stdin=("\n".join(lines) + "\n").encode())


def _place_bios(file: BinaryIO, boot: bytes, core: bytes) -> None:
    """Write GRUB's boot sector and core, each knowing where the core lies, as grub-bios-setup would."""
    begin = _BIOS[0] // _SECTOR
    sectors = -(-len(core) // _SECTOR)
    sector = bytearray(boot[:_SECTOR])
    file.seek(0)
    table = file.read(_SECTOR)
    sector[0x1B8:] = table[0x1B8:]  # the protective partition table
    struct.pack_into("<Q", sector, 0x5C, begin)
    sector[0x64] = 0xFF  # the disk that the firmware has booted from
    sector[0x66:0x68] = b"\x90\x90"  # no check whether that is a floppy disk
    file.seek(0)
    file.write(sector)
    # Its first sector reads the others: the block list of diskboot.S.
    body = bytearray(core.ljust(sectors * _SECTOR, b"\0"))
    struct.pack_into("<QHH", body, 0x1F4, begin + 1, sectors - 1, 0x820)
    file.seek(_BIOS[0])
    file.write(body)


def _copy_sparse(source: Path, target: BinaryIO, begin: int) -> None:
    """Copy a file into a larger one, leaving out its holes."""
    with source.open("rb") as file:
        end = os.fstat(file.fileno()).st_size
        place = 0
        while place < end:
            try:
                place = os.lseek(file.fileno(), place, os.SEEK_DATA)
            except OSError:  # nothing but a hole is left
                return
            hole = os.lseek(file.fileno(), place, os.SEEK_HOLE)
            file.seek(place)
            target.seek(begin + place)
            while place < hole:
                chunk = file.read(min(1 << 20, hole - place))
                target.write(chunk)
                place += len(chunk)
