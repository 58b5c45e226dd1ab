"""On a machine whose own libc, modules, scripts and configurations would break it, a bundle loads none of them.

What a bundle does take from its machine is the table in docs/contract.md, each row of which names a test of these.
"""

from __future__ import annotations

import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from pgbake.bundle.merge import Bundle
from tests.debian import debian_tree
from tests.directory_servers import LDAP_HOST, LDAP_PORT, LDAPS_PORT, PASSWORD, Servers
from tests.empty_root import EmptyRoot, Server, private_network, start
from tests.poisoned_root import DEBIAN, REDHAT, PoisonedMachine, compile_library, fired
from tests.projects import TestProject

pytestmark = pytest.mark.integration

#: Debian releases whose libc is older and newer than the bundle's.
RELEASES = ("bullseye", "sid")

LDAP = f'ldap ldapserver={LDAP_HOST} ldapprefix="uid=" ldapsuffix=",dc=example,dc=test" ldapport={LDAP_PORT}'
HBA = f"""\
local all all trust
hostssl all tls all trust
host all plain all {LDAP}
host all starttls all {LDAP} ldaptls=1
host all ldaps all {LDAP.replace(str(LDAP_PORT), str(LDAPS_PORT))} ldapscheme=ldaps
host all pam all pam pamservice=postgresql
host all poison all pam pamservice=poison
host all gss all gss include_realm=0
"""

#: A PAM module of an administrator's own: it knows one password.
PAM_MODULE = """
#include <stddef.h>
#include <string.h>
int pam_get_authtok(void *, int, const char **, const char *);
int pam_sm_authenticate(void *session, int flags, int argc, const char **argv)
{
    const char *password = NULL;
    return pam_get_authtok(session, 6, &password, NULL) || !password || strcmp(password, "pam-secret") ? 7 : 0;
}
int pam_sm_acct_mgmt(void *session, int flags, int argc, const char **argv) { return 0; }
"""


@dataclass(frozen=True)
class Host:
    """A poisoned machine with a server of the bundle on it, and its neighbours: slapd and a KDC.

    :param before: what initdb and the start alone have loaded.
    """

    root: EmptyRoot
    top: Path
    server: Server
    receipt: Any
    servers: Servers
    before: list[str]

    def psql(self, user: str, environment: Mapping[str, str] | None = None, /, **options: str) -> str:
        """Connect by TCP; return the user's name, or what psql says instead."""
        words = {"host": "localhost", "dbname": "postgres", "user": user, **options}
        done = self.root.attempt(
            f"{self.server.bundle}/bin/psql", "-XAtw", " ".join(f"{k}={v}" for k, v in words.items()),
            "-c", "SELECT session_user", environment=environment,
        )  # fmt: skip
        return (done.stdout + done.stderr).strip()

    def alone(self, sql: str, environment: Mapping[str, str] | None = None) -> str:
        """Run statements in a cluster of their own, with no server, and return all that is said."""
        done = self.root.attempt(
            f"{self.server.bundle}/bin/postgres", "--single", "-F", "-j", "-D", "/tmp/spare", "postgres",
            environment=environment, stdin=sql + ";\n\n",
        )  # fmt: skip
        return done.stdout + done.stderr

    def file(self, name: str, text: str) -> Path:
        """Write a file of the machine's."""
        path = self.top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path


@pytest.fixture(scope="module", params=RELEASES)
def host(request: pytest.FixtureRequest, example: TestProject, bundle: Bundle) -> Iterator[Host]:
    store = example.store / "nix/store"
    tree = store / Path(str(bundle.path)).name
    receipt = json.loads((tree / "receipt.json").read_text())
    with tempfile.TemporaryDirectory(prefix="pgbake-poison-") as top, private_network() as network:
        machine, tmp = Path(top, "machine"), Path(top, "tmp")
        tmp.mkdir()
        PoisonedMachine(machine, request.param, tree)
        servers = Servers(tmp, network)
        servers.make_certificates()
        (machine / "etc/pki/tls/certs").mkdir(parents=True)
        shutil.copy(tmp / "ca.pem", machine / "etc/pki/tls/certs/ca-bundle.crt")
        (tmp / "hba.conf").write_text(HBA)
        settings = {
            "hba_file": "/tmp/hba.conf", "listen_addresses": "localhost", "ssl": "on",
            "ssl_cert_file": "/tmp/server.pem", "ssl_key_file": "/tmp/server.key",
            "krb_server_keyfile": "/tmp/keytab", "fsync": "off",
            "shared_preload_libraries": ",".join(receipt["preload"]), **receipt["settings"],
        }  # fmt: skip
        options = " ".join(f"-c {name}='{value}'" for name, value in settings.items())
        root = EmptyRoot(store, tmp, host=machine, network=network)
        process = start(
            root, str(bundle.path), options, "--locale=en_US.UTF-8 --no-sync", prepare="cp -a /tmp/data /tmp/spare"
        )
        try:
            before = fired(root)
            server = Server(root, str(bundle.path))
            server.sql(*(f"CREATE ROLE {user} LOGIN" for user in (
                "tls", "plain", "starttls", "ldaps", "pam", "poison", "gss")))  # fmt: skip
            with servers.ldap("plain", "starttls", "ldaps"), servers.kdc("gss", "postgres/localhost"):
                host = Host(root, machine, server, receipt, servers, before)
                host.alone(
                    "CREATE EXTENSION xml2; CREATE EXTENSION plperlu; CREATE EXTENSION plpython3u;"
                    "CREATE EXTENSION pltclu;"
                    "CREATE FUNCTION tcl() RETURNS text LANGUAGE pltclu AS 'return 1'"
                )
                yield host
        finally:
            process.kill()
            process.wait()


@pytest.fixture(autouse=True)
def clean(request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test does, it loads no poison, but where it says so itself by calling `fired`."""
    yield
    if "host" in request.fixturenames:
        assert fired(request.getfixturevalue("host").root) == []


# --- nothing is loaded -----------------------------------------------------------------------------


def test_initdb_and_server_start(host: Host) -> None:
    assert host.before == []
    assert host.server.sql("SHOW data_checksums") == "off"
    assert host.server.sql("SELECT datcollate FROM pg_database WHERE datname = 'postgres'") == "en_US.UTF-8"


def test_every_extension_is_created(host: Host) -> None:
    host.server.sql("CREATE DATABASE every")
    create = "SELECT format('CREATE EXTENSION IF NOT EXISTS %I CASCADE', name) FROM pg_available_extensions \\gexec\n"
    host.server.psql("-d", "every", stdin=create)
    count = int(host.server.sql("SELECT count(*) FROM pg_extension", database="every"))
    assert count == len(host.receipt["extensions"]) > 60


@pytest.mark.parametrize(
    ("language", "body", "expected"),
    [
        ("plperlu", "use strict; use POSIX; use Encode; use List::Util 'max'; return max(1, 3);", "3"),
        ("plpython3u", "import json, ssl, ctypes, sqlite3\nreturn json.dumps([ssl.OPENSSL_VERSION_INFO[0]])", "[3]"),
        ("pltclu", "return [clock format 0 -gmt 1 -format %Y][encoding convertfrom utf-8 x]", "1970x"),
        ("plsh", "\n#!/bin/sh\necho shell", "shell"),
    ],
)
def test_languages(host: Host, language: str, body: str, expected: str) -> None:
    host.server.sql(
        f"CREATE EXTENSION IF NOT EXISTS {language}",
        f"CREATE OR REPLACE FUNCTION f_{language}() RETURNS text LANGUAGE {language} AS $body${body}$body$",
    )
    assert host.server.sql(f"SELECT f_{language}()") == expected


def test_openssl(host: Host) -> None:
    """Neither the machine's openssl.cnf nor an engine or provider; Debian's place and Red Hat's."""
    host.server.sql("CREATE EXTENSION IF NOT EXISTS pgcrypto")
    assert host.server.sql("SELECT encode(digest('abc', 'sha512'), 'hex')").startswith("ddaf35a1")
    assert "unknown" not in host.server.sql("SELECT gen_random_uuid()")


def test_charsets(host: Host) -> None:
    """By libxml2, which asks iconv for those that it does not know itself; one is known to the machine alone."""
    host.server.sql("CREATE EXTENSION IF NOT EXISTS xml2")
    document = '\'<?xml version="1.0" encoding="{}"?><a>b</a>\''
    for charset in ("ISO-8859-2", "EBCDIC-US", "KOI8-R", "LATIN2", "UTF-7"):
        assert "POISON" not in host.server.sql(f"SELECT xpath_string({document.format(charset)}, '/a')")
    assert host.server.sql(f"SELECT xpath_string({document.format('ISO-8859-2')}, '/a')") == "b"
    for charset in ("POISON", "TOXIC", "poison"):
        host.server.sql(f"SELECT xpath_string({document.format(charset)}, '/a')")


def test_xslt_plugins(host: Host) -> None:
    host.server.sql("CREATE EXTENSION IF NOT EXISTS xml2")
    done = host.root.attempt(f"{host.server.bundle}/bin/psql", "-XU", "dba", "-d", "postgres", "-c", STYLESHEET)
    assert "failed to apply stylesheet" in done.stderr


DOCUMENT = "SELECT xpath_string('<?xml version=\"1.0\" encoding=\"POISON\"?><a/>', '/a')"
STYLESHEET = (
    'SELECT xslt_process(\'<a/>\', \'<xsl:stylesheet version="1.0" xmlns:xsl="http://www.w3.org/1999/XSL/Transform" '
    'xmlns:p="http://poison.example/x" extension-element-prefixes="p"><xsl:template match="/"><p:x/></xsl:template>'
    "</xsl:stylesheet>')"
)


# --- connections -----------------------------------------------------------------------------------


def test_tls_checks_certificates(host: Host) -> None:
    assert host.psql("tls", sslmode="verify-full", sslrootcert="/tmp/ca.pem") == "tls"
    assert "certificate verify failed" in host.psql("tls", sslmode="verify-full", sslrootcert="/tmp/wrong.pem")
    assert "does not match host name" in host.psql(
        "tls", sslmode="verify-full", sslrootcert="/tmp/ca.pem", host="127.0.0.1"
    )
    assert "no encryption" in host.psql("tls", sslmode="disable")


def test_the_machines_authorities_are_preferred(host: Host) -> None:
    """Of those that the machine has; here at Red Hat's place."""
    theirs = "/etc/pki/tls/certs/ca-bundle.crt"
    check = (
        "import os, ssl\n"
        "context = ssl.create_default_context()\n"
        "return os.environ['SSL_CERT_FILE'] + ' ' + str(len(context.get_ca_certs()))"
    )
    host.server.sql(
        "CREATE EXTENSION IF NOT EXISTS plpython3u",
        f"CREATE OR REPLACE FUNCTION authorities() RETURNS text LANGUAGE plpython3u AS $${check}$$",
    )
    assert host.server.sql("SELECT authorities()") == f"{theirs} 1"
    assert host.psql("tls", sslmode="verify-full", sslrootcert=theirs) == "tls"


def test_the_bundles_authorities_serve_where_the_machine_has_none(host: Host) -> None:
    theirs = host.top / "etc/pki/tls/certs/ca-bundle.crt"
    hidden = theirs.rename(theirs.with_suffix(".hidden"))
    try:
        ours = f"{host.server.bundle}/etc/ssl/certs/ca-certificates.crt"
        said = host.alone(
            "DO LANGUAGE plpython3u 'import os, ssl; plpy.warning(os.environ["
            '"SSL_CERT_FILE"], len(ssl.create_default_context().get_ca_certs()))\''
        )
        assert ours in said and int(said.split(ours)[1].split(")")[0].strip("', ")) > 100
        assert "certificate verify failed" in host.psql("tls", sslmode="verify-full", sslrootcert=ours)
    finally:
        hidden.rename(theirs)


@pytest.mark.parametrize("user", ["plain", "starttls", "ldaps"])
def test_ldap(host: Host, user: str) -> None:
    """With no ldap.conf at all, the machine's authorities are trusted; a configured one is the only one."""
    assert host.psql(user, {"PGPASSWORD": PASSWORD}) == user
    assert "LDAP authentication failed" in host.psql(user, {"PGPASSWORD": "wrong"})
    for place in ("etc/ldap/ldap.conf", "etc/openldap/ldap.conf"):
        configuration = host.file(place, "TLS_CACERT /tmp/wrong.pem\n")
        try:
            if place == "etc/ldap/ldap.conf":
                trusted = host.psql(user, {"PGPASSWORD": PASSWORD})
                assert trusted == user if user == "plain" else "LDAP authentication failed" in trusted
        finally:
            configuration.unlink()


def test_ldap_configuration_of_red_hat(host: Host) -> None:
    """libldap is Debian's and knows Debian's place only; a client reads its servers from pg_service.conf."""
    host.file("etc/openldap/ldap.conf", "TLS_CACERT /tmp/wrong.pem\n")
    try:
        check = "SHOW is_superuser"
        host.root.run(f"{host.server.bundle}/bin/psql", "-XAtU", "dba", "-d", "postgres", "-c", check)
        said = host.alone("DO LANGUAGE plpython3u 'import os; plpy.warning(os.environ.get(\"LDAPCONF\"))'")
        assert "/etc/openldap/ldap.conf" in said
    finally:
        (host.top / "etc/openldap/ldap.conf").unlink()


def test_pam_loads_the_module_that_the_machine_names_and_no_other(host: Host) -> None:
    module = host.top / DEBIAN / "security/pam_pgbake.so"
    compile_library(PAM_MODULE, module)
    host.file("etc/pam.d/postgresql", "auth required pam_pgbake.so\naccount required pam_pgbake.so\n")
    assert host.psql("pam", {"PGPASSWORD": "pam-secret"}) == "pam"
    assert "PAM authentication failed" in host.psql("pam", {"PGPASSWORD": "wrong"})
    elsewhere = host.top / REDHAT / "security/pam_pgbake.so"
    module.rename(elsewhere)
    host.file(
        "etc/pam.d/postgresql",
        f"auth required /{REDHAT}/security/pam_pgbake.so\naccount required /{REDHAT}/security/pam_pgbake.so\n",
    )
    assert host.psql("pam", {"PGPASSWORD": "pam-secret"}) == "pam"


def test_gssapi(host: Host) -> None:
    """A login by Kerberos: the realm is the machine's krb5.conf's, its plugins and mechanisms are not loaded."""
    ticket = {"KRB5CCNAME": "/tmp/ticket"}
    assert host.psql("gss", ticket, gssencmode="require") == "gss"
    assert "GSSAPI" in host.psql("gss", {"KRB5CCNAME": "/tmp/none"})


# --- data ------------------------------------------------------------------------------------------


def test_time_zones(host: Host) -> None:
    """The machine says which zone it is in; what a zone is, the bundle knows. The machine's Berlin is in Japan."""
    assert host.server.sql("SHOW timezone") == "Europe/Vienna"
    winter = "2026-01-15 12:00+00"
    assert host.server.sql(f"SELECT '{winter}'::timestamptz AT TIME ZONE 'Europe/Berlin'") == "2026-01-15 13:00:00"
    host.server.sql(
        *(f"CREATE EXTENSION IF NOT EXISTS {language}" for language in ("plpython3u", "plperlu", "pltclu")),
        "CREATE OR REPLACE FUNCTION py() RETURNS text LANGUAGE plpython3u AS $$\n"
        "import datetime, time, os, zoneinfo\n"
        "os.environ['TZ'] = 'Europe/Berlin'; time.tzset()\n"
        "noon = datetime.datetime(2026, 1, 15, 12, tzinfo=datetime.UTC)\n"
        "there = noon.astimezone(zoneinfo.ZoneInfo('Europe/Berlin'))\n"
        "return f'{there.hour} {time.localtime(1768478400).tm_hour}' $$",
        "CREATE OR REPLACE FUNCTION pl() RETURNS text LANGUAGE plperlu AS $$\n"
        "use POSIX; $ENV{TZ} = 'Europe/Berlin'; tzset(); return (localtime(1768478400))[2] $$",
        "CREATE OR REPLACE FUNCTION tc() RETURNS text LANGUAGE pltclu AS $$\n"
        "return [clock format 1768478400 -format %H -timezone :Europe/Berlin] $$",
    )
    for function, expected in (("py", "13 13"), ("pl", "13"), ("tc", "13")):
        assert host.server.sql(f"SELECT {function}()") == expected, function


def test_a_locale_that_the_bundle_lacks_does_not_come_from_the_machine(host: Host) -> None:
    refused = 'could not create locale "xx_YY.UTF-8"'
    create = "CREATE COLLATION strange (locale = 'xx_YY.UTF-8')"
    done = host.root.attempt(f"{host.server.bundle}/bin/psql", "-XU", "dba", "-d", "postgres", "-c", create)
    assert refused in done.stderr
    initdb = f"{host.server.bundle}/bin/initdb"
    for environment, options in (({}, ["--locale=xx_YY.UTF-8"]), ({"LANG": "xx_YY.UTF-8"}, [])):
        done = host.root.attempt(initdb, "-D", "/tmp/none", "-U", "dba", *options, environment=environment)
        assert done.returncode == 1 and "invalid locale" in done.stderr
    # A user who names the machine's directory gets it: the locale is there.
    own = {"LOCPATH": "/usr/lib/locale"}
    assert refused not in host.alone(create, own)
    assert refused in host.alone("CREATE COLLATION other (locale = 'xx_YY.UTF-8')")


def test_a_locale_of_the_bundle_is_the_bundles(host: Host) -> None:
    """The machine has an en_US.UTF-8 as well, in a directory of just this name, that sorts as C does."""
    assert host.server.sql("SELECT string_agg(w, '' ORDER BY w) FROM unnest('{b,A,a,B}'::text[]) w") == "aAbB"
    said = host.alone("SELECT 'A' < 'a' AS before", {"LOCPATH": "/usr/lib/locale"})
    assert 'before = "t"' in said
    assert 'before = "f"' in host.alone("SELECT 'A' < 'a' AS before")


def test_a_client_in_a_language_that_the_bundle_lacks_speaks_utf8(host: Host) -> None:
    def encoding(**environment: str) -> str:
        return host.root.run(
            f"{host.server.bundle}/bin/psql", "-XAtU", "dba", "-d", "postgres", "-c", "SHOW client_encoding",
            environment={"PGCLIENTENCODING": "auto", **environment},
        ).strip()  # fmt: skip

    assert encoding(LANG="de_DE.UTF-8") == "UTF8"
    assert encoding(LC_ALL="xx_YY.utf8") == "UTF8"
    assert encoding(LANG="de_DE.ISO-8859-1") == "SQL_ASCII"
    assert encoding(LANG="en_US.UTF-8") == "UTF8"


# --- accounts --------------------------------------------------------------------------------------


def test_accounts_and_hosts(host: Host) -> None:
    """The files' are known; for others the machine's getent is asked, whose modules are its own affair."""
    stranger = EmptyRoot(host.root.store, host.root.tmp, host.top, host.root.network, uid=4711)
    psql = f"{host.server.bundle}/bin/psql"
    done = host.root.attempt(psql, "-XAt", "-h", "localhost", "-d", "postgres", "-c", "SELECT 1")
    assert 'no pg_hba.conf entry for host "127.0.0.1", user "dba"' in done.stderr
    done = stranger.attempt(psql, "-XAt", "-d", "postgres", "-c", "SELECT 1")
    assert "local user with ID 4711 does not exist" in done.stderr
    assert fired(host.root) == []
    shutil.copy(host.top / "foreign/bin/getent", host.top / "usr/bin/getent")
    try:
        done = stranger.attempt(psql, "-XAt", "-d", "postgres", "-c", "SELECT 1")
        assert "local user with ID 4711 does not exist" in done.stderr
        assert set(fired(host.root)) == {f"getent /{DEBIAN}/libnss_sss.so.2"}
    finally:
        (host.top / "usr/bin/getent").unlink()


def test_accounts_that_only_a_module_of_the_machine_knows(example: TestProject, bundle: Bundle, tmp_path: Path) -> None:
    """A real module on a machine with a newer libc: for the default user name, and for peer authentication."""
    release = debian_tree("trixie", ("libc-bin", "libnss-extrausers"))
    machine = tmp_path / "machine"
    for directory in ("nix/store", "proc", "dev", "tmp", "etc", "var/lib/extrausers", "var/run/postgresql"):
        (machine / directory).mkdir(parents=True)
    shutil.copytree(release / "usr", machine / "usr", symlinks=True)
    for name in ("bin", "lib", "lib64", "sbin"):
        (machine / name).symlink_to(f"usr/{name}")
    shutil.copy(shutil.which("busybox") or "", machine / "usr/bin/sh")
    (machine / "etc/nsswitch.conf").write_text("passwd: files extrausers\ngroup: files extrausers\n")
    (machine / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (machine / "etc/group").write_text("root:x:0:\n")
    (machine / "var/lib/extrausers/passwd").write_text("ada:x:4711:4711::/tmp:/bin/sh\n")
    (machine / "var/lib/extrausers/group").write_text("lovelaces:x:4711:ada\n")
    (tmp_path / "tmp").mkdir()
    root = EmptyRoot(example.store / "nix/store", tmp_path / "tmp", machine, uid=4711)
    options = "-c listen_addresses='' -c unix_socket_group=lovelaces"
    process = start(root, str(bundle.path), options, initdb="--locale=C.UTF-8 --auth=peer -U ada --no-sync")
    try:
        assert root.run(f"{bundle.path}/bin/psql", "-XAt", "-d", "postgres", "-c", "SELECT session_user") == "ada\n"
        done = root.attempt(f"{bundle.path}/bin/psql", "-XAt", "-U", "bob", "-d", "postgres")
        assert 'Peer authentication failed for user "bob"' in done.stderr
    finally:
        process.kill()
        process.wait()


# --- what the documents name -----------------------------------------------------------------------


def test_a_library_by_its_bare_name_is_the_machines_where_the_bundle_lacks_it(host: Host) -> None:
    """Where a user names one. The server itself takes no bare name."""
    assert "could not access file" in host.alone("LOAD 'libpoison.so.1'")
    assert fired(host.root) == []
    load = 'import ctypes; ctypes.CDLL("libpoison.so.1")'
    host.alone(f"DO LANGUAGE plpython3u '{load}'")
    assert fired(host.root) == [f"postgres /{DEBIAN}/libpoison.so.1"]


def test_the_machines_preloads_are_loaded(host: Host) -> None:
    preload = host.file("etc/ld.so.preload", f"/{DEBIAN}/libpoison.so.1\n")
    try:
        host.root.attempt(f"{host.server.bundle}/bin/psql", "--version")
        assert fired(host.root) == [f"psql /{DEBIAN}/libpoison.so.1"]
    finally:
        preload.unlink()


# --- the poison is poison --------------------------------------------------------------------------


def test_foreign_programs_load_the_poison(host: Host) -> None:
    """By nsswitch.conf, by gconv-modules and its cache: those of the machine's own libc."""
    host.root.attempt("/foreign/bin/getent", "passwd", "nobody1")
    assert fired(host.root) == [f"getent /{DEBIAN}/libnss_sss.so.2"]
    host.root.attempt("/foreign/bin/getent", "hosts", "db.example")
    assert fired(host.root)[0].startswith("getent /")
    for charset, module in (("POISON", "POISON"), ("LATIN2", "ISO8859-2")):
        host.root.attempt("/bin/sh", "-c", f"echo | /usr/bin/iconv -f {charset} -t UTF-8")
        assert fired(host.root) == [f"iconv /{DEBIAN}/gconv/{module}.so"]


@pytest.mark.parametrize(
    ("variable", "value", "sql", "poison"),
    [
        ("OPENSSL_CONF", "/etc/ssl/engine.cnf", "SELECT sha256('a')", f"{DEBIAN}/engines-3/poison.so"),
        ("OPENSSL_CONF", "/etc/pki/tls/provider.cnf", "SELECT sha256('a')", f"{REDHAT}/ossl-modules/poison.so"),
        ("OPENSSL_CONF", "/usr/lib/ssl/openssl.cnf", "SELECT sha256('a')", f"{DEBIAN}/engines-3/poison.so"),
        ("GCONV_PATH", f"/{REDHAT}/gconv", DOCUMENT,
         f"{REDHAT}/gconv/POISON.so"),
        ("LIBXSLT_PLUGINS_PATH", f"/{DEBIAN}/libxslt-plugins", STYLESHEET,
         f"{DEBIAN}/libxslt-plugins/poison_example_x.so"),
        ("PERL5LIB", "/usr/share/perl/5.36", "DO LANGUAGE plperlu 'use POSIX;'", "usr/share/perl/5.36/strict.pm"),
        ("PYTHONHOME", "/usr", "DO LANGUAGE plpython3u 'pass'", "usr/lib/python3.11/encodings/__init__.py"),
        ("TCL_LIBRARY", "/usr/share/tcltk/tcl8.6", "SELECT tcl()", "usr/share/tcltk/tcl8.6/init.tcl"),
    ],
)  # fmt: skip
def test_the_poison_is_loaded_where_a_user_names_it(
    host: Host, variable: str, value: str, sql: str, poison: str
) -> None:
    """So each test above could fail; and a user's own variable is the user's."""
    host.alone(sql)
    assert fired(host.root) == []
    said = host.alone(sql, {variable: value})
    lines = fired(host.root)
    assert f"/{poison}" in " ".join(lines), (lines, said)


def test_the_poison_is_loaded_by_name_services_of_connections(host: Host) -> None:
    """Kerberos, its mechanisms, SASL: by a client whose user names the machine's configuration."""
    for environment, poison in (
        (
            {"KRB5_CONFIG": "/etc/krb5.conf", "GSS_MECH_CONFIG": "/dev/null", "KRB5CCNAME": "/tmp/ticket"},
            "/krb5/plugins/",
        ),
        ({"GSS_MECH_CONFIG": "/etc/gss/mech.d/gssproxy.conf", "KRB5CCNAME": "/tmp/ticket"}, "proxymech.so"),
        ({"GSS_MECH_CONFIG": "/etc/gss/mech", "KRB5CCNAME": "/tmp/ticket"}, "mech_poison.so"),
    ):
        host.psql("gss", environment)
        assert poison in " ".join(fired(host.root)), environment
    (host.root.tmp / "service.conf").write_text("[x]\nldap://localhost:1/dc=example?x?one?(x=y)\n")
    host.psql("plain", {"PGSERVICEFILE": "/tmp/service.conf"}, service="x")
    assert fired(host.root) == []
    host.psql("plain", {"PGSERVICEFILE": "/tmp/service.conf", "SASL_PATH": f"/{DEBIAN}/sasl2"}, service="x")
    assert f"/{DEBIAN}/sasl2/" in " ".join(fired(host.root))


def test_the_poison_is_loaded_by_the_loader_where_nothing_else_is_found(host: Host) -> None:
    """By ld.so.cache: a program that needs one more library than its bundle has."""
    program = host.root.tmp / "psql"
    ours = f"{host.server.bundle}/{DEBIAN.removeprefix('usr/')}"
    shutil.copy(host.root.store / Path(host.server.bundle).name / "lib/postgresql/15/bin/psql", program)
    for change in (("--force-rpath", "--set-rpath", ours), ("--add-needed", "libpoison.so.1")):
        subprocess.run(["patchelf", *change, program], check=True)
    host.root.attempt("/tmp/psql", "--version")
    assert fired(host.root) == [f"psql /{DEBIAN}/libpoison.so.1"]


def test_the_poison_is_loaded_by_pam(host: Host) -> None:
    """The last: the server restarts after it."""
    host.psql("poison", {"PGPASSWORD": "x"})
    assert fired(host.root) == [f"postgres /{DEBIAN}/security/pam_unix.so"]
    deadline = time.monotonic() + 20
    while host.psql("tls", sslmode="require") != "tls":
        assert time.monotonic() < deadline
        time.sleep(0.1)
