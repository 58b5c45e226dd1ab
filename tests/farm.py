"""A build farm on one machine: hosts with Nix and sshd, each in mount, PID and network namespaces of its own.

A network namespace of the farm holds one end of a cable (a veth pair) to each host, and whoever gives the builds::

    farm's namespace   10.97.1.1 ----- 10.97.1.2   host 1: own root, /nix, sshd, nix-daemon
                       10.97.2.1 ----- 10.97.2.2   host 2

For root only. Trees come from Debian's packages (`tests.debian`); nothing of this machine is written but below the
directory that the farm is given.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Self

from pgbake.store.local import remove_tree
from tests.oracle import PACKAGES, dressed_tree, write_accounts

_PACKAGES = (*PACKAGES, "openssh-server", "openssh-client", "bash", "grep", "sed", "util-linux", "procps")

#: Root of a host: its own etc, home and /nix, Debian's programs. It ends with its first process, sshd's parent.
_BOOT = r"""
directory=$1 tree=$2; shift 2
mount -t tmpfs -o mode=0755 tmpfs "$directory/new"; cd "$directory/new"
mkdir usr etc nix root run tmp dev proc sys home var old
mkdir -p run/sshd var/empty
ln -s usr/bin usr/sbin usr/lib usr/lib64 .
mount --bind "$tree/usr" usr; mount -o remount,bind,ro usr
for name in etc nix root tmp; do mount --bind "$directory/$name" $name; done
mount --rbind /dev dev; mount -t proc proc proc; mount -t sysfs -o ro sysfs sys
pivot_root . old; cd /; umount -l /old; rmdir /old
ip link set lo up 2>/dev/null || true
printf 0 > /proc/sys/net/ipv6/conf/all/disable_ipv6 || true
export PATH=/usr/bin:/usr/sbin HOME=/root LC_ALL=C.UTF-8
"$@"
nix-daemon &
exec /usr/sbin/sshd -D -e -f /etc/ssh/sshd_config
"""

_SSHD = """
Port 22
HostKey /etc/ssh/host_key
AuthorizedKeysFile /etc/ssh/authorized_keys
StrictModes no
UsePAM no
PermitRootLogin prohibit-password
PasswordAuthentication no
KbdInteractiveAuthentication no
PrintMotd no
SetEnv PATH=/root/bin:/usr/bin:/usr/sbin
MaxStartups 100
"""

_NIX_CONF = """
build-users-group = nixbld
substituters =
experimental-features = nix-command
"""

#: Who gives builds notices soon that a host is gone.
_SSH = "Host *\n  ServerAliveInterval 2\n  ServerAliveCountMax 2\n  ConnectTimeout 4\n"


def farm_tree(suite: str) -> Path:
    """Return a tree with the Nix of a release, ssh and sshd, after making it if need be.

    :raises OracleUnavailable: no mirror delivers the packages.
    """
    return dressed_tree("farm", suite, _PACKAGES, _dress)


def _dress(etc: Path) -> None:
    write_accounts(etc)
    (etc / "ssh").mkdir()
    (etc / "ssh/ssh_config").write_text(_SSH)


class Host:
    """One host of the farm."""

    def __init__(
        self, directory: Path, number: int, tree: Path, key: str, setting: str, prepare: str, around: Sequence[str]
    ) -> None:
        """Boot it.

        :param number: gives its address.
        :param key: the public key that it lets in, as root and as ``nix``.
        :param setting: lines of its nix.conf.
        :param prepare: lines of shell, run before its daemons start.
        :param around: the begin of a command line in which all of it runs.
        """
        self.directory = directory
        self.address = f"10.97.{number}.2"
        for name in ("nix", "etc/ssh", "etc/nix", "root", "tmp", "new"):
            (directory / name).mkdir(parents=True)
        (directory / "tmp").chmod(0o1777)
        etc = directory / "etc"
        write_accounts(etc, users=[("sshd", 101, 65534), ("nix", 1500, 1500)])
        (etc / "ssh/sshd_config").write_text(_SSHD)
        (etc / "ssh/authorized_keys").write_text(key)
        (etc / "nix/nix.conf").write_text(f"{_NIX_CONF}{setting}\n")
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", etc / "ssh/host_key"], check=True)
        self.host_key = (etc / "ssh/host_key.pub").read_text().strip()
        self.log = directory / "log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(
                [*around, "unshare", "--mount", "--pid", "--net", "--fork", "--kill-child", "sh", "-euc", _BOOT, "sh",
                 directory, tree, "sh", "-euc", prepare],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log,
            )  # fmt: skip

    @property
    def url(self) -> str:
        """Where Nix finds it."""
        return f"ssh://root@{self.address}"

    @property
    def pid(self) -> int | None:
        """The process that holds its namespaces; None until they are made."""
        below = [self.process.pid]
        while below:
            pid = below.pop()
            with suppress(OSError):
                if _namespace(pid) != _namespace("self"):
                    return pid
                below += map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split())
        return None

    def off(self) -> None:
        """Let it lose its power."""
        if (pid := self.pid) is not None:
            os.kill(pid, signal.SIGKILL)
        self.process.wait()


class Farm:
    """Hosts, and the namespace in which their cables end."""

    def __init__(self, directory: Path, suite: str = "bookworm") -> None:
        self.directory = directory
        self.tree = farm_tree(suite)
        self.hosts: list[Host] = []
        self.key = directory / "key"
        subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key], check=True)
        self._hub = subprocess.Popen(["unshare", "--net", "sleep", "infinity"])
        self._wait(lambda: _namespace(self._hub.pid) != _namespace("self"), "a network namespace")
        self.inside("ip", "link", "set", "lo", "up")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        for host in self.hosts:
            host.off()
        self._hub.kill()
        self._hub.wait()
        for host in self.hosts:
            remove_tree(host.directory / "nix")

    def command(self, argv: Sequence[str | Path]) -> list[str]:
        """Return the command line that runs ``argv`` where the hosts are reached."""
        return ["nsenter", f"--net=/proc/{self._hub.pid}/ns/net", "--", *map(str, argv)]

    def inside(self, *argv: str | Path, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a command where the hosts are reached."""
        return subprocess.run(self.command(argv), check=check, capture_output=True, text=True)

    def add(self, setting: str = "sandbox = true", prepare: str = "", around: Sequence[str] = ()) -> Host:
        """Boot another host, connect it, and wait for its sshd; see :class:`Host`."""
        number = len(self.hosts) + 1
        key = self.key.with_suffix(".pub").read_text()
        host = Host(self.directory / f"host{number}", number, self.tree, key, setting, prepare, around)
        self.hosts.append(host)
        self._wait(lambda: host.pid is not None, "a host")
        near, far = f"10.97.{number}.1/30", f"{host.address}/30"
        self.inside(
            "ip", "link", "add", f"cable{number}", "type", "veth", "peer", "name", "eth0",
            "netns", str(host.pid),
        )  # fmt: skip
        self.inside("ip", "addr", "add", near, "dev", f"cable{number}")
        self.inside("ip", "link", "set", f"cable{number}", "up")
        there = ["nsenter", f"--net=/proc/{host.pid}/ns/net", "--", "ip"]
        for words in (["addr", "add", far, "dev", "eth0"], ["link", "set", "eth0", "up"], ["link", "set", "lo", "up"]):
            subprocess.run([*there, *words], check=True)
        self._wait(lambda: self.ssh(host, "true").returncode == 0, f"sshd of {host.address}: see {host.log}")
        return host

    def cut(self, host: Host) -> None:
        """Take out a host's cable: nothing comes through, and nobody is told."""
        self.inside("ip", "link", "set", f"cable{self.hosts.index(host) + 1}", "down")

    def ssh(self, host: Host, *argv: str) -> subprocess.CompletedProcess[str]:
        """Run a command on a host, as root."""
        options: list[str | Path] = [
            "-oBatchMode=yes",
            "-oStrictHostKeyChecking=no",
            "-oUserKnownHostsFile=/dev/null",
            "-i",
            self.key,
        ]
        return self.inside("ssh", *options, f"root@{host.address}", *argv, check=False)

    def machines(self, jobs: int = 1) -> str:
        """Return the hosts as Nix's machines file has them."""
        from pgbake.builders import Builder

        return "; ".join(
            Builder(host.url, key=str(self.key), jobs=jobs, host_key=host.host_key).line for host in self.hosts
        )

    def _wait(self, ready: Callable[[], bool], what: str, seconds: float = 20) -> None:
        until = time.monotonic() + seconds
        while not ready():
            if time.monotonic() > until:
                raise AssertionError(f"there is no {what}")
            time.sleep(0.05)


def _namespace(pid: int | str) -> str:
    return str(Path(f"/proc/{pid}/ns/net").readlink())


def unavailable() -> str | None:
    """Return what this machine lacks for a farm; None where it has all."""
    if os.geteuid() != 0:
        return "network namespaces with cables between them are root's to make"
    missing = [name for name in ("ip", "nsenter", "ssh", "ssh-keygen", "unshare") if shutil.which(name) is None]
    return f"not installed: {', '.join(missing)}" if missing else None
