"""What a manifest's services, profile and settings come to; and what it may not say."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path

import pytest

from pgbake.errors import ManifestError
from pgbake.image.lock import packages
from pgbake.machine.definition import Cluster, Port
from pgbake.machine.image import MachineImage, load_profile, profiles
from pgbake.machine.services import Setting, known, load

MAIN = Cluster(15, "main", 5432)
ALL: dict[str, Setting] = {name: {} for name in known()} | {"rsyslog": {"target": "logs.example.org"}}
SHA = "0" * 64


def image(
    services: Mapping[str, Setting] | None = None,
    profile: str | None = None,
    settings: Mapping[str, str] | None = None,
    file: Path = Path("pgbake.toml"),
) -> MachineImage:
    return MachineImage.of(services or {}, profile, settings or {}, MAIN, file)


def texts(of: MachineImage) -> dict[str, str]:
    return {part.path: part.content.decode() for part in of.rendered.parts if part.kind == "file"}


def test_every_service_is_rendered_whole() -> None:
    whole = image(ALL)
    for path, text in texts(whole).items():
        assert not re.search(r"@[a-z][a-z0-9-]*@(?!\d)", text), path
    assert not any("@" in check.program.replace("mallory@shop", "").replace('"$@"', "") for check in whole.checks)
    paths = [part.path for part in whole.rendered.parts]
    assert len(paths) == len(set(paths))


@pytest.mark.parametrize("name", known())
def test_every_value_of_a_service_is_used(name: str) -> None:
    service = load(name)
    before = image({name: dict.fromkeys(service.needs, "one.example.org")})
    for value, default in service.values.items():
        other: object = default + 1 if isinstance(default, int) else "other"
        after = image({name: {**dict.fromkeys(service.needs, "one.example.org"), value: other}})
        assert after.rendered != before.rendered, value
    for need in service.needs:
        assert image({name: {need: "two.example.org"}}).rendered != before.rendered


def test_numbers_of_accounts_are_given_once() -> None:
    rendered = image(ALL).rendered
    for kind in (rendered.groups, rendered.users):
        assert len({row.id for row in kind}) == len({row.name for row in kind}) == len(kind)


def test_the_firewall_is_made_of_the_open_ports() -> None:
    rules = texts(image({"nftables": {}, "pgbouncer": {"listen": "*", "port": 6543}, "nginx": {"listen": "127.0.0.1"}}))
    text = rules["/etc/nftables.conf"]
    assert 'tcp dport 6543 accept comment "pgbouncer.service"' in text and "tcp dport 22 accept" in text
    assert "dport 80 " not in text and "dport 5432" not in text and "dport 53 " not in text


def test_a_server_that_listens_for_others_has_an_open_port() -> None:
    of = image({"nftables": {}}, settings={"listen_addresses": "localhost, 192.0.2.1"})
    assert Port("tcp", 5432, "192.0.2.1", MAIN.unit) in of.rendered.ports
    assert "tcp dport 5432 accept" in texts(of)["/etc/nftables.conf"]


def test_services_have_a_say_in_postgresqls_configuration() -> None:
    plain = texts(image())
    assert not any(path.startswith("/etc/postgresql/") for path in plain)
    files = texts(image(ALL, settings={"work_mem": "16MB", "search_path": "it's"}))
    hba = [line.split() for line in files["/etc/postgresql/15/main/pg_hba.conf"].splitlines() if line[0] != "#"]
    assert hba[:3] == [
        ["local", "all", "postgres", "peer"], ["local", "all", "prometheus", "peer"],
        ["local", "all", "all", "scram-sha-256"],
    ]  # fmt: skip
    conf = "/etc/postgresql/15/main/conf.d"
    assert "archive_command = 'pgbackrest --stanza=main archive-push %p'" in files[f"{conf}/20-services.conf"]
    assert "search_path = 'it''s'\nwork_mem = '16MB'\n" in files[f"{conf}/30-manifest.conf"]


def test_an_image_without_services_has_the_packages_of_all() -> None:
    base = packages().machine
    assert image().packages(base) == tuple(sorted(base))
    assert {"pgbouncer", "nginx"} <= set(image(ALL).packages(base))


def test_profiles_are_small_overlays() -> None:
    assert {"aws", "container"} <= set(profiles())
    plain, aws, container = texts(image()), texts(image(profile="aws")), texts(image(profile="container"))
    assert "nvme_core" in aws["/boot/grub/grub.cfg"] and "nvme_core" not in plain["/boot/grub/grub.cfg"]
    assert set(aws) - set(plain) == {part.path for part in load_profile("aws").file}
    assert set(container) - set(plain) >= {part.path for part in load_profile("container").file}
    assert "/boot/grub/grub.cfg" not in container and "/etc/systemd/system/postgresql.service" not in container
    assert not image(profile="container").rendered.units
    assert not any(port.number in (22, 53) for port in image(profile="container").rendered.ports)
    assert "cloud-init" not in image(profile="container").packages(packages().machine)


def test_services_without_systemd_are_run_by_s6() -> None:
    """Each that has a way to be run there; what belongs to a machine of one's own is left out whole."""
    own = {"postgrest": {"url": "https://e.org/postgrest", "sha256": SHA, "exec": "--port 3000"}}
    made = image({**ALL, **own}, "container")
    run = {path.split("/")[3] for path in texts(made) if path.startswith("/etc/s6/")}
    assert run == {"postgresql", "postgrest", *(name for name in known() if load(name).run)}
    assert not {"fail2ban", "nftables", "rsyslog"} & (run | set(made.packages(packages().machine)))
    assert not any(path.startswith("/etc/systemd/") for path in texts(made))
    assert (
        "exec s6-setuidgid postgrest /usr/local/lib/pgbake/postgrest --port 3000"
        in texts(made)["/etc/s6/postgrest/run"]
    )
    for path, text in texts(made).items():
        assert not re.search(r"@[a-z][a-z0-9-]*@(?!\d)", text), path
        assert "systemctl" not in text, path
    assert {6432, 9187} <= {port.number for port in made.rendered.ports if port.is_open}
    assert "/var/lib/postgresql/pgbackrest" in texts(made)["/etc/pgbackrest.conf"], "on the one volume"
    mine = image({"pgbackrest": {"path": "/backup"}}, "container")
    assert "repo1-path=/backup" in texts(mine)["/etc/pgbackrest.conf"], "what the manifest says wins"


@pytest.mark.parametrize(
    ("services", "problem", "hint"),
    [
        ({"pgbouncr": {}}, 'there is no service "pgbouncr"', "did you mean pgbouncer?"),
        ({"pgbouncer": {"prot": 1}}, '"prot" is no value of the service pgbouncer', "listen, port, mode"),
        ({"pgbouncer": {"port": "6543"}}, "port of the service pgbouncer is '6543'", "write a number"),
        ({"pgbouncer": {"port": True}}, "port of the service pgbouncer is True", "write a number"),
        ({"pgbouncer": {"port": 70000}}, "70000 is no port", "1 to 65535"),
        ({"pgbouncer": {"mode": "a\nadmin_users = x"}}, "has a character that mode", "letters"),
        ({"rsyslog": {}}, "lacks target, the host that takes the logs", "add target"),
        ({"own": {"url": "https://e.org/own", "sha256": "x"}}, '"x" is no sha256', "64 hexadecimal"),
        ({"own": {"url": "own", "sha256": SHA}}, '"own" is not the URL of a file', "https://HOST"),
        ({"own": {"url": "https://e.org/own", "sha256": SHA, "prots": []}}, "unknown field `prots`", "ports"),
        ({"own": {"url": "https://e.org/own", "sha256": SHA, "files": {"/etc/x": "none"}}}, "cannot read", None),
    ],
)  # fmt: skip
def test_what_a_manifest_may_not_say(services: dict[str, Setting], problem: str, hint: str | None) -> None:
    with pytest.raises(ManifestError) as caught:
        image(services)
    assert problem in str(caught.value)
    assert hint is None or hint in (caught.value.hint or "")


def test_a_profile_that_is_none() -> None:
    with pytest.raises(ManifestError, match='no profile "asw"') as caught:
        image(profile="asw")
    assert "did you mean aws?" in (caught.value.hint or "")


def test_a_binary_gets_a_user_a_unit_and_its_files(tmp_path: Path) -> None:
    (tmp_path / "own.conf").write_text("db-uri = postgres:///postgres?port=@postgresql-port@\n")
    own: Setting = {
        "url": "https://e.org/own.tar.xz", "sha256": SHA, "member": "own",
        "exec": "/etc/own.conf --major @postgresql-major@",
        "ports": [{"number": 3000, "address": "*"}], "files": {"/etc/own.conf": "own.conf"}, "check": 'own -t "$1"',
    }  # fmt: skip
    whole = image({"own": own, "nftables": {}}, file=tmp_path / "pgbake.toml")
    files = texts(whole)
    assert files["/etc/own.conf"] == "db-uri = postgres:///postgres?port=5432\n"
    unit = files["/etc/systemd/system/own.service"]
    assert "ExecStart=/usr/local/lib/pgbake/own /etc/own.conf --major 15\n" in unit and "User=own\n" in unit
    assert "tcp dport 3000 accept" in files["/etc/nftables.conf"]
    assert "enable own.service" in files["/etc/systemd/system-preset/00-pgbake.preset"]
    assert [user.name for user in whole.rendered.users] == ["postgres", "own"]
    assert ("own", ("/etc/own.conf",)) in [(check.name, check.files) for check in whole.checks]
