"""What the package of a whole bundle has beside the bundle: the paths and units that Debian's users expect.

Paths, accounts, names of programs and what a server's unit says are those of the one machine definition
(`pgbake.machine`), with the package's own prefix in place of a profile. Accounts and directories are declared for
systemd-sysusers and systemd-tmpfiles; the package's maintainer scripts only start these two. They must, since Debian's
systemd has dpkg triggers for neither (of its files, bookworm's watches ``binfmt.d`` and its message catalogue).
"""

from __future__ import annotations

from dataclasses import dataclass
from importlib import resources

from pgbake.machine.definition import filled, render, sysusers, tmpfiles

#: Debian's packages that have files below the conventional paths; all others with such files depend on one of them.
DEBIANS_PACKAGES = ("postgresql-{major}", "postgresql-client-{major}", "postgresql-server-dev-{major}",
                    "postgresql-doc-{major}")  # fmt: skip

#: Who brings the programs that make accounts and directories.
SYSUSERS = "systemd | systemd-standalone-sysusers | systemd-sysusers"
TMPFILES = "systemd | systemd-standalone-tmpfiles | systemd-tmpfiles"


@dataclass(frozen=True, slots=True)
class Conventions:
    """Paths of one major version, all absolute.

    :param directories: that the package owns, so that they go with it when they are empty.
    :param links: path to where it leads.
    :param files: path to content and mode.
    """

    directories: tuple[str, ...]
    links: dict[str, str]
    files: dict[str, tuple[bytes, int]]
    scripts: dict[str, str]


def prefix(major: int) -> str:
    """Return the directory that the bundle lies in."""
    return f"/usr/lib/pgbake/postgresql-{major}"


def unit(major: int) -> str:
    """Return the template unit's name up to its ``@``."""
    return f"pgbake-postgresql-{major}"


def conventions(major: int, locale: str, settings: str) -> Conventions:
    """Return what a package of a bundle has beside it.

    :param locale: of new clusters.
    :param settings: lines of postgresql.conf that the bundle's extensions need.
    """
    name = unit(major)
    values = {
        "major": str(major), "locale": locale, "prefix": prefix(major), "unit": name, "cluster": "%i",
    }  # fmt: skip
    parts = render([major], (), None).parts
    directories = [part for part in parts if part.kind == "directory"]
    links = {part.path: part.target for part in parts if part.kind == "link"}
    return Conventions(
        # What begins empty at each boot, or belongs to all versions, goes with nobody; the logs' directory is shared.
        directories=tuple(
            part.path for part in directories if not part.runtime and (part.major or part.owner == "root")
        ),
        links={
            path: prefix(major) + target.removeprefix(server)
            for path, target in links.items()
            if target.startswith(server := f"/nix/var/pgbake/profiles/{major}/current/server")
        },
        files={
            f"/usr/lib/sysusers.d/{name}.conf": (sysusers().encode(), 0o644),
            f"/usr/lib/tmpfiles.d/{name}.conf": (
                "".join(f"{line}\n" for line in tmpfiles(directories)).encode(),
                0o644,
            ),
            # Debian 12 still keeps units outside /usr, by name; the directory is the same one.
            f"/lib/systemd/system/{name}@.service": (_filled("server.service", values), 0o644),
            f"{prefix(major)}/lib/pgbake/make-cluster": (_filled("make-cluster", values), 0o755),
            f"{prefix(major)}/settings.conf": (settings.encode(), 0o644),
        },
        scripts=_scripts(name),
    )


def program_links(major: int) -> dict[str, str]:
    """Return the links in /usr/bin, and where each leads."""
    parts = render([major], (), major).parts
    return {part.path: part.target for part in parts if part.kind == "link" and part.path.startswith("/usr/bin/")}


def _filled(name: str, values: dict[str, str]) -> bytes:
    return filled((resources.files("pgbake.debs") / "files" / name).read_text(encoding="utf-8"), values).encode()


def _scripts(name: str) -> dict[str, str]:
    """Return the maintainer scripts: what debhelper's dh_installsysusers, -tmpfiles and -systemd would add, no more."""
    services = f"'{name}@*.service'"
    return {
        "postinst": f"""\
#!/bin/sh
set -e
case "$1" in configure | abort-upgrade | abort-deconfigure | abort-remove)
  systemd-sysusers ${{DPKG_ROOT:+--root="$DPKG_ROOT"}} {name}.conf
  systemd-tmpfiles ${{DPKG_ROOT:+--root="$DPKG_ROOT"}} --create {name}.conf
  if [ -z "${{DPKG_ROOT:-}}" ] && [ -d /run/systemd/system ]; then
    systemctl --system daemon-reload >/dev/null || true
    # Servers that run have lost the files that they would load.
    if [ -n "$2" ]; then deb-systemd-invoke try-restart {services} >/dev/null || true; fi
  fi
  ;;
esac
""",
        "prerm": f"""\
#!/bin/sh
set -e
if [ -z "${{DPKG_ROOT:-}}" ] && [ "$1" = remove ] && [ -d /run/systemd/system ]; then
  deb-systemd-invoke stop {services} >/dev/null || true
fi
""",
        "postrm": f"""\
#!/bin/sh
set -e
if [ "$1" = purge ]; then
  rm -f "${{DPKG_ROOT:-}}"/etc/systemd/system/*.wants/{name}@*.service
fi
if [ -z "${{DPKG_ROOT:-}}" ] && [ "$1" = remove ] && [ -d /run/systemd/system ]; then
  systemctl --system daemon-reload >/dev/null || true
fi
""",
    }
