"""How a derivation enters its build root, so that any stock Nix can build it.

Nix runs a derivation's builder with nothing but the store in view. pgbake's builds want a Debian tree
as their ``/``. So the builder is the build root's own dynamic loader, which starts the root's ``bash``,
which runs :data:`WRAPPER`: it starts the root's bubblewrap with the root mounted at ``/``, and that runs
the derivation's ``script``. Within it a build finds::

    /            the build root, read-only          /build   its directory, empty, writable
    /nix/store   its inputs, and room for outputs   /tmp     empty, in memory

and the environment of the derivation, as uid 1000 ("build") without network on host "localhost".

The local engine recognises the wrapper and performs it in one sandbox of its own, with an equal result.
"""

from __future__ import annotations

from dataclasses import dataclass

from pgbake.formats.derivation import Derivation
from pgbake.formats.storepath import StorePath
from pgbake.formats.system import SYSTEMS, System

BUILD_DIR = "/build"

#: Namespaces and mounts, in bubblewrap's options; both engines use these.
NAMESPACES = ("--unshare-pid", "--unshare-ipc", "--unshare-uts", "--unshare-net")
MOUNT_OPTIONS = ("--dev", "/dev", "--proc", "/proc", "--tmpfs", "/tmp", "--chdir", BUILD_DIR)


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a build sees of the machine that it runs on, and must not let into its outputs.

    The values here are those of every build. A second build with others shows whether it keeps to that
    (`pgbake.build.rebuild`).
    """

    uid: int = 1000
    gid: int = 100
    hostname: str = "localhost"
    timezone: str = "UTC"
    umask: int = 0o022
    #: How many more cores it is told of than it may use.
    more_cores: int = 0

    @property
    def environment(self) -> dict[str, str]:
        """What a build's environment holds beside the derivation's own variables."""
        return {
            "HOME": BUILD_DIR,
            "LC_ALL": "C",
            "PATH": "/usr/bin:/usr/sbin",
            "SHELL": "/bin/sh",
            "TMPDIR": "/tmp",
            "TZ": self.timezone,
            "USER": "build",
        }

    @property
    def user_namespace(self) -> tuple[str, ...]:
        """bubblewrap's options for a namespace in which the build has its uid."""
        return (
            "--unshare-user", *NAMESPACES,
            "--uid", str(self.uid), "--gid", str(self.gid), "--hostname", self.hostname, "--die-with-parent",
        )  # fmt: skip

    @property
    def command(self) -> tuple[str, ...]:
        """The command that performs a derivation's script inside its build root."""
        return ("/usr/bin/bash", "-euo", "pipefail", "-c", f'umask {self.umask:03o}; eval "$script"')


#: Those of every build.
USUAL = Surroundings()

#: What Nix sets beyond that and a build must not see, since its value depends on the engine.
_UNSET = (
    "NIX_BUILD_TOP",
    "NIX_LOG_FD",
    "NIX_STORE",
    "OLDPWD",
    "PWD",
    "SHLVL",
    "TEMP",
    "TEMPDIR",
    "TERM",
    "TMP",
    "_",
)

WRAPPER = "\n".join(
    (
        "lib=$buildRoot/usr/lib/$triplet",
        'exec "$lib/$loader" --library-path "$lib" "$buildRoot/usr/bin/bwrap" \\',
        "  " + " ".join(USUAL.user_namespace) + " \\",
        '  --ro-bind "$buildRoot" / --bind /nix/store /nix/store --bind "$NIX_BUILD_TOP" /build \\',
        "  " + " ".join(MOUNT_OPTIONS) + " \\",
        "  " + " ".join(f"--unsetenv {name}" for name in _UNSET) + " \\",
        "  " + " ".join(f"--setenv {name} {value}" for name, value in USUAL.environment.items()) + " \\",
        "  " + " ".join(USUAL.command[:-1]) + f" '{USUAL.command[-1]}'",
    )
)


@dataclass(frozen=True, slots=True)
class Wrapped:
    """A derivation of pgbake's form, taken apart."""

    derivation: Derivation
    build_root: StorePath


def wrap(
    name: str,
    system: System,
    build_root: StorePath,
    script: str,
    *,
    outputs: tuple[str, ...],
    env: dict[str, str],
) -> tuple[str, tuple[str, ...], dict[str, str]]:
    """Return builder, arguments and environment of a derivation that performs ``script`` in ``build_root``.

    The environment still lacks the outputs' paths, which follow from it.
    """
    libraries = f"{build_root}/usr/lib/{system.triplet}"
    builder = f"{libraries}/{system.loader}"
    args = ("--library-path", libraries, f"{build_root}/usr/bin/bash", "-euc", WRAPPER)
    environment = {
        **env,
        "buildRoot": str(build_root),
        "builder": builder,
        "loader": system.loader,
        "name": name,
        "outputs": " ".join(outputs),
        "script": script,
        "system": system.name,
        "triplet": system.triplet,
    }
    return builder, args, environment


def unwrap(derivation: Derivation) -> Wrapped | None:
    """Recognise a derivation that :func:`wrap` made, or return None."""
    system = SYSTEMS.get(derivation.system)
    roots = [path for path in derivation.input_srcs if str(path) == derivation.env.get("buildRoot")]
    if system is None or not roots:
        return None
    (build_root,) = roots
    expected = wrap(derivation.name, system, build_root, "", outputs=(), env={})
    if (derivation.builder, derivation.args) != expected[:2]:
        return None
    return Wrapped(derivation, build_root)
