from __future__ import annotations

import dataclasses
import hashlib
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from pgbake.errors import HostError, InputError
from pgbake.events import silent
from pgbake.inputs.apt import AptRoot, Assumed, Suite
from pgbake.inputs.buildroot import make_build_root
from pgbake.inputs.fetch import fetch
from pgbake.inputs.mirrors import Mirrors
from pgbake.inputs.pins import Pin
from pgbake.store.tree import hash_tree
from tests.integration.inputs.repository import Keys, Repository

pytestmark = pytest.mark.integration


def apt_root(
    tmp_path: Path, repository: Repository, *bases: str, suites: tuple[Suite, ...] = (Suite("bookworm"),)
) -> AptRoot:
    mirrors = Mirrors(bases or (repository.url,))
    return AptRoot(tmp_path / "apt cache", suites, "amd64", mirrors, repository.keys.keyring)


@pytest.fixture
def http(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The base URL of a web server on loopback for what lies below the test's directory."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")

    class Handler(SimpleHTTPRequestHandler):
        def log_message(self, format: str, *args: Any) -> None:
            pass

    httpd = ThreadingHTTPServer(("127.0.0.1", 0), partial(Handler, directory=str(tmp_path)))
    thread = threading.Thread(target=httpd.serve_forever, args=(0.02,), daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{httpd.server_port}"
    httpd.shutdown()
    httpd.server_close()
    thread.join()


# Debian itself


def test_debian_s_packages_are_resolved_and_fit_together(debian: AptRoot) -> None:
    pins = debian.resolve(["libssl-dev", "bash"])
    assert {"libssl-dev", "libssl3", "bash", "libc6", "libtinfo6"} <= set(pins)
    assert list(pins) == sorted(pins)
    assert pins["libssl-dev"].version == pins["libssl3"].version
    assert pins["bash"].path.startswith("pool/main/b/bash/bash_")
    assert pins["bash"].path.endswith(f"_{debian.arch}.deb")
    assert all(len(pin.sha256) == 64 and pin.size > 0 and "%" not in pin.path for pin in pins.values())
    assert debian.control("bash")["Version"] == pins["bash"].version
    controls = debian.controls(pins)
    assert list(controls) == list(pins)
    for name, pin in pins.items():
        assert (controls[name]["Filename"], controls[name]["SHA256"]) == (pin.path, pin.sha256)


def test_debian_s_source_of_postgresql(debian: AptRoot) -> None:
    version, pin = debian.source("postgresql-15")
    assert version.startswith("15.")
    assert pin.version.startswith(f"{version}-")
    assert pin.path == f"pool/main/p/postgresql-15/postgresql-15_{version}.orig.tar.bz2"
    assert (len(pin.sha256), pin.archive) == (64, "debian")
    assert pin.size > 20_000_000


def test_a_misspelt_package_of_debian_s(debian: AptRoot) -> None:
    with pytest.raises(InputError, match="no package libsl-dev in bookworm") as caught:
        debian.resolve(["bash", "libsl-dev"])
    assert "libssl-dev" in (caught.value.hint or "")
    with pytest.raises(InputError, match="awk is a virtual package") as caught:
        debian.resolve(["awk"])
    assert "mawk" in (caught.value.hint or "")


@pytest.mark.parametrize("debian", ["amd64"], indirect=True)
def test_a_build_root_of_debian_s_packages_works(debian: AptRoot, tmp_path: Path) -> None:
    pins = debian.resolve(["dash", "mawk", "coreutils", "sed"])
    debs = fetch(pins, debian.mirrors, tmp_path / "downloads", silent)
    make_build_root(debs, tmp_path / "one", silent)
    make_build_root(dict(reversed(debs.items())), tmp_path / "two", silent)
    assert hash_tree(tmp_path / "one") == hash_tree(tmp_path / "two")
    enter = ["unshare", "--user", "--map-root-user", "/usr/sbin/chroot", str(tmp_path / "one")]
    if subprocess.run([*enter, "/bin/true"], check=False, capture_output=True).returncode:
        pytest.skip("no user namespaces here to enter the root with")
    script = "echo alone | sed s/alone/together/ | awk '{ print toupper($1) }'; ls /nix/store"
    done = subprocess.run([*enter, "/bin/sh", "-c", script], check=True, capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("TOGETHER\n", "")


# A repository made here


def test_resolving_follows_depends_and_not_recommends(tmp_path: Path, repository: Repository) -> None:
    repository.publish()
    pins = apt_root(tmp_path, repository).resolve(["app"])
    assert list(pins) == ["app", "libdep1", "provider"]
    deb = repository.root / "pool/main/a/app/app_2.0~rc1+dfsg-1+b2_all.deb"
    assert pins["app"] == Pin(
        "1:2.0~rc1+dfsg-1+b2",
        "pool/main/a/app/app_2.0~rc1+dfsg-1+b2_all.deb",
        deb.stat().st_size,
        hashlib.sha256(deb.read_bytes()).hexdigest(),
    )
    got = fetch(pins, Mirrors((repository.url,)), tmp_path / "downloads", silent)
    assert got["app"].read_bytes() == deb.read_bytes()


def test_another_architecture_and_no_names(tmp_path: Path, repository: Repository) -> None:
    repository.publish()
    root = AptRoot(tmp_path / "apt", (Suite("bookworm"),), "arm64", Mirrors((repository.url,)), repository.keys.keyring)
    assert "app" in root.resolve(["app"])
    assert root.resolve([]) == {}
    assert root.controls([]) == {}
    assert root.path != apt_root(tmp_path, repository).path


def test_the_security_archive_has_mirrors_and_paths_of_its_own(
    tmp_path: Path, repository: Repository, keys: Keys
) -> None:
    repository.publish()
    security = Repository(tmp_path / "archive-security", keys, "bookworm-security", "pool/updates/main")
    security.add("libdep1", "1.0-1+deb12u1")
    security.publish()
    root = AptRoot(
        tmp_path / "apt",
        (Suite("bookworm"), Suite("bookworm-security", "security")),
        "amd64",
        Mirrors((repository.url,), (security.url,)),
        keys.keyring,
    )
    pins = root.resolve(["app"])
    assert (pins["app"].archive, pins["libdep1"].archive) == ("debian", "security")
    assert pins["libdep1"].path == "pool/updates/main/l/libdep1/libdep1_1.0-1+deb12u1_all.deb"
    assert len(fetch(pins, root.mirrors, tmp_path / "downloads", silent)) == 3


def test_control(tmp_path: Path, repository: Repository) -> None:
    repository.publish()
    root = apt_root(tmp_path, repository)
    control = root.control("app")
    assert (control["Section"], control["Depends"]) == ("misc", "libdep1 (>= 1), virtual-thing")


@pytest.mark.parametrize("name", ["nothing", "app-", "app+", "ap*", "--simulate", "a", "", "app/bookworm", "--x=1"])
def test_unknown_names_never_reach_apt(tmp_path: Path, repository: Repository, name: str) -> None:
    repository.publish()
    root = apt_root(tmp_path, repository)
    with pytest.raises(InputError, match="there is no package"):
        root.resolve(["libdep1", name])
    with pytest.raises(InputError, match="there is no package"):
        root.control(name)


def test_alternatives_and_versions_are_what_a_depends_field_has(tmp_path: Path, repository: Repository) -> None:
    repository.publish()
    root = apt_root(tmp_path, repository)
    assert root.resolve(["nothing | libdep1"]).keys() == root.resolve(["libdep1"]).keys()
    version = root.control("libdep1")["Version"]
    assert root.resolve([f"libdep1={version[0]}*"])["libdep1"].version == version
    with pytest.raises(InputError, match="cannot install together: libdep1=99"):
        root.resolve(["libdep1=99*"])
    with pytest.raises(InputError, match="there is no package nothing"):
        root.resolve(["nothing | nobody"])


def test_what_is_assumed_is_left_out_with_all_that_it_needs(tmp_path: Path, repository: Repository) -> None:
    repository.add("postgresql-15", Depends="libdep1")
    repository.add("postgresql-15-hll", Depends="postgresql-15 (>= 15.2), postgresql-contrib-15")
    repository.publish()
    root = apt_root(tmp_path, repository)
    assumed = [Assumed("postgresql-15", "15.99", ("postgresql-contrib-15",))]
    assert root.resolve(["postgresql-15-hll"], assumed).keys() == {"postgresql-15-hll"}
    assert root.packages("postgresql-15-").keys() == {"postgresql-15-hll"}
    with pytest.raises(InputError, match="cannot install together"):
        root.resolve(["postgresql-15-hll"])


def test_a_repository_adds_and_replaces_nothing(tmp_path: Path, repository: Repository) -> None:
    keys = Keys.make(tmp_path)
    try:
        (tmp_path / "other").mkdir()
        other = Repository(tmp_path / "other", keys, suite="extras")
        other.add("libdep1", "99.0-1")
        other.add("postgresql-15-hll", "2.0-1", Depends="libdep1, libextra1")
        other.add("libextra1")
        other.publish()
        repository.add("postgresql-15-hll", "1.0-1")
        repository.publish()
        root = apt_root(tmp_path, repository)
        mirrors = dataclasses.replace(root.mirrors, repositories=(("extras", other.url),))
        suites = (*root.suites, Suite("extras", "extras", ("main",), keys.keyring))
        both = dataclasses.replace(root, suites=suites, mirrors=mirrors)
        pins = both.resolve(["postgresql-15-hll"])
        assert pins["postgresql-15-hll"].version == "2.0-1" and pins["postgresql-15-hll"].archive == "extras"
        assert pins["libextra1"].archive == "extras"
        assert pins["libdep1"].version == root.resolve(["libdep1"])["libdep1"].version != "99.0-1"
        stranger = dataclasses.replace(both, suites=(*root.suites, Suite("extras", "extras", ("main",), root.keyring)))
        with pytest.raises(InputError, match="no mirror gave a usable index of extras") as caught:
            stranger.resolve(["postgresql-15-hll"])
        assert "the key that signs this repository?" in (caught.value.hint or "")
    finally:
        keys.close()


def test_virtual_packages_name_their_providers(tmp_path: Path, repository: Repository) -> None:
    repository.publish()
    with pytest.raises(InputError, match="virtual-thing is a virtual package") as caught:
        apt_root(tmp_path, repository).resolve(["virtual-thing"])
    assert "provider" in (caught.value.hint or "")


def test_what_cannot_be_together_is_explained_by_apt(tmp_path: Path, repository: Repository) -> None:
    repository.add("hungry", Depends="absent (>= 3)")
    repository.publish()
    root = apt_root(tmp_path, repository)
    with pytest.raises(InputError, match="cannot install together: left right") as caught:
        root.resolve(["right", "left"])
    assert "Conflicts: right" in (caught.value.detail or "")
    with pytest.raises(InputError, match="cannot install together: hungry") as caught:
        root.resolve(["hungry"])
    assert "Depends: absent (>= 3)" in (caught.value.detail or "")


def test_upstream_tarballs_of_sources(tmp_path: Path, repository: Repository) -> None:
    orig = b"upstream"
    repository.add_source(
        "thing",
        "1:2.5+dfsg-3",
        {
            "thing_2.5+dfsg-3.dsc": b"dsc",
            "thing_2.5+dfsg.orig-extra.tar.gz": b"extra",
            "thing_2.5+dfsg.orig.tar.gz": orig,
            "thing_2.5+dfsg.orig.tar.gz.asc": b"signature",
            "thing_2.5+dfsg-3.debian.tar.xz": b"patches",
        },
    )
    repository.add_source("native", "7", {"native_7.dsc": b"dsc", "native_7.tar.xz": b"native"})
    repository.add_source("empty", "1-1", {"empty_1-1.dsc": b"dsc", "empty_1-1.debian.tar.xz": b"patches"})
    repository.publish()
    root = apt_root(tmp_path, repository)
    digest = hashlib.sha256(orig).hexdigest()
    path = "pool/main/t/thing/thing_2.5+dfsg.orig.tar.gz"
    assert root.source("thing") == ("2.5+dfsg", Pin("2.5+dfsg-3", path, len(orig), digest))
    version, pin = root.source("native")
    assert (version, pin.path) == ("7", "pool/main/n/native/native_7.tar.xz")
    with pytest.raises(InputError, match="no upstream tarball"):
        root.source("empty")
    with pytest.raises(InputError, match="no source package absent in bookworm"):
        root.source("absent")
    with pytest.raises(InputError, match="not the name"):
        root.source("--help")


def test_an_update_brings_new_versions(tmp_path: Path, repository: Repository) -> None:
    repository.publish()
    root = apt_root(tmp_path, repository)
    assert root.resolve(["libdep1"])["libdep1"].version == "1.0-1"
    repository.add("libdep1", "1.1-1")
    repository.publish(codename="bookworm")  # the Suite field changes, as at each release of Debian's
    assert root.resolve(["libdep1"])["libdep1"].version == "1.0-1"
    root.update()
    assert root.resolve(["libdep1"])["libdep1"].version == "1.1-1"


def test_the_next_mirror_serves_when_the_first_does_not(tmp_path: Path, repository: Repository, http: str) -> None:
    repository.publish()
    bases = ("http://127.0.0.1:1/debian", f"{http}/nothing", f"file://{tmp_path}/nothing", f"{http}/archive")
    assert "app" in apt_root(tmp_path, repository, *bases).resolve(["app"])


def test_every_mirror_that_failed_is_named(tmp_path: Path, repository: Repository, http: str) -> None:
    bases = ("http://127.0.0.1:1/debian", f"{http}/nothing", f"file://{tmp_path}/nothing")
    with pytest.raises(InputError, match="no mirror gave a usable index of bookworm") as caught:
        apt_root(tmp_path, repository, *bases).update()
    lines = (caught.value.detail or "").splitlines()
    for line, base, said in zip(lines, bases, ("refused", "404", "no such file"), strict=True):
        assert line.startswith(f"{base} bookworm: ")
        assert said in line.lower()


def _stranger(repository: Repository) -> None:
    repository.publish(signer="stranger")


def _unsigned(repository: Repository) -> None:
    repository.publish(signer=None)


def _changed_release(repository: Repository) -> None:
    repository.publish()
    release = repository.dist / "InRelease"
    release.write_text(release.read_text().replace("Origin: Debian", "Origin: Nobody"))


def _changed_index(repository: Repository) -> None:
    repository.publish()
    index = repository.dist / "main/binary-amd64/Packages"
    index.write_text(index.read_text().replace("1.0-1", "9.0-1"))


def _other_suite(repository: Repository) -> None:
    repository.publish(codename="trixie")


@pytest.mark.parametrize(
    ("publish", "said", "hinted"),
    [
        (_stranger, "NO_PUBKEY", "keyring"),
        (_unsigned, "not signed", "keyring"),
        (_changed_release, "BADSIG", "keyring"),
        (_changed_index, "unexpected size|Hash Sum mismatch", ""),
        (_other_suite, "another release: trixie", ""),
    ],
)
def test_an_index_that_is_not_the_suite_s_own_is_refused(
    tmp_path: Path, repository: Repository, publish: Any, said: str, hinted: str
) -> None:
    publish(repository)
    root = apt_root(tmp_path, repository)
    for call in (root.update, partial(root.resolve, ["app"])):
        with pytest.raises(InputError, match="no mirror gave a usable index") as caught:
            call()
        detail = caught.value.detail or ""
        assert any(word in detail for word in said.split("|")), detail
        assert repository.url in detail
        assert hinted in (caught.value.hint or "")
    # A mirror that is as it should be still serves.
    good = Repository(tmp_path / "good", repository.keys)
    good.add("app")
    good.publish()
    assert "app" in apt_root(tmp_path, repository, repository.url, good.url).resolve(["app"])


def test_a_good_index_is_not_lost_to_a_bad_update(tmp_path: Path, repository: Repository) -> None:
    repository.publish()
    root = apt_root(tmp_path, repository)
    root.update()
    repository.publish(signer="stranger")
    with pytest.raises(InputError):
        root.update()
    assert "app" in root.resolve(["app"])


def test_another_release_in_a_known_place_answers_nothing(tmp_path: Path, repository: Repository) -> None:
    repository.publish()
    root = apt_root(tmp_path, repository)
    root.update()
    repository.publish(codename="trixie")
    for call in (root.update, partial(root.resolve, ["app"])):
        with pytest.raises(InputError, match="no mirror gave a usable index"):
            call()


def test_a_missing_keyring_is_told(tmp_path: Path, repository: Repository) -> None:
    repository.publish()
    root = AptRoot(tmp_path, (Suite("bookworm"),), "amd64", Mirrors((repository.url,)), tmp_path / "absent.gpg")
    with pytest.raises(HostError, match=r"absent\.gpg") as caught:
        root.update()
    assert "debian-archive-keyring" in (caught.value.hint or "")


def test_a_missing_apt_is_told(tmp_path: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch) -> None:
    repository.publish()
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="is not installed") as caught:
        apt_root(tmp_path, repository).update()
    assert caught.value.hint == "install it: apt-get install apt"


def test_the_host_s_hooks_do_not_run_and_its_proxy_does_hold(
    tmp_path: Path, repository: Repository, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository.publish()
    host = tmp_path / "host.conf"
    mark = tmp_path / "hook-was-run"
    host.write_text(
        f'APT::Update::Pre-Invoke {{ "touch {mark}"; }};\nAPT::Update::Post-Invoke {{ "touch {mark}"; }};\n'
        'APT::Install-Recommends "true";\nDir::State::status "/nowhere";\n'
        'Acquire::http::Proxy "http://127.0.0.1:1";\n'
    )
    monkeypatch.setenv("APT_CONFIG", str(host))
    assert list(apt_root(tmp_path, repository).resolve(["app"])) == ["app", "libdep1", "provider"]
    assert not mark.exists()
    with pytest.raises(InputError) as caught:
        apt_root(tmp_path, repository, "http://mirror.invalid/debian").update()
    assert "127.0.0.1:1" in (caught.value.detail or "")


def test_roots_are_shared_safely(tmp_path: Path, repository: Repository) -> None:
    repository.publish()
    root = apt_root(tmp_path, repository)
    results: list[object] = []

    def use() -> None:
        root.update()
        results.append(list(root.resolve(["app"])))

    threads = [threading.Thread(target=use) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [["app", "libdep1", "provider"]] * 4


PROGRAM = """
import os, sys
from pathlib import Path
from pgbake.errors import HostError
from pgbake.inputs.apt import AptRoot, Assumed, Suite
from pgbake.inputs.mirrors import Mirrors
cache, base, keyring = sys.argv[1:]
root = AptRoot(Path(cache), (Suite("bookworm"),), "amd64", Mirrors((base,)), Path(keyring))
try:
    print(os.geteuid(), *root.resolve(["app"]))
except HostError as error:
    print(error.message)
"""


def test_a_full_disk_is_told(tmp_path: Path, repository: Repository) -> None:
    repository.add("large", Description="x" * 3_000_000)
    repository.publish()
    namespace = ["unshare", "--user", "--map-root-user", "--mount"]
    if shutil.which("unshare") is None or subprocess.run([*namespace, "true"], check=False).returncode:
        pytest.skip("no user namespaces here to mount a small disk in")
    small = tmp_path / "small"
    small.mkdir()
    mount = 'mount -t tmpfs -o size=1m none "$0" && exec "$@"'
    arguments = [str(small), repository.url, str(repository.keys.keyring)]
    done = subprocess.run(
        [*namespace, "sh", "-c", mount, small, sys.executable, "-c", PROGRAM, *arguments],
        check=True, capture_output=True, text=True,
    )  # fmt: skip
    assert done.stdout.startswith(f"the disk is full: {small}/amd64-")


def test_an_ordinary_user_can(tmp_path: Path, repository: Repository) -> None:
    repository.publish()
    become = ["unshare", "--user", "--map-user=1000", "--map-group=1000"]
    if shutil.which("unshare") is None or subprocess.run([*become, "true"], check=False).returncode:
        pytest.skip("no user namespaces here to be another user in")
    arguments = [str(tmp_path / "cache"), repository.url, str(repository.keys.keyring)]
    done = subprocess.run(
        [*become, sys.executable, "-c", PROGRAM, *arguments], check=True, capture_output=True, text=True
    )
    assert done.stdout == "1000 app libdep1 provider\n"
