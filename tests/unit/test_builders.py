"""Remote builders as manifest, command line and Nix's own files name them; each mistake is named."""

from __future__ import annotations

import base64
from pathlib import Path

import pytest

from pgbake.builders import Builder, builders_of, parse_machines
from pgbake.errors import ManifestError
from pgbake.manifest import Manifest, load_manifest

KEY = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJXlbYKzUXd9Rs2FhVhTLkCQ0tPqQvJXcXnYvM6JgN3X"
ENCODED = base64.b64encode(KEY.encode()).decode()


def read(directory: Path, text: str) -> Manifest:
    file = directory / "pgbake.toml"
    file.write_text(f'name = "x"\npostgresql = 15\n{text}')
    return load_manifest(file)


def test_what_the_manifest_names_is_what_nix_is_told(tmp_path: Path) -> None:
    manifest = read(
        tmp_path,
        f"""
[builders]
local-jobs = 0

[[builders.machine]]
url = "root@build1.example.org"

[[builders.machine]]
url = "ssh-ng://nix@build2"
systems = ["x86_64-linux", "aarch64-linux"]
key = "/etc/nix/key"
jobs = 4
speed = 2.5
features = ["big-parallel", "kvm"]
mandatory-features = ["kvm"]
host-key = "{KEY} root@build2"
""",
    )
    assert builders_of(manifest.builders).nix_settings == {
        "builders": "ssh://root@build1.example.org - - 1 1 - - -\n"
        f"ssh-ng://nix@build2 x86_64-linux,aarch64-linux /etc/nix/key 4 2.5 big-parallel,kvm kvm {ENCODED}",
        "max-jobs": "0",
    }
    assert builders_of(read(tmp_path, "").builders).nix_settings == {}


@pytest.mark.parametrize(
    ("line", "place", "problem", "hint"),
    [
        ('url = "http://host"', "5: url", "is no builder that ssh reaches", "ssh://USER@HOST"),
        ('url = "ssh://host:22"', "5: url", "is no builder that ssh reaches", "a port stands in ssh's own"),
        ('url = "ssh://-oProxyCommand=x"', "5: url", "is no builder that ssh reaches", "ssh://USER@HOST"),
        ('url = "a"\nsystems = ["x86_64-darwin"]', "6: systems", "is not known", "aarch64-linux"),
        ('url = "a"\nkey = "key"', "6: key", "is no whole path", "/DIRECTORY/FILE"),
        ('url = "a"\njobs = 0', "6: jobs", "are none", "write 1"),
        ('url = "a"\nspeed = -1', "6: speed", "is no factor", "above 0"),
        ('url = "a"\nfeatures = ["a b"]', "6: features", "is no feature", "big-parallel"),
        ('url = "a"\nmandatory-features = [","]', "6: mandatory-features", "is no feature", "big-parallel"),
        ('url = "a"\nhost-key = "AAAA"', "6: host-key", "no public key", "ssh_host_ed25519_key.pub"),
        ('url = "a"\n[[builders.machine]]\nurl = "ssh://a"', "7: url", "listed twice", "jobs of both"),
        ('url = "a"\nport = 22', "6", 'unknown key "port"', ""),
    ],
)
def test_mistakes_in_the_manifest(tmp_path: Path, line: str, place: str, problem: str, hint: str) -> None:
    with pytest.raises(ManifestError) as caught:
        read(tmp_path, f"\n[[builders.machine]]\n{line}\n")
    assert f"pgbake.toml:{place}: " in caught.value.message and problem in caught.value.message
    assert hint in (caught.value.hint or "")


@pytest.mark.parametrize("text", ["local-jobs = -1", "local-jobs = 0"])
def test_somebody_must_be_left_to_build(tmp_path: Path, text: str) -> None:
    with pytest.raises(ManifestError, match=r"pgbake\.toml:4: local-jobs: "):
        read(tmp_path, f"[builders]\n{text}\n")


def test_lines_as_nix_has_them(tmp_path: Path) -> None:
    file = tmp_path / "machines"
    file.write_text(f"# ours\nssh://one x86_64-linux /k 2 3 a,b c {ENCODED}\n\n two - - # said no more\n")
    one = Builder("ssh://one", ("x86_64-linux",), "/k", 2, 3.0, ("a", "b"), ("c",), KEY)
    assert parse_machines(f"@{file} ; ssh-ng://u@three i686-linux", "--builders").machines == (
        one, Builder("ssh://two"), Builder("ssh-ng://u@three", ("i686-linux",)),
    )  # fmt: skip
    assert parse_machines(one.line, "--builders").machines == (one,)


def test_none_is_an_answer_too() -> None:
    assert parse_machines("", "--builders").nix_settings == {"builders": ""}
    assert parse_machines("nix", "--builders").nix_settings == {}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("ssh://a - - many", "no number of jobs"),
        ("ssh://a - - 1 fast", "its speed is no number"),
        ("ssh://a - - 1 1 - - ?", "host key is not in base64"),
        ("ssh://a 1 2 3 4 5 6 7 8", "too many"),
        ("-", "no URL"),
        ("@/nowhere/machines", "cannot read builders from /nowhere/machines: No such file"),
    ],
)
def test_mistakes_in_lines(text: str, problem: str) -> None:
    with pytest.raises(ManifestError, match=problem) as caught:
        parse_machines(text, "--builders")
    assert caught.value.message.startswith("--builders: ") and caught.value.hint


def test_a_file_that_names_itself(tmp_path: Path) -> None:
    file = tmp_path / "machines"
    file.write_text(f"@{file}\n")
    with pytest.raises(ManifestError, match="names itself"):
        parse_machines(f"@{file}", "--builders")
