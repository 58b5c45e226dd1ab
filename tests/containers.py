"""A container engine and a registry for tests, unpacked and not installed: Debian's podman, skopeo and docker-registry.

They run in a mount namespace whose root is a tree of `tests.debian`, with storage of its own; what is in ``directory``
lies at the same path there. Their network is their own, too; processes are the machine's.
"""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from tests.debian import HOST, debian_tree

_PACKAGES = (
    *HOST, "aardvark-dns", "ca-certificates", "conmon", "crun", "docker-registry", "iptables", "netavark", "podman",
    "skopeo",
)  # fmt: skip
#: Podman asks for more than a machine may be allowed to give; and without systemd its health checks have no timer.
_LIMITS = ("--ulimit", "nofile=1024:1024", "--ulimit", "nproc=4096:4096")

_APART = ("unshare", "--mount", "--net", "--propagation", "private")
#: Makes the root, tells so, and stays. Cgroups of both versions at once are more than podman understands.
_ENTER = """
set -e
ip link set lo up
umount /sys/fs/cgroup/unified 2> /dev/null || true
mkdir -p "$2/upper" "$2/work" "$2/root" "$2/storage"
mount -t overlay overlay -o "lowerdir=$1,upperdir=$2/upper,workdir=$2/work" "$2/root"
cd "$2/root"
mkdir -p proc sys dev run tmp var/lib/containers ".$2" old
for name in proc sys dev; do mount --rbind "/$name" "$name"; done
mount --bind "$2" ".$2"
mount --bind "$2/storage" var/lib/containers
mount -t tmpfs tmpfs run
mount -t tmpfs tmpfs tmp
mkdir -p etc/containers
for name in iptables ip6tables; do ln -sf "$name-nft" "usr/sbin/$name"; done
printf '[network]\nnetwork_backend = "netavark"\n' > etc/containers/containers.conf
pivot_root . old
echo ready
exec sleep infinity
"""


class ContainerError(AssertionError):
    """A command of the engine's has failed."""


@dataclass
class Engine:
    """The engine.

    :param directory: on a real file system: overlays lie on it.
    """

    directory: Path
    _holder: subprocess.Popen[str] = field(init=False)

    def __enter__(self) -> Engine:
        tree = debian_tree("bookworm", _PACKAGES)
        self._holder = subprocess.Popen(
            [*_APART, "bash", "-c", _ENTER, "-", tree, self.directory],
            stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        assert self._holder.stdout is not None
        if self._holder.stdout.readline() != "ready\n":
            raise ContainerError("the engine's root could not be made")
        return self

    def __exit__(self, *_exc: object) -> None:
        with suppress(ContainerError):
            self.podman("rm", "--all", "--force", "--time", "0", "--volumes")
        self._holder.kill()
        self._holder.wait()

    def inside(self, *command: str) -> list[str]:
        """Return the command that runs another one where the engine is."""
        # Without the caller's environment: engines read a good part of it.
        words = ["env", "-i", "PATH=/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root"]
        return ["nsenter", f"--target={self._holder.pid}", "--mount", "--net", "--", *words, *command]

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run a program of the engine's."""
        done = subprocess.run(
            self.inside(*command), stdin=subprocess.DEVNULL, capture_output=True, text=True, check=False
        )
        if check and done.returncode != 0:
            raise ContainerError(f"{' '.join(command)}: exit {done.returncode}\n{done.stdout}\n{done.stderr}")
        return done

    def podman(self, *args: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """Run podman."""
        return self.run("podman", "--log-level=fatal", *args, check=check)

    def skopeo(self, *args: str) -> str:
        """Run skopeo, and return what it prints."""
        return self.run("skopeo", "--insecure-policy", *args).stdout

    def load(self, layout: Path, name: str, into: str) -> None:
        """Take an image of a layout into the engine, in Docker's form, which has health checks."""
        self.skopeo("copy", "--format", "v2s2", f"oci:{layout}:{name}", f"containers-storage:{into}")

    def skopeo_for(self, directory: Path) -> Path:
        """Write a program ``skopeo`` for others to call, and return the directory that it is in."""
        directory.mkdir(exist_ok=True)
        program = directory / "skopeo"
        program.write_text(f'#!/bin/sh\nexec {" ".join(self.inside("skopeo"))} "$@"\n')
        program.chmod(0o755)
        return directory

    @contextmanager
    def container(
        self, image: str, *command: str, environment: Mapping[str, str] | None = None, options: Sequence[str] = ()
    ) -> Iterator[Container]:
        """Start a container in the background, without network unless the options say otherwise, and remove it."""
        network = () if any(option.startswith("--network") for option in options) else ("--network=none",)
        words = [word for name, value in (environment or {}).items() for word in ("--env", f"{name}={value}")]
        started = self.podman("run", "--detach", *_LIMITS, *network, *words, *options, image, *command)
        container = Container(self, started.stdout.strip())
        try:
            yield container
        finally:
            self.podman("rm", "--force", "--time", "0", "--volumes", container.id)


@dataclass(frozen=True)
class Container:
    """A container of the engine's."""

    engine: Engine
    id: str

    @property
    def log(self) -> str:
        """All that it has printed."""
        done = self.engine.podman("logs", self.id)
        return done.stdout + done.stderr

    def exec(self, *command: str, check: bool = True, user: str = "0") -> str:
        """Run a program in it, and return what it prints."""
        return self.engine.podman("exec", "--user", user, self.id, *command, check=check).stdout

    def ask(self, statement: str, *options: str, user: str = "0") -> str:
        """Run a statement as the superuser, and return the answer."""
        return self.exec("psql", "-XAtq", "-v", "ON_ERROR_STOP=1", *options, "-c", statement, user=user).strip()

    @property
    def running(self) -> bool:
        """Whether its first program runs."""
        return self.engine.podman("inspect", "--format", "{{.State.Running}}", self.id).stdout.strip() == "true"

    @property
    def status(self) -> int:
        """The exit status of its first program, which is waited for."""
        return int(self.engine.podman("wait", self.id).stdout)

    def await_server(self, limit: float = 120) -> Container:
        """Wait until the server is there for good: its first start is through."""
        end = time.monotonic() + limit
        while self.engine.podman("exec", self.id, "/usr/lib/pgbake/healthcheck", check=False).returncode != 0:
            if time.monotonic() > end or not self.running:
                raise ContainerError(f"no server in the container:\n{self.log}")
            time.sleep(0.1)
        return self

    def start(self) -> None:
        """Start it once more."""
        self.engine.podman("start", self.id)

    def stop(self) -> None:
        """Stop it as the image wants to be stopped."""
        self.engine.podman("stop", "--time", "60", self.id)


@contextmanager
def registry(engine: Engine) -> Iterator[str]:
    """Run a registry on the engine's loopback, without TLS, and give its HOST:PORT."""
    address = "127.0.0.1:5000"
    place = engine.directory / "registry"
    place.mkdir(exist_ok=True)
    config = place / "config.yml"
    config.write_text(
        f"version: 0.1\nlog: {{level: error}}\nstorage: {{filesystem: {{rootdirectory: {place}/data}}}}\n"
        f"http: {{addr: '{address}'}}\n"
    )
    with (place / "log").open("w") as log:
        server = subprocess.Popen(
            engine.inside("docker-registry", "serve", str(config)), stdout=log, stderr=log, stdin=subprocess.DEVNULL
        )
    try:
        for _ in range(200):
            if engine.run("bash", "-c", f"exec 3<>/dev/tcp/{address.replace(':', '/')}", check=False).returncode == 0:
                break
            assert server.poll() is None, (place / "log").read_text()
            time.sleep(0.05)
        yield address
    finally:
        server.terminate()
        server.wait()


def may_run_containers() -> bool:
    """Whether this process may make what containers are made of."""
    return os.geteuid() == 0
