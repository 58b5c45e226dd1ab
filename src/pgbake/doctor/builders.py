"""What remote builders answer: whether each can be reached, and can build what pgbake gives it.

One script is run on each by ssh, as Nix would connect, and tells what is there, a line for each fact; what that means
is decided here.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pgbake.builders import Builder, Builders
from pgbake.doctor.engine import examine_engine
from pgbake.doctor.finding import Finding, Report, ok, problem, warning
from pgbake.errors import StoreError
from pgbake.formats.system import host_system
from pgbake.places import Engine

#: Seconds for a builder to answer at all, and to tell everything.
_CONNECT, _ANSWER = 10, 60

#: The oldest Nix that is known to build what pgbake makes.
_OLDEST = (2, 4)

_SETTINGS = ("extra-platforms", "sandbox", "system", "system-features", "trusted-users")
#: The namespaces that a build root is entered by, asked for as a user without any rights, which builds run as.
_NAMESPACES = "unshare --user --map-root-user --mount --pid --fork --mount-proc true"
_SYSCTLS = {
    "user.max_user_namespaces": "0",
    "kernel.unprivileged_userns_clone": "0",
    "kernel.apparmor_restrict_unprivileged_userns": "1",
}
_SCRIPT = f"""
say() {{ printf 'pgbake:%s=%s\\n' "$1" "$(printf %s "$2" | tr '\\n' ' ')"; }}
say uid "$(id -u)"; say user "$(id -un)"; say groups "$(id -Gn)"
for place in /nix/var/nix/profiles/default/bin /run/current-system/sw/bin; do
  [ ! -x "$place/nix-store" ] || say place "$place"
done
if version=$(nix-store --version 2>&1); then say nix "$version"; fi
new() {{ nix --extra-experimental-features nix-command "$@" 2>/dev/null; }}
{{ new config show || new show-config; }} | while read -r name is value; do
  case $name in {"|".join(_SETTINGS)}) say "nix.$name" "$value";; esac
done
for name in {" ".join(_SYSCTLS)}; do
  file=/proc/sys/$(printf %s "$name" | tr . /)
  [ ! -r "$file" ] || say "$name" "$(cat "$file")"
done
if ! command -v unshare >/dev/null; then :
elif [ "$(id -u)" != 0 ]; then
  if said=$({_NAMESPACES} 2>&1); then say namespaces yes; else say namespaces "no $said"; fi
elif command -v setpriv >/dev/null; then
  if said=$(setpriv --reuid 65534 --regid 65534 --clear-groups {_NAMESPACES} 2>&1); then say namespaces yes
  else say namespaces "no $said"; fi
fi
"""

_VERSION = re.compile(r"(?:\(.*\)|^nix-store) *(\d+)\.(\d+)")


def examine_builders(builders: Builders, engine: tuple[Engine, str]) -> Report:
    """Ask this machine's Nix, and then all builders at once.

    :param engine: the one that builds, and why.
    """
    machines = builders.machines or ()
    with ThreadPoolExecutor(max(1, len(machines))) as pool:
        found = pool.map(lambda machine: list(examine_builder(machine)), machines)
        here = list(_examine_here(engine))
        return [("This machine", here), *zip((machine.url for machine in machines), found, strict=True)]


def _examine_here(engine: tuple[Engine, str]) -> Iterator[Finding]:
    if engine[0] == "local":
        yield problem(
            "engine",
            f"local ({engine[1]}): pgbake builds by itself, and on this machine only",
            "install Nix here; or, where there is one: --engine nix, without --store",
        )
        return
    try:
        yield from examine_engine(*engine, builders=True)
    except StoreError as error:
        yield problem("engine", error.message, error.hint)


def examine_builder(builder: Builder) -> Iterator[Finding]:
    """Ask one builder all that matters."""
    if builder.key is not None:
        if not Path(builder.key).exists():
            yield problem(
                "ssh", f"there is no key {builder.key} on this machine",
                f"make one, and let the builder know it: ssh-keygen -t ed25519 -N '' -f {builder.key}; "
                f"ssh-copy-id -i {builder.key}.pub {builder.host}",
            )  # fmt: skip
            return
        if not os.access(builder.key, os.R_OK):
            yield problem(
                "ssh", f"the key {builder.key} is not yours to read",
                "Nix's daemon reads it as root: ask as root, `sudo pgbake builders check`",
            )  # fmt: skip
            return
    with tempfile.NamedTemporaryFile("w", prefix="pgbake-known-hosts-") as known:
        ssh = ["ssh", "-T", f"-oConnectTimeout={_CONNECT}"]
        ssh += shlex.split(os.environ.get("NIX_SSHOPTS", ""))
        if builder.key is not None:
            ssh += ["-i", builder.key]
        if builder.host_key is not None:
            known.write(f"{builder.host.rpartition('@')[2]} {builder.host_key}\n")
            known.flush()
            ssh += [f"-oUserKnownHostsFile={known.name}", "-oStrictHostKeyChecking=yes"]
        try:
            done = subprocess.run(
                [*ssh, "-oBatchMode=yes", builder.host, "sh -s"], input=_SCRIPT, check=False, capture_output=True,
                text=True, errors="replace", timeout=_CONNECT + _ANSWER,
            )  # fmt: skip
            alive = subprocess.run([*ssh, "-G", builder.host], capture_output=True, text=True, check=False).stdout
        except FileNotFoundError:
            yield problem("ssh", "there is no ssh on this machine", "as root: apt-get install openssh-client")
            return
        except subprocess.TimeoutExpired:
            yield problem("ssh", "it let us in, and then fell silent", f"try it by hand: ssh {builder.host} true")
            return
    if done.returncode == 255:
        yield ssh_refusal(builder, done.stderr)
        return
    facts = dict(re.findall(r"^pgbake:([\w.-]+)=(.*)$", done.stdout, re.MULTILINE))
    if "uid" not in facts:
        last = (done.stderr or done.stdout).strip().rpartition("\n")[2]
        yield problem(
            "ssh", f"it lets us in, and runs no shell: {last or f'status {done.returncode}'}",
            f"let {builder.host} have a POSIX shell, and no forced command but Nix's",
        )  # fmt: skip
        return
    yield from judge(builder, {name: value.strip() for name, value in facts.items()})
    if re.search(r"^serveraliveinterval 0$", alive, re.MULTILINE):
        yield warning(
            "ssh keep-alive",
            "off: a builder that falls silent in the middle of a build is waited for without end",
            "in the ssh configuration of who connects (root's, for Nix's daemon): ServerAliveInterval 15",
        )


def ssh_refusal(builder: Builder, said: str) -> Finding:
    """Say why ssh did not get in, from its own last words."""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    last = lines[-1] if lines else "it does not say why"
    by_hand = shlex.join(["ssh", *(["-i", builder.key] if builder.key else []), builder.host, "true"])
    if "Host key verification failed" in said or "IDENTIFICATION HAS CHANGED" in said:
        if builder.host_key is not None:
            return problem("ssh", "it has another host key than the one that is named", "compare host-key with its own")
        return problem(
            "ssh", "its host key is not known to who connects",
            f"as who connects (root, for Nix's daemon): {by_hand}; or name host-key",
        )  # fmt: skip
    if "Permission denied" in said or "Too many authentication failures" in said:
        key = f"{builder.key}.pub" if builder.key else "the public key of who connects (root, for Nix's daemon)"
        return problem("ssh", f"refused: {last}", f"put {key} into ~/.ssh/authorized_keys of {builder.host}")
    if "Could not resolve" in said:
        return problem("ssh", f"not reached: {last}", "is the name right? DNS or /etc/hosts must know it")
    return problem("ssh", f"not reached: {last}", f"is it up, and sshd on it? try: {by_hand}")


def judge(builder: Builder, facts: Mapping[str, str]) -> Iterator[Finding]:
    """Say what a builder's facts mean: its Nix, sandbox, namespaces, trust, systems and features."""
    user = facts.get("user") or facts["uid"]
    yield ok("ssh", f"lets us in as {user}")
    if "nix" not in facts:
        place = facts.get("place")
        yield problem(
            "Nix", f"is in {place}, and not in PATH of a command by ssh" if place else "is not there",
            f"as root there: ln -s {place}/nix-store {place}/nix-daemon /usr/local/bin/" if place
            else "as root there: apt-get install nix-bin",
        )  # fmt: skip
        return
    yield _version(facts["nix"])
    yield _sandbox(facts.get("nix.sandbox"))
    yield _namespaces(facts)
    yield _trust(user, facts)
    yield from _abilities(builder, facts)


def _version(said: str) -> Finding:
    match = _VERSION.search(said)
    version = said.rpartition(" ")[2]
    if match is None:
        return warning("Nix", f"tells no version: {said}", "a builder needs Nix 2.4 or later")
    if (int(match[1]), int(match[2])) < _OLDEST:
        return problem("Nix", f"{version} is too old", "as root there: install Nix 2.4 or later (Debian 12 has 2.8)")
    return ok("Nix", version)


def _sandbox(value: str | None) -> Finding:
    if value == "true":
        return ok("sandbox", "on")
    if value is None:
        return warning(
            "sandbox", "Nix does not tell its settings there", "as root there: grep sandbox /etc/nix/nix.conf"
        )
    return warning(
        "sandbox",
        f"{'off' if value == 'false' else value}: builds see all of the builder's store, not their inputs only",
        "in its /etc/nix/nix.conf: sandbox = true; then systemctl restart nix-daemon",
    )


def _namespaces(facts: Mapping[str, str]) -> Finding:
    said = facts.get("namespaces")
    if said is None:
        return warning("user namespaces", "cannot be tried without unshare and setpriv", "install util-linux there")
    if said == "yes":
        return ok("user namespaces", "allowed")
    for name, forbidding in _SYSCTLS.items():
        if facts.get(name) == forbidding:
            right = {"user.max_user_namespaces": "65536", "kernel.unprivileged_userns_clone": "1"}.get(name, "0")
            return problem(
                "user namespaces", f"forbidden: {name} is {forbidding}",
                f"as root there: sysctl -w {name}={right}; to keep it, the same in /etc/sysctl.d/60-pgbake.conf",
            )  # fmt: skip
    return problem(
        "user namespaces", f"forbidden: {said.removeprefix('no').strip()}",
        "`pgbake doctor` on that machine says what forbids them",
    )  # fmt: skip


def _trust(user: str, facts: Mapping[str, str]) -> Finding:
    groups = {f"@{name}" for name in facts.get("groups", "").split()}
    if facts["uid"] == "0" or {user, "*", *groups} & set(facts.get("nix.trusted-users", "").split()):
        return ok("trust", f"{user} may bring what builds need")
    return problem(
        "trust", f"{user} is no trusted user there: what a build needs, and nobody signed, is refused",
        f"in its /etc/nix/nix.conf: trusted-users = root {user}; then systemctl restart nix-daemon",
    )  # fmt: skip


def _abilities(builder: Builder, facts: Mapping[str, str]) -> Iterator[Finding]:
    if "nix.system" not in facts:
        return
    here = {facts["nix.system"], *facts.get("nix.extra-platforms", "").split()}
    systems: Sequence[str] = builder.systems or (host_system().name,)
    if lacking := [system for system in systems if system not in here]:
        yield problem(
            "systems", f"it builds for {', '.join(sorted(here))}, not for {', '.join(lacking)}",
            "name those only; or in its nix.conf, extra-platforms, where it can run them",
        )  # fmt: skip
    else:
        yield ok("systems", ", ".join(systems))
    features = set(facts.get("nix.system-features", "").split())
    if wanting := [name for name in (*builder.features, *builder.mandatory_features) if name not in features]:
        yield warning(
            "features", f"its own Nix knows nothing of {', '.join(wanting)}",
            f"in its nix.conf: extra-system-features = {' '.join(wanting)}",
        )  # fmt: skip
