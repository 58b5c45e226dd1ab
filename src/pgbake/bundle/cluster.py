"""A data directory, a *cluster* in PostgreSQL's words: whether it is made, whose it is, and which server runs on it.

What runs is read off PostgreSQL's own ``postmaster.pid``: its first line is the server's pid, its last one how far
the server has come (``starting``, ``ready``, ``stopping``; ``src/include/utils/pidfile.h``).
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import time
from collections.abc import Mapping
from pathlib import Path

from pgbake.bundle.receipt import Receipt
from pgbake.errors import ServerError
from pgbake.files import write_whole
from pgbake.run import state_of
from pgbake.store.local import remove_tree

SUPERUSER = "postgres"


def postmaster(data: Path) -> int | None:
    """Return the pid of the server that runs on a data directory, as its postmaster.pid tells, or None."""
    try:
        pid = int((data / "postmaster.pid").read_text().splitlines()[0])
        # The file outlives a killed server, and its pid may be another program's by now.
        running = Path(f"/proc/{pid}/cwd").readlink()
    except PermissionError:
        return pid
    except (OSError, ValueError, IndexError):
        return None
    return pid if running == data else None


def await_burial(data: Path) -> None:
    """Wait while the last server of a data directory is dead but not yet reaped by its parent.

    PostgreSQL takes its pid, which still exists, for a running server.
    """
    deadline = time.monotonic() + 15
    while time.monotonic() < deadline:
        try:
            pid = int((data / "postmaster.pid").read_text().split()[0])
        except (OSError, ValueError, IndexError):
            return
        if state_of(pid) != "Z":
            return
        time.sleep(0.1)


def remove_empty_pid_file(data: Path) -> None:
    """Remove the postmaster.pid of a server that was killed before it had written its pid into it.

    PostgreSQL would not start: it cannot tell that file from one that is about to be written. But a server that
    is about to write it has gone to its data directory before.
    """
    file = data / "postmaster.pid"
    with contextlib.suppress(FileNotFoundError):
        if file.stat().st_size == 0 and not any(_is_server(pid, data) for pid in Path("/proc").glob("[0-9]*")):
            file.unlink()


def _is_server(process: Path, data: Path) -> bool:
    try:
        return (process / "comm").read_text().startswith("postgres") and (process / "cwd").readlink() == data
    except OSError:  # it has ended, or is another user's, who could not start a server here
        return False


def await_ready(data: Path) -> None:
    """Wait while a server is on its way up or down, as the last line of its postmaster.pid tells."""
    deadline = time.monotonic() + 120
    while postmaster(data) is not None and time.monotonic() < deadline:
        try:
            if (data / "postmaster.pid").read_text().split()[-1:] in (["ready"], ["standby"]):
                return
        except PermissionError:  # another user's, who alone can tell
            return
        except OSError:
            pass
        time.sleep(0.1)


def clear(directory: Path) -> None:
    """Remove what an initdb left, whose own children may be writing to it for a moment more."""
    deadline = time.monotonic() + 5
    while True:
        try:
            remove_tree(directory)
            return
        except OSError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)


def server_user(data: Path) -> int | None:
    """Return the uid that a server runs as when root starts it, since PostgreSQL refuses to run as root.

    :raises ServerError: root owns the data directory.
    """
    if os.geteuid() != 0:
        return None
    if data.exists() and any(data.iterdir()):
        owner = data.stat().st_uid
        if owner == 0:
            raise ServerError(
                f"{data} belongs to root, and PostgreSQL does not run as root",
                hint="give it to another user with chown -R, or name another directory with --data",
            )
        return owner
    return default_user()


def default_user() -> int | None:
    """Return as whom a new server runs: when root starts it, another user than root; else None, the caller."""
    if os.geteuid() != 0:
        return None
    if (sudo := os.environ.get("SUDO_UID", "0")) != "0":
        return int(sudo)
    for name in (SUPERUSER, "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_uid
    return 65534


def is_cluster(data: Path, major: int) -> bool:
    """Whether a data directory is made already; False means that it is absent or empty.

    :raises ServerError: it is another major's, or holds something else.
    """
    try:
        version = (data / "PG_VERSION").read_text().strip()
    except PermissionError:
        raise ServerError(f"you may not read {data}", hint="name a directory of your own with --data") from None
    except (FileNotFoundError, NotADirectoryError):
        if data.exists() and (not data.is_dir() or any(data.iterdir())):
            raise ServerError(
                f"{data} is not empty and is no data directory of PostgreSQL", hint="name another with --data"
            ) from None
        return False
    if version != str(major):
        raise ServerError(
            f"{data} was made by PostgreSQL {version}; this bundle is PostgreSQL {major}",
            hint=f"use a bundle of PostgreSQL {version}, or another directory with --data",
        )
    return True


def overridden(receipt: Receipt, settings: Mapping[str, str]) -> list[str]:
    """Return what the manifest's settings take away from what extensions of the bundle need, in words.

    :param settings: of the manifest; they win over the receipt's.
    """
    found = []
    for name, value in receipt.settings.items():
        if name in settings and settings[name] != value:
            found.append(f"the manifest sets {name} = {settings[name]}, where extensions of the bundle need {value}")
    if "shared_preload_libraries" in settings:
        loaded = {library.strip(' "') for library in settings["shared_preload_libraries"].split(",")}
        missing = [library for library in receipt.preload if library not in loaded]
        if missing:
            found.append(
                f"the manifest's shared_preload_libraries lacks {', '.join(missing)}, without which extensions of the "
                "bundle do not work"
            )
    return found


def write_settings(data: Path, receipt: Receipt, port: int, settings: Mapping[str, str], user: int | None) -> None:
    """Write ``pgbake.conf``, which the cluster's ``postgresql.conf`` includes.

    :param settings: of the manifest; they win over the receipt's.
    :param user: whom the file is to belong to; None for the caller.
    """
    values = {
        "port": str(port),
        "listen_addresses": "localhost",
        "unix_socket_directories": str(data),
        "shared_preload_libraries": ",".join(receipt.preload),
        **receipt.settings,
        **settings,
    }
    lines = ["# Written by `pgbake up` at each start, from the bundle's receipt and the manifest's [settings]."]
    lines += [f"{name} = '{value.replace(chr(39), chr(39) * 2)}'" for name, value in values.items()]
    file = data / "pgbake.conf"
    write_whole(file, ("\n".join(lines) + "\n").encode())
    if user is not None:
        shutil.chown(file, user)
