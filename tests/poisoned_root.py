"""A machine where everything that a bundle could load, and should not, aborts: of Debian's and of Red Hat's layout.

Its libc is another Debian release's, with that release's own ldconfig, getent and iconv. Modules and libraries are
hard links of one library, `POISON`, whose constructor writes its own path and its process to `/tmp/poison.log`
and aborts. Scripts of Perl, Python and Tcl do likewise. No locale, Perl, Python or Tcl of the machine's own is
usable; the shell is a static busybox.

    usr/lib/x86_64-linux-gnu/      Debian's libraries and modules: libc is real, all else is poison
    usr/lib64/                     Red Hat's, likewise
    usr/bin/iconv, usr/sbin/...    programs of that libc; getent lies apart, in /foreign/bin
    etc/ld.so.cache                by ldconfig, so that it names the poison
    etc/nsswitch.conf              names modules that are poison, and such as are absent
    etc/ssl/openssl.cnf, etc/pki/tls/openssl.cnf, etc/krb5.conf, etc/gss/, etc/pam.d/   name poison
    usr/lib/locale/                a language that the bundle has not, and one that it has
"""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

from pgbake.formats.system import host_system
from tests.debian import debian_tree
from tests.directory_servers import LDAP_HOST
from tests.empty_root import EmptyRoot, static_shell

POISON = r"""
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

__attribute__((constructor)) static void fire(void)
{
    char line[4096], name[64] = "?", *path = "?";
    unsigned long start, end, here = (unsigned long)fire;
    FILE *maps = fopen("/proc/self/maps", "r"), *log = fopen("/tmp/poison.log", "a"), *comm;

    while (maps && fgets(line, sizeof line, maps)) {
        start = strtoul(line, &path, 16);
        end = strtoul(path + 1, &path, 16);
        if (start <= here && here < end && (path = strchr(line, '/')))
            break;
    }
    if ((comm = fopen("/proc/self/comm", "r")))
        fgets(name, sizeof name, comm);
    name[strcspn(name, "\n")] = path[strcspn(path, "\n")] = 0;
    if (log) {
        fprintf(log, "%s %s\n", name, path);
        fclose(log);
    }
    abort();
}
"""

#: Where modules and libraries lie: Debian's place, Red Hat's, and two more.
DEBIAN, REDHAT = f"usr/lib/{host_system().triplet}", "usr/lib64"
LIBRARIES = (DEBIAN, REDHAT, "usr/lib", "usr/local/lib")

NSS = (
    "altfiles", "db", "extrausers", "hesiod", "ldap", "libvirt", "mdns", "mdns4", "mdns4_minimal", "myhostname",
    "mymachines", "nis", "nisplus", "resolve", "sss", "systemd", "winbind", "wins", "sealed",
)  # fmt: skip

#: Directories of modules below each of `LIBRARIES`, and what is in them.
MODULES = {
    "security": ("pam_deny.so", "pam_env.so", "pam_limits.so", "pam_permit.so", "pam_sss.so", "pam_systemd.so",
                 "pam_unix.so"),
    "engines-3": ("afalg.so", "capi.so", "loader_attic.so", "padlock.so", "pkcs11.so", "poison.so"),
    "engines-1.1": ("afalg.so", "capi.so", "padlock.so", "pkcs11.so", "poison.so"),
    "ossl-modules": ("fips.so", "legacy.so", "pkcs11.so", "poison.so", "tpm2.so"),
    "sasl2": tuple(f"lib{name}.so{version}" for version in ("", ".2", ".3") for name in (
        "anonymous", "crammd5", "digestmd5", "gs2", "gssapiv2", "ldapdb", "login", "ntlm", "plain", "sasldb", "scram",
        "sql",
    )),
    "krb5/plugins/authdata": ("poison.so",),
    "krb5/plugins/libkrb5": ("sssd_krb5_locator_plugin.so", "winbind_krb5_locator.so"),
    "krb5/plugins/preauth": ("otp.so", "pkinit.so", "spake.so"),
    "krb5/plugins/tls": ("k5tls.so",),
    "gss": ("mech_poison.so",),
    "gssproxy": ("proxymech.so",),
    "sssd/modules": ("sssd_krb5_localauth_plugin.so",),
    "pkcs11": ("p11-kit-client.so", "p11-kit-trust.so", "opensc-pkcs11.so"),
    "libxslt-plugins": ("poison_example_x.so",),
    "gdalplugins": ("gdal_poison.so",),
    "perl-base/auto/List/Util": ("Util.so",),
    "perl/5.36/auto/POSIX": ("POSIX.so",),
    "perl5/5.36/auto/Encode": ("Encode.so",),
    "python3.11/lib-dynload": ("_json.cpython-311-x86_64-linux-gnu.so", "_ssl.cpython-311-x86_64-linux-gnu.so"),
}  # fmt: skip

#: Scripts, which write their own name and abort when they are read, and where they lie.
SCRIPTS = {
    'open(my $f, ">>", "/tmp/poison.log"); print $f "perl ", __FILE__, "\\n"; close $f; kill "ABRT", $$;\n': (
        *(f"{top}/{name}" for name in ("strict.pm", "POSIX.pm", "Encode.pm") for top in (
            "etc/perl", "usr/share/perl5", "usr/share/perl/5.36", f"{DEBIAN}/perl-base",
            f"{DEBIAN}/perl/5.36", "usr/lib64/perl5", "usr/share/perl5/vendor_perl",
        )),
    ),
    'import posix\nlog = posix.open("/tmp/poison.log", posix.O_WRONLY | posix.O_APPEND | posix.O_CREAT, 0o666)\n'
    'posix.write(log, b"python " + __file__.encode() + b"\\n")\nposix.abort()\n': (
        "etc/python3.11/sitecustomize.py", "usr/lib/python3.11/sitecustomize.py", "usr/lib/python3.11/os.py",
        "usr/lib/python3.11/encodings/__init__.py",
        "usr/lib/python3.11/json/__init__.py", "usr/lib/python3/dist-packages/sitecustomize.py",
        "usr/lib64/python3.11/os.py", "usr/local/lib/python3.11/dist-packages/sitecustomize.py",
    ),
    'set f [open /tmp/poison.log a]; puts $f "tcl [info script]"; close $f; exec sh -c "kill -ABRT [pid]"\n': (
        "usr/share/tcltk/tcl8.6/init.tcl", "usr/share/tcltk/tcl8.6/clock.tcl", "usr/lib/tcl8.6/init.tcl",
        "usr/share/tcl8.6/init.tcl", "usr/lib/tcltk/tclIndex",
    ),
}  # fmt: skip

KRB5 = f"""\
[libdefaults]
    default_realm = EXAMPLE.TEST
    plugin_base_dir = /{DEBIAN}/krb5/plugins
    dns_canonicalize_hostname = false
    udp_preference_limit = 1

[realms]
    EXAMPLE.TEST = {{
        kdc = 127.0.0.1:8888
    }}

[plugins]
    ccselect = {{
        module = poison:/{DEBIAN}/krb5/plugins/authdata/poison.so
    }}
    localauth = {{
        module = sssd:/{REDHAT}/sssd/modules/sssd_krb5_localauth_plugin.so
    }}
    clpreauth = {{
        module = pkinit:/{REDHAT}/krb5/plugins/preauth/pkinit.so
    }}
    hostrealm = {{
        module = poison:/{REDHAT}/krb5/plugins/authdata/poison.so
    }}
"""

FILES = {
    "etc/passwd": "root:x:0:0::/root:/bin/sh\ndba:x:1000:1000::/tmp:/bin/sh\n",
    "etc/group": "root:x:0:\ndba:x:1000:\n",
    "etc/hosts": f"127.0.0.1 localhost {LDAP_HOST}\n::1 localhost\n",
    "etc/nsswitch.conf": (
        "passwd: sss absent sealed systemd files\ngroup: sss absent systemd files\nshadow: sss files\n"
        "initgroups: sss\nhosts: mymachines resolve mdns4_minimal [NOTFOUND=return] absent wins files myhostname dns\n"
        "networks: absent files\nservices: sss db files\nprotocols: db files\nrpc: db files\nnetgroup: sss nis\n"
        "aliases: nisplus files\n"
    ),
    "etc/ld.so.conf": "".join(f"/{directory}\n" for directory in LIBRARIES),
    "etc/krb5.conf": KRB5,
    "etc/gss/mech": f"krb5 1.3.6.1.4.1.9999.1 /{DEBIAN}/gss/mech_poison.so\n",
    "etc/gss/mech.d/gssproxy.conf": f"gssproxy_v1 2.16.840.1.113730.3.8.15.1 /{REDHAT}/gssproxy/proxymech.so "
    "<interposer>\n",
    "etc/pam.d/poison": "auth required pam_unix.so\naccount required pam_unix.so\n",
    "etc/gnutls/config": "[global]\noverride-mode = allowlist\nof-another-version = yes\n",
    "usr/share/p11-kit/modules/poison.module": "module: p11-kit-trust.so\ntrust-policy: yes\n",
}

#: An openssl.cnf that loads an engine, one that loads a provider, and one that loads both.
OPENSSL = "openssl_conf = start\n[start]\n{}{}"
ENGINE = "[engines]\npoison = engine\n[engine]\ndynamic_path = /{0}/engines-3/poison.so\ninit = 1\n"
PROVIDER = "[providers]\npoison = provider\n[provider]\nmodule = /{0}/ossl-modules/poison.so\nactivate = 1\n"


class PoisonedMachine:
    """Makes the tree, below a directory of its own.

    :param top: an empty directory.
    :param suite: the Debian release of its libc.
    :param bundle: the bundle's directory, as this machine sees it, whose libraries' names are all taken.
    """

    def __init__(self, top: Path, suite: str, bundle: Path) -> None:
        self.top = top
        self.release = debian_tree(suite)
        self.poison = top / "usr/lib/poison.so"
        for directory in ("bin", "sbin", "lib", "lib64"):
            (top / "usr" / directory).mkdir(parents=True)
            (top / directory).symlink_to(f"usr/{directory}")
        for directory in ("nix/store", "proc", "dev", "tmp", "root", "var/run/postgresql", "var/tmp", "foreign/bin"):
            (top / directory).mkdir(parents=True)
        shutil.copy(static_shell(), top / "bin/sh")
        self.libc()
        compile_library(POISON, self.poison)
        for directory in LIBRARIES:
            self.libraries(directory, bundle)
        for script, names in SCRIPTS.items():
            for name in names:
                self.write(name, script)
        for name, text in FILES.items():
            self.write(name, text)
        self.openssl()
        self.gconv()
        self.data(bundle)
        self.as_root("/usr/sbin/ldconfig")
        self.as_root("/usr/sbin/iconvconfig")

    def write(self, name: str, text: str) -> None:
        """Write a file of the machine's."""
        path = self.top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)

    def place(self, name: str) -> None:
        """Put poison at a place that is free."""
        path = self.top / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if not os.path.lexists(path):
            os.link(self.poison, path)

    def as_root(self, *argv: str) -> None:
        """Run a program of the machine's own as its root."""
        command = [
            "bwrap",
            "--unshare-all",
            "--uid",
            "0",
            "--gid",
            "0",
            "--bind",
            str(self.top),
            "/",
            "--proc",
            "/proc",
        ]
        subprocess.run([*command, "--", *argv], check=True, capture_output=True)

    def libc(self) -> None:
        """Take libc and its programs from the release, to Debian's places and to Red Hat's."""
        names = ("ld-*", "libc.so.6", "libc-2*", "libdl[.-]*", "libm[.-]*", "libpthread[.-]*", "librt[.-]*",
                 "libresolv[.-]*", "libnss_files*", "libnss_dns*", "libnsl[.-]*", "libutil[.-]*")  # fmt: skip
        libraries = self.release / LIBRARIES[0]
        for directory in LIBRARIES[:2]:
            (self.top / directory).mkdir(exist_ok=True, parents=True)
            for pattern in names:
                for file in libraries.glob(pattern):
                    shutil.copy(file, self.top / directory / file.name, follow_symlinks=False)
        loader = next((self.release / "usr/lib64").glob("ld-*"))
        (self.top / "usr/lib64" / loader.name).unlink(missing_ok=True)
        shutil.copy(loader, self.top / "usr/lib64" / loader.name, follow_symlinks=False)
        for program in ("usr/bin/iconv", "usr/sbin/ldconfig", "usr/sbin/iconvconfig"):
            shutil.copy(self.release / program, self.top / program)
        shutil.copy(self.release / "usr/bin/getent", self.top / "foreign/bin")

    def libraries(self, directory: str, bundle: Path) -> None:
        """Put poison by the name of every library of the bundle's, and of every module."""
        ours = [file.name for file in (bundle / DEBIAN.removeprefix("usr/")).iterdir() if ".so" in file.name]
        for name in (*ours, *(f"libnss_{name}.so.2" for name in NSS), "libgpm.so.2", "libpoison.so.1"):
            self.place(f"{directory}/{name}")
        for modules, names in MODULES.items():
            for name in names:
                self.place(f"{directory}/{modules}/{name}")

    def openssl(self) -> None:
        """Write the configurations of OpenSSL."""
        for layout, directory in zip(("etc/ssl", "etc/pki/tls"), LIBRARIES, strict=False):
            engine, provider = ENGINE.format(directory), PROVIDER.format(directory)
            self.write(f"{layout}/engine.cnf", OPENSSL.format("engines = engines\n", engine))
            self.write(f"{layout}/provider.cnf", OPENSSL.format("providers = providers\n", provider))
            both = OPENSSL.format("engines = engines\nproviders = providers\n", engine + provider)
            self.write(f"{layout}/openssl.cnf", both)
        (self.top / "usr/lib/ssl").mkdir()
        (self.top / "usr/lib/ssl/openssl.cnf").symlink_to("/etc/ssl/openssl.cnf")

    def gconv(self) -> None:
        """Take the release's charset modules by name, and add a charset that nobody else has."""
        source = self.release / LIBRARIES[0] / "gconv"
        for directory in LIBRARIES[:2]:
            target = self.top / directory / "gconv"
            (target / "gconv-modules.d").mkdir(parents=True)
            for file in source.rglob("gconv-modules*"):
                if file.is_file() and file.suffix != ".cache":
                    shutil.copy(file, target / file.relative_to(source))
            with (target / "gconv-modules").open("a") as modules:
                modules.write(
                    "alias TOXIC// POISON//\nmodule POISON// INTERNAL POISON 1\nmodule INTERNAL POISON// POISON 1\n"
                )
            for file in (*source.glob("*.so"), Path("POISON.so")):
                self.place(f"{directory}/gconv/{file.name}")

    def data(self, bundle: Path) -> None:
        """Put data where the bundle must not find it: a language, one of its own languages, a wrong time zone."""

        def real(path: Path) -> Path:
            return bundle.parent / path.readlink().relative_to("/nix/store") if path.is_symlink() else path

        locales = real(bundle / "lib/locale")
        shutil.copytree(locales / "en_US.utf8", self.top / "usr/lib/locale/xx_YY.utf8")
        shutil.copytree(locales / "C.utf8", self.top / "usr/lib/locale/en_US.UTF-8")
        zones = real(bundle / "share/zoneinfo")
        for name, zone in (("Europe/Vienna", "Europe/Vienna"), ("Europe/Berlin", "Asia/Tokyo")):
            target = self.top / "usr/share/zoneinfo" / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(zones / zone, target)
        (self.top / "etc/localtime").symlink_to("/usr/share/zoneinfo/Europe/Vienna")


def compile_library(source: str, target: Path) -> None:
    """Compile a library that is bound to no libc's versions, so that every libc loads it."""
    command = ["gcc", "-shared", "-fPIC", "-nostdlib", "-fno-stack-protector", "-U_FORTIFY_SOURCE", "-O1"]
    subprocess.run([*command, "-x", "c", "-", "-o", target], input=source, text=True, check=True)


def fired(root: EmptyRoot) -> list[str]:
    """Return what poison was loaded since the last call: lines of program and path."""
    log = root.tmp / "poison.log"
    lines = log.read_text().splitlines() if log.exists() else []
    log.unlink(missing_ok=True)
    return lines
