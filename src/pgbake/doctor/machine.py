"""The machine itself: system, Python, programs, cores, memory, shared memory, clock, this user."""

from __future__ import annotations

import os
import platform
import pwd
import re
import shutil
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import pgbake
from pgbake.doctor.finding import Finding, ok, problem, warning
from pgbake.errors import PgbakeError
from pgbake.formats.system import host_system
from pgbake.inputs.apt import DEBIAN_KEYRING
from pgbake.run import OPTIONAL_PROGRAMS, PACKAGE_OF_PROGRAM, run

#: A compiler at work on PostgreSQL's largest files, and unpacking beside it, want as much (bytes).
_MEMORY = 1_000_000_000
#: What PostgreSQL's parallel queries of a small server use of /dev/shm (bytes); Docker gives 64 MiB.
_SHARED_MEMORY = 128 * 1024 * 1024


def examine_machine() -> Iterator[Finding]:
    """Look at what does not depend on where pgbake's files lie."""
    yield _system()
    yield ok("python", f"{platform.python_version()} ({platform.python_implementation()})")
    yield _memory(Path("/proc/meminfo"))
    yield _shared_memory(Path("/dev/shm"))
    yield _clock()
    yield _user()
    yield from _selinux()


def _selinux() -> Iterator[Finding]:
    """Tell what SELinux forbids to a service that runs from ``/nix``; nothing where there is no SELinux."""
    from pgbake.install.host import selinux_problem

    found = selinux_problem()
    if found is not None:
        yield warning("selinux", found[0], found[1])


def examine_programs(path: str | None = None) -> Iterator[Finding]:
    """Look for the programs that pgbake calls, in ``path`` or else in PATH, and for Debian's keys."""
    missing: dict[str, list[str]] = {}
    for program, package in PACKAGE_OF_PROGRAM.items():
        if shutil.which(program, path=path) is None:
            missing.setdefault(package, []).append(program)
    for package in dict.fromkeys(PACKAGE_OF_PROGRAM.values()):
        if package in missing:
            programs = ", ".join(missing[package])
            if uses := [OPTIONAL_PROGRAMS[name] for name in missing[package] if name in OPTIONAL_PROGRAMS]:
                yield ok(package, f"not installed; only {' and '.join(uses)} needs it")
                continue
            yield problem(package, f"not installed: {programs}", f"as root: apt-get install {package}")
        elif package == "bubblewrap":
            yield _bubblewrap(Path(str(shutil.which("bwrap", path=path))))
        else:
            yield ok(package, ", ".join(p for p, owner in PACKAGE_OF_PROGRAM.items() if owner == package))
    if DEBIAN_KEYRING.is_file():
        yield ok("debian-archive-keyring", str(DEBIAN_KEYRING))
    else:
        yield warning(
            "debian-archive-keyring",
            f"{DEBIAN_KEYRING} is missing: `pgbake lock` cannot verify what Debian has signed",
            "as root: apt-get install debian-archive-keyring",
        )


def _system() -> Finding:
    kernel = f"Linux {platform.release()}"
    try:
        return ok("system", f"{host_system()}, {kernel}")
    except PgbakeError as error:
        return problem("system", error.message, error.hint)


def _bubblewrap(program: Path) -> Finding:
    try:
        version = run([str(program), "--version"], sandbox="host").stdout.strip()
    except (PgbakeError, OSError) as error:
        return problem(
            "bubblewrap", f"{program} does not run: {error}", "as root: apt-get install --reinstall bubblewrap"
        )
    if program.stat().st_mode & 0o4000:
        return warning(
            "bubblewrap",
            f"{version} at {program}, which is setuid root: it then refuses some namespaces, and may be refused itself",
            f"where the kernel allows user namespaces, as root: chmod u-s {program}",
        )
    return ok("bubblewrap", f"{version.removeprefix('bubblewrap ')} at {program}")


def _memory(meminfo: Path) -> Finding:
    fields = _fields(meminfo.read_text())
    total = int(fields.get("MemTotal", "0 kB").split()[0]) * 1024
    limit = total
    for file in (Path("/sys/fs/cgroup/memory.max"), Path("/sys/fs/cgroup/memory/memory.limit_in_bytes")):
        try:
            text = file.read_text().strip()
        except OSError:
            continue
        if text.isdecimal():
            limit = min(limit, int(text))
    cores = len(os.sched_getaffinity(0))
    found = f"{cores} cores, {limit / 1e9:.1f} GB of memory"
    if limit < _MEMORY:
        return warning("memory", f"{found}: a build may be killed for want of it", "build with fewer cores: --cores 1")
    return ok("memory", found)


def _shared_memory(directory: Path) -> Finding:
    """PostgreSQL keeps the shared memory of parallel queries there."""
    try:
        file = directory / f"pgbake-doctor-{os.getpid()}"
        with file.open("wb") as stream:
            try:
                os.posix_fallocate(stream.fileno(), 0, 1 << 20)
            finally:
                file.unlink()
        status = os.statvfs(directory)
    except OSError as error:
        return warning(
            str(directory),
            f"cannot be written: {error.strerror}; servers then keep their shared memory in files, which is slow",
            f"as root: mount -t tmpfs -o mode=1777 tmpfs {directory}",
        )
    size = status.f_blocks * status.f_frsize
    if size < _SHARED_MEMORY:
        return warning(
            str(directory),
            f"has {size / 1e6:.0f} MB: parallel queries may fail for want of it",
            f"as root: mount -o remount,size=1G {directory}; for a container: --shm-size=1g",
        )
    return ok(str(directory), f"{size / 1e9:.1f} GB")


def _clock() -> Finding:
    """A clock that is behind makes signed indexes "not valid yet", and certificates too."""
    now = time.time()
    shown = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    installed = Path(pgbake.__file__).stat().st_mtime
    if now < installed - 86400:
        return warning("clock", f"{shown}, before pgbake was installed", "set it: as root: timedatectl set-ntp true")
    return ok("clock", shown)


def _user() -> Finding:
    uid = os.geteuid()
    try:
        name = pwd.getpwuid(uid).pw_name
    except KeyError:
        return warning(
            "user",
            f"uid {uid} has no name in /etc/passwd, and PostgreSQL refuses to run as such a user",
            f"as root: useradd --uid {uid} NAME",
        )
    return ok("user", f"{name} (uid {uid})")


def _fields(text: str) -> Mapping[str, str]:
    """Return the ``Name: value`` lines of a file in /proc."""
    return dict(re.findall(r"^(\w+):\s*(.*)$", text, re.MULTILINE))
