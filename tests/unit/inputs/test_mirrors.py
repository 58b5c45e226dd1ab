from __future__ import annotations

from pathlib import Path

import pytest

from pgbake.errors import HostError, ManifestError
from pgbake.inputs.mirrors import Mirrors, host_mirrors, manifest_mirrors

RELEASE = "Origin: {origin}\nSuite: oldstable\nCodename: {codename}\nComponents: main\nArchitectures: amd64\n"


class AptHost:
    """A configuration of apt that stands for the host's."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.etc = root / "etc"
        self.lists = root / "lists"
        for directory in ("etc/sources.list.d", "etc/apt.conf.d", "etc/preferences.d", "lists/partial"):
            (root / directory).mkdir(parents=True)
        (root / "status").touch()
        (root / "apt.conf").write_text(
            f'Dir::Etc "{self.etc}";\nDir::State "{root}";\nDir::State::status "{root}/status";\n'
            f'Dir::Cache "{root}/cache";\nAPT::Architecture "amd64";\nAPT::Architectures {{ "amd64"; }};\n'
        )

    def sources(self, text: str, name: str = "sources.list") -> None:
        (self.etc / name).write_text(text)

    def fetched(self, base: str, suite: str, *, origin: str, codename: str | None = None) -> None:
        """Leave what ``apt-get update`` would: a Release file, verified before."""
        stem = base.partition("://")[2].replace("/", "_") + f"_dists_{suite}"
        (self.lists / f"{stem}_Release").write_text(RELEASE.format(origin=origin, codename=codename or suite))
        (self.lists / f"{stem}_main_binary-amd64_Packages").touch()


@pytest.fixture
def host(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> AptHost:
    monkeypatch.setenv("APT_CONFIG", str(tmp_path / "apt.conf"))
    return AptHost(tmp_path)


def test_one_line_and_deb822_sources_in_order_and_once(host: AptHost) -> None:
    host.sources(
        "deb http://one.invalid/debian/ bookworm main contrib\n"
        "deb [arch=amd64] http://one.invalid/debian bookworm-updates main\n"
        "# deb http://commented.invalid/debian bookworm main\n"
        "deb http://one.invalid/debian-security bookworm-security main\n"
    )
    host.sources(
        "Types: deb\nURIs: https://two.invalid/debian http://three.invalid/debian\n"
        "Suites: bookworm\nComponents: main\n\n"
        "Enabled: no\nTypes: deb\nURIs: http://disabled.invalid/debian\nSuites: bookworm\nComponents: main\n",
        "sources.list.d/debian.sources",
    )
    assert host_mirrors("bookworm") == Mirrors(
        debian=("http://one.invalid/debian", "https://two.invalid/debian", "http://three.invalid/debian"),
        security=("http://one.invalid/debian-security",),
    )


def test_repositories_of_others_are_not_used(host: AptHost) -> None:
    host.sources(
        "deb http://other.invalid/apt bookworm main\n"
        "deb http://pgdg.invalid/apt bookworm-pgdg main\n"
        "deb http://docker.invalid/linux bookworm stable\n"
        "deb http://ubuntu.invalid/ubuntu jammy main\n"
        "deb http://good.invalid/debian bookworm main\n"
        "deb http://unfetched.invalid/apt bookworm main\n"
    )
    host.fetched("http://other.invalid/apt", "bookworm", origin="Other")
    host.fetched("http://pgdg.invalid/apt", "bookworm-pgdg", origin="apt.postgresql.org")
    host.fetched("http://good.invalid/debian", "bookworm", origin="Debian")
    assert host_mirrors("bookworm").debian == ("http://good.invalid/debian",)


def test_without_fetched_indexes_the_name_of_the_release_decides(host: AptHost) -> None:
    host.sources(
        "deb http://pgdg.invalid/apt bookworm-pgdg main\n"
        "deb http://ubuntu.invalid/ubuntu jammy main\n"
        "deb http://good.invalid/debian stable main\n"
        "deb http://new.invalid/debian newcomer main\n"
    )
    assert host_mirrors("bookworm").debian == ("http://good.invalid/debian",)
    # The platform's own suite counts whatever its name, and comes first.
    assert host_mirrors("newcomer").debian == ("http://new.invalid/debian", "http://good.invalid/debian")


def test_local_lists_of_mirrors_are_followed_by_priority(host: AptHost, tmp_path: Path) -> None:
    listed = tmp_path / "mirrors.list"
    listed.write_text(
        "http://last.invalid/debian\n# none\nhttp://second.invalid/debian/\tpriority:2\n"
        "http://first.invalid/debian priority:1 type:index\nftp://old.invalid/debian\n\n"
    )
    host.sources(f"deb mirror+file:{listed} bookworm main\ndeb file:/srv/debian bookworm main\n")
    assert host_mirrors("bookworm").debian == (
        "http://first.invalid/debian",
        "http://second.invalid/debian",
        "http://last.invalid/debian",
        "file:///srv/debian",
    )
    listed.unlink()
    with pytest.raises(HostError, match=str(listed)):
        host_mirrors("bookworm")


def test_a_host_without_debian_is_told_what_to_write(host: AptHost) -> None:
    host.sources("deb http://ubuntu.invalid/ubuntu jammy main\n")
    with pytest.raises(HostError, match="no mirror of Debian") as caught:
        host_mirrors("bookworm")
    assert caught.value.hint is not None
    assert "[platform] mirrors" in caught.value.hint


def test_a_host_without_apt_is_told_to_install_it(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HostError, match="apt-get is not installed"):
        host_mirrors("bookworm")


def test_mirrors_of_the_manifest() -> None:
    assert manifest_mirrors(["http://a.invalid/debian/", "http://a.invalid/debian"]) == Mirrors(
        ("http://a.invalid/debian",)
    )
    assert manifest_mirrors(["file:///srv/a"], ["https://s.invalid"]).of("security") == ("https://s.invalid",)
    for wrong in ("", "a.invalid/debian", "ftp://a.invalid/debian", "http://", "http://a.invalid/b c"):
        with pytest.raises(ManifestError):
            manifest_mirrors([wrong])
    with pytest.raises(ManifestError, match="empty"):
        manifest_mirrors([])
    with pytest.raises(HostError, match="security archive"):
        manifest_mirrors(["file:///srv/a"]).of("security")
