"""What a builder's facts mean, and what ssh's refusals do."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgbake.builders import Builder
from pgbake.doctor.builders import examine_builder, judge, ssh_refusal
from pgbake.doctor.finding import Finding

BUILDER = Builder("ssh://nix@build1", ("x86_64-linux",), features=("big-parallel",))
GOOD = {
    "uid": "1000", "user": "nix", "groups": "nix builders", "nix": "nix-store (Nix) 2.8.0", "namespaces": "yes",
    "nix.sandbox": "true", "nix.system": "x86_64-linux", "nix.system-features": "big-parallel kvm",
    "nix.trusted-users": "root @builders", "user.max_user_namespaces": "95000",
}  # fmt: skip


def findings(facts: dict[str, str]) -> dict[str, Finding]:
    return {finding.name: finding for finding in judge(BUILDER, facts)}


def test_a_good_builder() -> None:
    found = findings(GOOD)
    assert list(found) == ["ssh", "Nix", "sandbox", "user namespaces", "trust", "systems"]
    assert {finding.state for finding in found.values()} == {"ok"} and found["Nix"].found == "2.8.0"
    lix = findings({**GOOD, "nix": "nix-store (Lix, like Nix) 2.91.1"})["Nix"]
    assert (lix.state, lix.found) == ("ok", "2.91.1")


@pytest.mark.parametrize(
    ("changed", "name", "state", "what", "hint"),
    [
        ({"nix": "nix-store (Nix) 2.3.16"}, "Nix", "problem", "2.3.16 is too old", "Nix 2.4 or later"),
        ({"nix": "nix-store (Nix) unstable"}, "Nix", "warning", "tells no version", "2.4"),
        ({"nix.sandbox": "false"}, "sandbox", "warning", "off: ", "sandbox = true"),
        ({"nix.sandbox": "relaxed"}, "sandbox", "warning", "relaxed: ", "sandbox = true"),
        ({"nix.trusted-users": "root"}, "trust", "problem", "nix is no trusted user", "trusted-users = root nix"),
        ({"namespaces": "no unshare: refused"}, "user namespaces", "problem", "unshare: refused", "pgbake doctor"),
        (
            {"namespaces": "no", "user.max_user_namespaces": "0"},
            "user namespaces", "problem", "user.max_user_namespaces is 0", "sysctl -w user.max_user_namespaces=65536",
        ),
        (
            {"namespaces": "no", "kernel.apparmor_restrict_unprivileged_userns": "1"},
            "user namespaces", "problem", "is 1", "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        ({"nix.system": "aarch64-linux"}, "systems", "problem", "not for x86_64-linux", "name those only"),
        ({"nix.system-features": "kvm"}, "features", "warning", "big-parallel", "extra-system-features"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_one(changed: dict[str, str], name: str, state: str, what: str, hint: str) -> None:
    finding = findings({**GOOD, **changed})[name]
    assert finding.state == state and what in finding.found and hint in (finding.hint or "")


def test_what_cannot_be_known_is_no_problem() -> None:
    unknown = {name: value for name, value in GOOD.items() if not name.startswith("nix.") and name != "namespaces"}
    found = findings({**unknown, "uid": "0", "user": "root"})
    assert {found[name].state for name in ("sandbox", "user namespaces")} == {"warning"}
    assert found["trust"].state == "ok"


def test_a_nix_that_ssh_does_not_find() -> None:
    without = {name: value for name, value in GOOD.items() if name != "nix"}
    found = findings({**without, "place": "/run/current-system/sw/bin"})
    assert "not in PATH" in found["Nix"].found and "ln -s /run/current-system" in (found["Nix"].hint or "")
    assert findings(without)["Nix"].hint == "as root there: apt-get install nix-bin"


@pytest.mark.parametrize(
    ("said", "what", "hint"),
    [
        ("nix@build1: Permission denied (publickey).\n", "refused: nix@build1: Permission", "authorized_keys"),
        ("No ED25519 host key is known.\nHost key verification failed.\n", "host key is not known", "host-key"),
        ("ssh: Could not resolve hostname build1: Name or service not known\n", "not reached", "DNS"),
        ("ssh: connect to host build1 port 22: Connection refused\n", "not reached", "is it up"),
        ("", "it does not say why", "is it up"),
    ],
)
def test_what_ssh_says(said: str, what: str, hint: str) -> None:
    finding = ssh_refusal(BUILDER, said)
    assert finding.state == "problem" and what in finding.found and hint in (finding.hint or "")


def test_a_key_that_is_not_there(tmp_path: Path) -> None:
    (finding,) = examine_builder(Builder("ssh://build1", key=str(tmp_path / "key")))
    assert finding.state == "problem" and "there is no key" in finding.found
    assert "ssh-keygen" in (finding.hint or "")
