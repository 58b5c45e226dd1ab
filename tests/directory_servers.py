"""An LDAP server and a Kerberos KDC of Debian's, unpacked, in a network of a test's own; and certificates."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.debian import debian_tree
from tests.empty_root import enter

PACKAGES = ("krb5-admin-server", "krb5-kdc", "krb5-user", "openssl", "slapd")
LDAP_PORT, LDAPS_PORT, KDC_PORT = 3890, 6360, 8888

#: libldap takes "localhost" for the machine's own name in a certificate; so its server has another one.
LDAP_HOST = "ldap.example.test"
PASSWORD = "lovelace"

SLAPD = f"""\
include /etc/ldap/schema/core.schema
include /etc/ldap/schema/cosine.schema
modulepath /usr/lib/ldap
moduleload back_mdb
pidfile /tmp/slapd.pid
argsfile /tmp/slapd.args
TLSCertificateFile /tmp/server.pem
TLSCertificateKeyFile /tmp/server.key
database mdb
suffix "dc=example,dc=test"
rootdn "cn=admin,dc=example,dc=test"
rootpw {PASSWORD}
directory /tmp/ldap
"""
KDC = f"""\
[libdefaults]
    default_realm = EXAMPLE.TEST
    udp_preference_limit = 1
[realms]
    EXAMPLE.TEST = {{
        kdc = 127.0.0.1:{KDC_PORT}
        database_name = /tmp/principal
        key_stash_file = /tmp/stash
        kdc_listen = ""
        kdc_tcp_listen = 127.0.0.1:{KDC_PORT}
    }}
"""


class Servers:
    """Programs of the tree, which see a directory of the test's at /tmp and its network.

    :param tmp: the directory.
    :param network: the process that keeps the network.
    """

    def __init__(self, tmp: Path, network: int) -> None:
        self.tmp = tmp
        self.network = network
        self.tree = debian_tree("bookworm", PACKAGES)

    def command(self, *argv: str) -> list[str]:
        """Return the command that runs a program."""
        # fmt: off
        return [
            *enter(self.network), "bwrap", "--unshare-user", "--uid", "1000", "--gid", "1000", "--unshare-pid",
            "--die-with-parent", "--clearenv", "--ro-bind", str(self.tree), "/", "--proc", "/proc", "--dev", "/dev",
            "--bind", str(self.tmp), "/tmp", "--setenv", "KRB5_CONFIG", "/tmp/kdc.conf",
            "--setenv", "KRB5_KDC_PROFILE", "/tmp/kdc.conf", "--setenv", "PATH", "/usr/sbin:/usr/bin", "--", *argv,
        ]
        # fmt: on

    def run(self, *argv: str, stdin: str | None = None) -> None:
        """Run a program to its end."""
        done = subprocess.run(self.command(*argv), input=stdin, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{argv}: {done.stdout}{done.stderr}"

    def make_certificates(self) -> None:
        """Write an authority (``ca.pem``), one that signed nothing (``wrong.pem``), and a server's certificate."""
        new = (
            "openssl",
            "req",
            "-x509",
            "-newkey",
            "ec",
            "-pkeyopt",
            "ec_paramgen_curve:P-256",
            "-nodes",
            "-days",
            "9",
        )
        for name in ("ca", "wrong"):
            self.run(*new, "-keyout", f"/tmp/{name}.key", "-out", f"/tmp/{name}.pem", "-subj", f"/CN={name}")
        self.run(
            *new, "-keyout", "/tmp/server.key", "-out", "/tmp/server.pem", "-subj", "/CN=localhost",
            "-CA", "/tmp/ca.pem", "-CAkey", "/tmp/ca.key", "-addext", f"subjectAltName=DNS:localhost,DNS:{LDAP_HOST}",
            "-addext", "basicConstraints=critical,CA:FALSE",
        )  # fmt: skip

    @contextmanager
    def running(self, port: int, *argv: str) -> Iterator[None]:
        """Run a server, once it answers at a port of the network, until the end."""
        with (self.tmp / "server.log").open("a") as log, subprocess.Popen(
            self.command(*argv), stdin=subprocess.DEVNULL, stdout=log, stderr=log
        ) as server:  # fmt: skip
            try:
                connect = f"import socket; socket.create_connection(('127.0.0.1', {port}))"
                probe = [*enter(self.network), sys.executable, "-c", connect]
                deadline = time.monotonic() + 20
                while subprocess.run(probe, check=False, capture_output=True).returncode != 0:
                    assert server.poll() is None and time.monotonic() < deadline, (self.tmp / "server.log").read_text()
                    time.sleep(0.05)
                yield
            finally:
                server.kill()

    @contextmanager
    def ldap(self, *users: str) -> Iterator[None]:
        """Run slapd with users, all of `PASSWORD`; it shows the certificate of `make_certificates`."""
        (self.tmp / "ldap").mkdir()
        (self.tmp / "slapd.conf").write_text(SLAPD)
        entries = ["dn: dc=example,dc=test\nobjectClass: domain\ndc: example\n"]
        entries += [
            f"dn: uid={user},dc=example,dc=test\nobjectClass: account\nobjectClass: simpleSecurityObject\nuid: {user}\n"
            f"userPassword: {PASSWORD}\n"
            for user in users
        ]
        self.run("slapadd", "-f", "/tmp/slapd.conf", stdin="\n".join(entries))
        urls = f"ldap://127.0.0.1:{LDAP_PORT} ldaps://127.0.0.1:{LDAPS_PORT}"
        with self.running(LDAP_PORT, "slapd", "-f", "/tmp/slapd.conf", "-h", urls, "-d", "0"):
            yield

    @contextmanager
    def kdc(self, user: str, service: str) -> Iterator[None]:
        """Run a KDC of EXAMPLE.TEST; the service's keys are in ``keytab``, the user's ticket in ``ticket``."""
        (self.tmp / "kdc.conf").write_text(KDC)
        self.run("kdb5_util", "create", "-s", "-r", "EXAMPLE.TEST", "-P", PASSWORD)
        for query in (
            f"addprinc -pw {PASSWORD} {user}",
            f"addprinc -randkey {service}",
            f"ktadd -k /tmp/keytab {service}",
        ):
            self.run("kadmin.local", "-q", query)
        with self.running(KDC_PORT, "krb5kdc", "-n"):
            self.run("kinit", "-c", "/tmp/ticket", user, stdin=f"{PASSWORD}\n")
            yield
