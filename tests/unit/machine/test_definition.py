"""The table of a machine, rendered for values."""

from __future__ import annotations

from pgbake.machine.definition import Cluster, Port, Unit, definition, is_loopback, render
from pgbake.machine.image import MachineImage

MAIN = Cluster(15, "main", 5432)


def test_no_version_means_nothing() -> None:
    assert render([], [], None).parts == ()


def test_every_value_is_filled_in() -> None:
    for part in render([15, 17], [MAIN, Cluster(17, "main", 5433)], 15).parts:
        for text in (part.path, part.target, *part.unless, part.content.decode()):
            assert not any(f"@{name}@" in text for name in ("major", "cluster", "port", "locale", "each")), part.path


def test_units_are_named_after_their_cluster() -> None:
    parts = {part.path: part for part in render([15], [MAIN], 15).parts}
    unit = parts["/etc/systemd/system/postgresql@15-main.service"].content.decode()
    assert "Type=notify" in unit and "Requires=postgresql-init@15-main.service" in unit
    assert MAIN.unit == "postgresql@15-main.service"


def test_plain_names_are_those_of_one_version() -> None:
    parts = render([15, 17], [MAIN], 17).parts
    assert [p.target for p in parts if p.path == "/usr/bin/psql"] == ["/usr/lib/postgresql/17/bin/psql"]


def test_systemds_files_are_made_of_the_same_rows() -> None:
    parts = {part.path: part.content.decode() for part in render([15], [MAIN], 15).parts}
    assert "d /run/postgresql 2775 postgres postgres -" in parts["/etc/tmpfiles.d/pgbake-postgresql.conf"]
    user = definition().user[0]
    assert (
        f'u {user.name} 999:{user.group} "{user.comment}" {user.home}'
        in parts["/etc/sysusers.d/pgbake-postgresql.conf"]
    )


def test_units_and_ports_follow_the_clusters() -> None:
    rendered = render([15], [MAIN, Cluster(15, "second", 5433)], 15)
    parts = {part.path: part for part in rendered.parts}
    assert Unit("postgresql@15-second.service", "enabled") in rendered.units
    assert Unit("postgresql-init@15-main.service", "static") in rendered.units
    link = parts["/etc/systemd/system/postgresql.service.wants/postgresql@15-second.service"]
    assert link.target == "../postgresql@15-second.service"
    assert not any(path.endswith(".wants/postgresql-init@15-main.service") for path in parts)
    assert rendered.ports == tuple(
        Port("tcp", cluster.port, "localhost", cluster.unit) for cluster in (MAIN, Cluster(15, "second", 5433))
    )
    assert not any(port.is_open for port in rendered.ports)


def test_an_image_declares_who_listens() -> None:
    ports = {(port.protocol, port.number): port.is_open for port in MachineImage().rendered.ports}
    assert ports == {("tcp", 22): True, ("tcp", 53): False, ("udp", 53): False, ("udp", 68): True}


def test_addresses_of_the_machine_itself() -> None:
    assert all(map(is_loopback, ("127.0.0.1", "127.0.0.53", "::1", "[::1]", "localhost")))
    assert not any(map(is_loopback, ("*", "0.0.0.0", "::", "[::]", "10.0.0.1")))


def test_debians_postgresql_has_no_path_into_a_profile_and_waits_for_its_data() -> None:
    cluster = Cluster(15, "main", 5432)
    ours, debians = (render([15], [cluster], 15, flavour) for flavour in ("bundle", "deb"))
    assert any(part.target.startswith("/nix/") for part in ours.parts)
    assert not any(part.target.startswith("/nix/") for part in debians.parts)
    here, there = ({part.path for part in each.parts} for each in (ours, debians))
    drop_in = "/etc/systemd/system/postgresql@15-main.service.d/first-start.conf"
    assert there - here == {drop_in}
    assert "/etc/systemd/system/postgresql@15-main.service" in here - there
    assert "/etc/systemd/system/postgresql-init@15-main.service" in here & there
    content = next(part.content for part in debians.parts if part.path == drop_in).decode()
    assert "Requires=postgresql-init@15-main.service" in content
    assert (ours.groups, ours.users, ours.ports) == (debians.groups, debians.users, debians.ports)
