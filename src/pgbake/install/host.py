"""What of a machine stands in the way of installing: each is a refusal that says what to do; nothing is changed."""

from __future__ import annotations

import os
import socket
import stat
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path

from pgbake.bundle.cluster import is_cluster
from pgbake.bundle.kernel import require_kernel
from pgbake.bundle.receipt import Receipt
from pgbake.errors import HOST_HINTS, HostError, ManifestError, ServerError
from pgbake.formats.system import SYSTEMS, System, host_system
from pgbake.machine.apply import Plan, below
from pgbake.machine.definition import Cluster
from pgbake.mounts import mount_of
from pgbake.quantities import human_size

#: ELF's numbers of machines (System V gABI, e_machine).
_MACHINES = {62: "x86_64-linux", 183: "aarch64-linux"}
#: Bytes that are to stay free after an install.
_SPARE = 64 << 20
#: SELinux's types of files that a service may not run: what a directory has for which no rule is known.
_UNLABELLED = ("default_t", "unlabeled_t", "root_t")


def require_root(root: Path) -> None:
    """Check that this is root, and that the tree is one.

    :raises HostError: it is not.
    :raises ManifestError: there is no such tree.
    """
    if os.geteuid() != 0:
        raise HostError(
            "only root can install: accounts are made, and files of theirs",
            hint="run it with sudo; a server of your own needs no root: pgbake up",
        )
    if not (root / "etc").is_dir():
        raise ManifestError(f"{root} is no tree of a machine: it has no /etc", hint="unpack one there, or name another")


def require_no_nix(root: Path) -> None:
    """Check that no real Nix owns the tree's ``/nix``.

    :raises HostError: one does.
    """
    from pgbake.places import nix_owns_the_store

    signs = ("nix/var/nix/daemon-socket/socket", "nix/var/nix/profiles/default/bin/nix-store")
    owned = nix_owns_the_store() if root == Path("/") else any(os.path.lexists(root / sign) for sign in signs)
    if owned:
        raise HostError(
            "Nix is installed on this machine and owns /nix, where installed bundles lie",
            hint="pgbake cannot install beside Nix yet: use `nix profile install` with your cache, or `pgbake up`",
        )


def system_of(root: Path) -> System:
    """Return for which machine a tree is made, as its own shell tells.

    :raises HostError: pgbake knows no such system.
    """
    if root == Path("/"):
        return host_system()
    for program in ("/usr/bin/sh", "/bin/sh", "/usr/bin/env", "/usr/bin/bash"):
        place = below(root, program)
        for _ in range(5):
            if not place.is_symlink():
                break
            target = str(place.readlink())
            near = f"/{place.parent.relative_to(root)}/{target}"
            place = below(root, target if target.startswith("/") else os.path.normpath(near))
        with suppress(OSError):
            header = place.read_bytes()[:20]
            if header[:4] == b"\x7fELF":
                name = _MACHINES.get(int.from_bytes(header[18:20], "little"))
                if name is None:
                    raise HostError(f"{root} is a tree of a kind of machine that pgbake does not know")
                return SYSTEMS[name]
    return host_system()


def require_fitting(root: Path, receipt: Receipt) -> None:
    """Check that a bundle is made for the tree's kind of machine, and that this machine's kernel is new enough.

    :raises HostError: it is not.
    """
    system = system_of(root)
    if receipt.system != system.name:
        raise HostError(
            f"this bundle is for {receipt.system}, and {'this machine' if root == Path('/') else root} is "
            f"{system.name}",
            hint=f"build or pull the bundle for {system.name}",
        )
    if root == Path("/"):
        require_kernel(receipt)


def require_writable(root: Path, needed: int = 0) -> None:
    """Check that ``/nix`` can be written, has room, and that programs may run from it.

    :param needed: bytes that are to come.
    :raises HostError: something forbids it.
    """
    place = root / "nix"
    while not place.exists():
        place = place.parent
    about = os.statvfs(place)
    if about.f_flag & os.ST_RDONLY or not os.access(place, os.W_OK):
        raise HostError(
            f"{place} is mounted read-only",
            hint=f"mount -o remount,rw {mount_of(place.resolve()).point}; or give /nix a file system of its own",
        )
    if about.f_flag & os.ST_NOEXEC:
        raise HostError(
            f"{place} is mounted noexec: no program of a bundle could run",
            hint=f"mount -o remount,exec {mount_of(place.resolve()).point}; or give /nix a file system of its own",
        )
    free = about.f_bavail * about.f_frsize
    if needed and free < needed + _SPARE:
        raise HostError(
            f"{place} has {human_size(free)} free, and {human_size(needed)} are to come",
            hint=f"{HOST_HINTS[28]}; `pgbake gc` deletes what nothing needs",
        )


def require_changeable(root: Path, plan: Plan) -> None:
    """Check that no file or directory of a plan lies on a file system that is mounted read-only.

    :raises HostError: one does; the file system is named.
    """
    places = {below(root, change.path).parent for change in plan.changes}
    if plan.groups or plan.users:
        places.add(root / "etc")
    for place in sorted(places):
        there = next(parent for parent in (place, *place.parents) if parent.exists())
        if os.statvfs(there).f_flag & os.ST_RDONLY:
            mount = mount_of(there.resolve()).point
            raise HostError(
                f"{mount} is mounted read-only, and files are to be made in {place}",
                hint=f"mount -o remount,rw {mount}; where /usr stays read-only by design, run a server of your own: "
                "pgbake up",
            )


def selinux_problem(root: Path = Path("/"), system: Path = Path("/sys/fs/selinux")) -> tuple[str, str] | None:
    """Return what SELinux forbids, and what to type; None where it is not enforcing, or ``/nix`` is labelled.

    :param system: where the kernel tells of SELinux.
    """
    try:
        if (system / "enforce").read_text().strip() != "1":
            return None
    except OSError:
        return None
    place = root / "nix"
    label = ""
    with suppress(OSError):
        label = os.getxattr(place, "security.selinux").decode(errors="replace").rstrip("\0")
    kind = label.split(":")[2] if label.count(":") >= 2 else ""
    if place.exists() and kind and kind not in _UNLABELLED:
        return None
    return (
        f"SELinux is enforcing, and {place} is {'labelled ' + kind if kind else 'not labelled'}: systemd may not start "
        "programs from there",
        "label it as /usr is: mkdir -p /nix && semanage fcontext -a -e /usr /nix && restorecon -R /nix",
    )


def require_selinux(root: Path) -> None:
    """Check that SELinux lets a service run programs from ``/nix``.

    :raises HostError: it does not.
    """
    if root == Path("/") and (problem := selinux_problem()) is not None:
        raise HostError(problem[0], hint=problem[1])


def require_data(root: Path, cluster: Cluster, ours: bool, adopt: bool) -> None:
    """Check that a cluster's data directory is none, or of the same major version and known to us.

    :param ours: the cluster is one that pgbake has made.
    :raises ServerError: it is another's.
    """
    data = below(root, cluster.data)
    if not is_cluster(data, cluster.major):
        return
    if stat.S_IMODE(data.stat().st_mode) & 0o027:
        raise ServerError(f"{data} is open to others", hint=f"chmod 0700 {data}")
    if not (ours or adopt):
        raise ServerError(
            f"{data} holds data of a PostgreSQL {cluster.major} that pgbake did not make",
            hint="--adopt takes it over as it is, with its configuration; make a backup first. Or name another "
            "cluster with --cluster",
        )


def require_port(cluster: Cluster, known: Iterable[Cluster]) -> None:
    """Check that nobody listens where a new cluster's server is to.

    :raises ServerError: somebody does.
    """
    for other in known:
        if other.port == cluster.port and other.label != cluster.label:
            raise ServerError(
                f"port {cluster.port} belongs to the cluster {other.label}", hint="name another with --port"
            )
    hint = f"stop that server, or name another port with --port: {cluster.port + 1}"
    with socket.socket(socket.AF_UNIX) as probe:
        try:
            probe.connect(f"/run/postgresql/.s.PGSQL.{cluster.port}")
            raise ServerError(f"a server runs on port {cluster.port} already, at its socket", hint=hint)
        except OSError:
            pass
    from pgbake.bundle.server import choose_port

    try:
        choose_port(cluster.port)
    except ServerError as error:
        raise ServerError(f"a server runs on port {cluster.port} already", hint=hint) from error


def used_ports(root: Path) -> set[int]:
    """Return the ports that configurations of the tree's clusters name, whoever made them."""
    import re

    found: set[int] = set()
    for file in below(root, "/etc/postgresql").glob("*/*/postgresql.conf"):
        with suppress(OSError):
            for line in re.findall(r"^\s*port\s*=?\s*'?(\d+)", file.read_text(errors="replace"), re.MULTILINE):
                found.add(int(line))
    return found
