"""Booting a disk in QEMU, from its firmware on: a throwaway overlay of it, in namespaces without network.

QEMU and its firmware come from the emulator's packages in the lock of images. It is given what a cloud would give to
cloud-init (`pgbake.image.clouds`): a user and its key, which exist for this one machine. Two of the machine's ports are
forwarded to loopback of the namespace that it runs in, where nobody else is. On disk, in a directory that is deleted at
the end::

    overlay.qcow2     what the machine writes, upon the disk
    key, known_hosts  for the secure shell
    vars.fd           what UEFI remembers
    console           what the machine has said
"""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pgbake.errors import ServerError
from pgbake.image.boot import SHOWN_OF_CONSOLE, Machine
from pgbake.image.clouds import Cloud
from pgbake.image.disk import ROOT_BEGIN
from pgbake.image.workshop import Workshop
from pgbake.run import Completed, run

Firmware = Literal["uefi", "bios", "kernel"]
#: The account that exists on machines that are emulated, and on no other.
VISITOR = "pgbake-verify"
_OVMF = "usr/share/OVMF"
_DISK, _KERNEL, _INITRD = "/run/disk", "/run/kernel", "/run/initrd"
#: Ports on loopback beside QEMU: the machine's secure shell, and its server.
_SSH, SQL_PORT = 2222, 5432
_MEMORY = "1024"  # MiB
#: Seconds that a kernel under KVM has to say that it finds no root file system, which is its proof.
_PROOF = 15


@dataclass
class Emulator:
    """What boots one disk, several times: the machine's disk stays from boot to boot.

    :param kernel: the kernel of the disk's tree, and ``initrd`` its initial file system.
    :param port: that the machine's server listens on.
    :param bench: an empty directory.
    :param cloud: where the machine believes that it is.
    """

    tools: Workshop
    disk: Path
    kernel: Path
    initrd: Path
    port: int
    bench: Path
    cloud: Cloud
    accelerator: Literal["kvm", "tcg"] = "tcg"

    def lay_out(self, size: int) -> None:
        """Make the overlay, larger than the disk, and cloud-init's data.

        :param size: of the overlay, in bytes.
        """
        words = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "raw", "-b", _DISK, "overlay.qcow2", str(size)]
        self.tools.run(words, self.bench, {self.disk: _DISK})
        keys = {name: _key() for name in ("user", "host")}
        secret = self.bench / "key"
        secret.write_bytes(keys["user"].secret)
        secret.chmod(0o600)
        (self.bench / "known_hosts").write_text(f"[127.0.0.1]:{_SSH} {keys['host'].public}\n")
        user = {
            "name": VISITOR, "ssh_authorized_keys": [keys["user"].public], "sudo": "ALL=(ALL) NOPASSWD:ALL",
            "shell": "/bin/sh", "lock_passwd": True,
        }  # fmt: skip
        host = {"ed25519_private": keys["host"].secret.decode(), "ed25519_public": keys["host"].public}
        self.cloud.lay_out(self.tools, self.bench, {"users": [user], "ssh_keys": host})
        shutil.copyfile(self.tools.tree / _OVMF / "OVMF_VARS_4M.fd", self.bench / "vars.fd")

    def choose_accelerator(self) -> None:
        """Use KVM where it has shown that it runs this kernel: it may be there, start a machine, and hang."""
        if not os.access("/dev/kvm", os.R_OK | os.W_OK):
            return
        self.accelerator = "kvm"
        words = ["-kernel", _KERNEL, "-append", "console=ttyS0 panic=-1"]
        with suppress(ServerError), self._started(words, {self.kernel: _KERNEL}) as machine:
            machine.await_console("Unable to mount root fs", _PROOF)
            return
        self.accelerator = "tcg"

    @contextmanager
    def booted(self, firmware: Firmware, limit: float, *, cloud: bool = True) -> Iterator[Emulated]:
        """Boot until the ``with`` block ends; the power is cut then, where the machine is not off by itself.

        :param limit: seconds that it has to come up.
        :param cloud: give it cloud-init's data, and wait until systemd has started everything; else only until somebody
            could log in at the console.
        :raises ServerError: it does not come up in time; the end of its console is the detail.
        """
        shown = {self.disk: _DISK}
        words = ["-drive", "file=overlay.qcow2,format=qcow2,if=virtio"]
        if cloud:
            words += self.cloud.words
        if firmware == "uefi":
            words += ["-drive", f"if=pflash,format=raw,readonly=on,file=/{_OVMF}/OVMF_CODE_4M.fd"]
            words += ["-drive", "if=pflash,format=raw,file=vars.fd"]
        elif firmware == "kernel":
            shown |= {self.kernel: _KERNEL, self.initrd: _INITRD}
            told = f"root=LABEL=root rw console=ttyS0,115200n8 {'' if cloud else self.cloud.absent}"
            words += ["-kernel", _KERNEL, "-initrd", _INITRD, "-append", told]
        with self._started(words, shown, self.cloud.network if cloud else "") as machine:
            if cloud:
                machine.await_start(limit)
            else:
                machine.await_console("login:", limit)
            yield machine

    def read_root(self) -> Path:
        """Return the tree of the machine's root file system as it was left, below the bench; what lies in ``/nix`` is
        not in it.

        :raises CommandError: the file system cannot be read.
        """
        tree = self.bench / "root"
        with self._left() as file_system:
            told = self.tools.run(["debugfs", "-R", "ls -p /", file_system], self.bench).stdout
            names = [line.split("/")[5] for line in told.splitlines() if line.startswith("/")]
            words = " ".join(f"/{name}" for name in names if name not in (".", "..", "nix", "lost+found"))
            tree.mkdir()
            self.tools.run(["debugfs", "-R", f"rdump {words} /build/root", file_system], self.bench)
            # It gives files their owner after their mode, which takes these bits away.
            directories = ["/" + str(Path(top).relative_to(tree)) for top, _, _ in os.walk(tree)]
            commands = "".join(f'ls -p "{directory}"\n' for directory in directories)
            told = self.tools.run(["debugfs", "-f", "-", file_system], self.bench, stdin=commands.encode()).stdout
        here = tree
        for line in told.splitlines():
            if line.startswith("debugfs: ls -p "):
                here = tree / line.removeprefix('debugfs: ls -p "/').rstrip('"')
            elif line.startswith("/") and (mode := int((fields := line.split("/"))[2], 8)) & 0o7000:
                place = here / fields[5]
                if fields[5] not in (".", "..") and place.exists() and not place.is_symlink():
                    place.chmod(mode & 0o7777)
        return tree

    def root_size(self) -> int:
        """Return how large the machine's root file system was left, in bytes.

        :raises CommandError: the file system cannot be read.
        """
        with self._left() as file_system:
            told = self.tools.run(["dumpe2fs", "-h", file_system], self.bench).stdout
        fields = dict(re.findall(r"^Block (count|size): +(\d+)$", told, re.MULTILINE))
        return int(fields["count"]) * int(fields["size"])

    @contextmanager
    def _left(self) -> Iterator[str]:
        """Give the machine's root file system as it was left, by a name that the programs of e2fsprogs take."""
        words = ["qemu-img", "convert", "-O", "raw", "overlay.qcow2", "left.raw"]
        self.tools.run(words, self.bench, {self.disk: _DISK})
        yield f"left.raw?offset={ROOT_BEGIN}"
        (self.bench / "left.raw").unlink()

    @contextmanager
    def _started(self, words: Sequence[str], shown: Mapping[Path, str], network: str = "") -> Iterator[Emulated]:
        accelerator = "kvm" if self.accelerator == "kvm" else "tcg,thread=multi"
        forwards = ",".join(
            f"hostfwd=tcp:127.0.0.1:{here}-:{there}" for here, there in ((_SSH, 22), (SQL_PORT, self.port))
        )
        command = [
            "qemu-system-x86_64", "-M", "q35", "-m", _MEMORY, "-smp", str(min(2, os.cpu_count() or 1)),
            "-accel", accelerator, "-display", "none", "-serial", "file:console", "-qmp", "stdio",
            "-device", "virtio-rng-pci", "-netdev", f"user,id=net,restrict=on{network},{forwards}",
            "-device", "virtio-net-pci,netdev=net", *words,
        ]  # fmt: skip
        console = self.bench / "console"
        console.unlink(missing_ok=True)
        process = subprocess.Popen(
            self.tools.command(command, self.bench, shown),
            stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=console.open("wb"), env={"PATH": os.defpath},
        )  # fmt: skip
        try:
            yield Emulated(process, console, time.monotonic())
        finally:
            _end(process)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End QEMU at once, and return when it has let go of its files.

    It is in the PID namespace of bubblewrap's only child: with that all there end, and then bubblewrap itself.
    """
    for child in (_children(process) or [process.pid]) if process.poll() is None else ():
        with suppress(ProcessLookupError):
            os.kill(child, signal.SIGKILL)
    process.wait()


def _children(process: subprocess.Popen[bytes]) -> list[int]:
    """Return the children of a process; none of one that has ended."""
    try:
        return [int(pid) for pid in Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()]
    except OSError:
        return []


@dataclass
class Emulated(Machine):
    """A machine that QEMU runs."""

    process: subprocess.Popen[bytes]
    console: Path
    begin: float
    seconds: float = 0

    def run(self, *argv: str, user: str | None = None, check: bool = True, stdin: bytes | None = None) -> Completed:
        """Run a program in the machine; see `pgbake.image.boot.Machine`."""
        become = ["sudo", "-n", "-u", user or "root", "--"]
        return run(self._ssh(*become, *argv), sandbox="host", env={"PATH": os.defpath}, check=check, stdin=stdin)

    def _ssh(self, *argv: str) -> list[str]:
        options = [
            "-F", "none", "-i", "/build/key", "-p", str(_SSH), "-l", VISITOR,
            *(word for option in (
                "BatchMode=yes", "ConnectTimeout=5", "ControlMaster=auto", "ControlPath=/tmp/ssh", "ControlPersist=20",
                "HostKeyAlgorithms=ssh-ed25519", "LogLevel=ERROR", "StrictHostKeyChecking=yes",
                "UserKnownHostsFile=/build/known_hosts",
            ) for word in ("-o", option)),
        ]  # fmt: skip
        return self.beside("-m", "-r", "-w", program=["/usr/bin/ssh", *options, "127.0.0.1", shlex.join(argv)])

    def beside(self, *namespaces: str, program: Sequence[str]) -> list[str]:
        """Return the command that runs a program of this machine where the emulated one's ports are, on loopback.

        :param namespaces: options of nsenter for what else it shares with QEMU.
        """
        children = _children(self.process)
        return ["nsenter", "-t", str(children[0]) if children else "0", "-n", *namespaces, "--", *program]

    def await_start(self, limit: float) -> None:
        """Wait until systemd has started everything; see :meth:`Emulator.booted`."""
        said = "nobody can log in"
        while time.monotonic() - self.begin < limit and self.process.poll() is None:
            done = self.run("systemctl", "is-system-running", check=False)
            if done.stdout.strip() in ("running", "degraded"):
                self.seconds = time.monotonic() - self.begin
                return
            said = done.stdout.strip() or done.stderr.strip() or said
            time.sleep(1)
        raise self._late(limit, said)

    def await_console(self, mark: str, limit: float) -> None:
        """Wait until the console has said something.

        :raises ServerError: it did not in time.
        """
        while time.monotonic() - self.begin < limit:
            if self.console.exists() and mark in self.console.read_text(errors="replace"):
                self.seconds = time.monotonic() - self.begin
                return
            if self.process.poll() is not None:
                break
            time.sleep(0.2)
        raise self._late(limit, f"its console has not said {mark!r}")

    def _late(self, limit: float, said: str) -> ServerError:
        lines = self.console.read_text(errors="replace").splitlines() if self.console.exists() else []
        return ServerError(
            f"the machine did not come up in {limit:.0f} s: {said}",
            detail="\n".join(line.rstrip() for line in lines[-SHOWN_OF_CONSOLE:]),
            hint="the lines above are the end of its console; --timeout gives it more time",
        )

    def cut_power(self) -> None:
        """End it as a power failure does: what it has not flushed is lost."""
        _end(self.process)

    def shut_down(self, limit: float) -> None:
        """Press the power button, and wait until it is off.

        :raises ServerError: it is not in time.
        """
        assert self.process.stdin is not None
        for command in ("qmp_capabilities", "system_powerdown"):
            self.process.stdin.write(json.dumps({"execute": command}).encode())
            self.process.stdin.flush()
        try:
            self.process.wait(limit)
        except subprocess.TimeoutExpired:
            raise ServerError(
                f"the machine was not off {limit:.0f} s after its power button was pressed",
                detail="\n".join(self.console.read_text(errors="replace").splitlines()[-SHOWN_OF_CONSOLE:]),
            ) from None

    def restart(self, limit: float) -> None:
        """Restart it from inside, and wait until it is up again."""
        before = self._boot_id()
        self.run("systemctl", "reboot", check=False)
        self.begin = time.monotonic()
        while time.monotonic() - self.begin < limit and self.process.poll() is None:
            if self._boot_id() not in ("", before):
                return self.await_start(limit)
            time.sleep(1)
        raise self._late(limit, "it did not restart")

    def _boot_id(self) -> str:
        return self.run("cat", "/proc/sys/kernel/random/boot_id", check=False).stdout.strip()


@dataclass(frozen=True, slots=True)
class _Key:
    secret: bytes
    public: str


def _key() -> _Key:
    """Make a key for the secure shell (Ed25519, OpenSSH's form)."""
    from cryptography.hazmat.primitives import serialization as forms
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    key = Ed25519PrivateKey.generate()
    secret = key.private_bytes(forms.Encoding.PEM, forms.PrivateFormat.OpenSSH, forms.NoEncryption())
    public = key.public_key().public_bytes(forms.Encoding.OpenSSH, forms.PublicFormat.OpenSSH)
    return _Key(secret, public.decode())
