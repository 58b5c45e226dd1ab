"""A machine that is emulated whole, from its firmware on, with cloud-init's data as a cloud gives it."""

from __future__ import annotations

import shutil
import subprocess
import time
from pathlib import Path
from typing import Literal

from tests.debian import debian_tree

Firmware = Literal["bios", "uefi"]

_PACKAGES = ("bash", "coreutils", "dosfstools", "ipxe-qemu", "mtools", "ovmf", "qemu-system-x86", "seabios")
_OVMF = "/usr/share/OVMF"


def _sandbox(tree: Path, directory: Path) -> list[str]:
    return [
        "bwrap", "--ro-bind", str(tree), "/", "--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--tmpfs",
        "/var/tmp",
        "--bind", str(directory), "/build", "--chdir", "/build", "--unshare-net", "--die-with-parent", "--",
    ]  # fmt: skip


def boot_until(disk: Path, firmware: Firmware, user_data: str, mark: str, directory: Path, limit: float) -> str:
    """Boot a disk, which stays as it is, until a line of its console has ``mark``; return what the console said.

    :param disk: a qcow2 image.
    :param user_data: of cloud-init, found on a disk of its own (NoCloud).
    :param directory: for what the machine writes.
    :raises AssertionError: the line did not come within ``limit`` seconds.
    """
    tree = debian_tree("bookworm", _PACKAGES)
    sandbox = _sandbox(tree, directory)
    (directory / "user-data").write_text(user_data)
    (directory / "meta-data").write_text("instance-id: test\nlocal-hostname: test\n")
    for command in (
        ["truncate", "-s", "1M", "seed.img"],
        ["/usr/sbin/mkfs.vfat", "-n", "CIDATA", "seed.img"],
        ["mcopy", "-i", "seed.img", "user-data", "meta-data", "::"],
    ):
        subprocess.run([*sandbox, *command], check=True, capture_output=True)
    shutil.copyfile(disk, directory / "disk.qcow2")
    words = [
        "qemu-system-x86_64", "-M", "q35", "-m", "1024", "-smp", "2", "-accel", "tcg,thread=multi", "-display", "none",
        "-no-reboot", "-serial", "file:console", "-drive", "file=disk.qcow2,format=qcow2,if=virtio",
        "-drive", "file=seed.img,format=raw,if=virtio,readonly=on",
    ]  # fmt: skip
    if firmware == "uefi":
        shutil.copyfile(tree / f"{_OVMF}/OVMF_VARS_4M.fd".lstrip("/"), directory / "vars.fd")
        words += ["-drive", f"if=pflash,format=raw,readonly=on,file={_OVMF}/OVMF_CODE_4M.fd"]
        words += ["-drive", "if=pflash,format=raw,file=vars.fd"]
    console = directory / "console"
    process = subprocess.Popen([*sandbox, *words], stdin=subprocess.DEVNULL)
    try:
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline and process.poll() is None:
            said = console.read_text(errors="replace") if console.exists() else ""
            if any(mark in line and "runcmd" not in line for line in said.splitlines()):
                return said
            time.sleep(0.5)
    finally:
        process.kill()
        process.wait()
    raise AssertionError(f"{mark!r} is not on the console of a machine that boots by {firmware}:\n{said[-4000:]}")
