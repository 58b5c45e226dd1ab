"""Migrations as files: dbmate's form, their order, and that what was applied stays as it was."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from pgbake.errors import ManifestError, MigrationError
from pgbake.image.migrations import (
    APPLIED_NAME,
    PLACE,
    migration_parts,
    note_applied,
    read_migrations,
    require_append_only,
)

ORDERS = "20250101000000_orders.sql"
UP_AND_DOWN = "-- of the shop\n-- migrate:up\nCREATE TABLE orders ();\n\n-- migrate:down\nDROP TABLE orders;\n"


def write(directory: Path, **files: str) -> Path:
    for name, text in files.items():
        (directory / f"{name}.sql").write_text(text)
    return directory


def test_a_file_is_read_as_dbmate_reads_it(tmp_path: Path) -> None:
    write(tmp_path, **{
        "20250102000000": "-- migrate:up transaction:false\nCREATE INDEX CONCURRENTLY i ON orders ((1));\n",
        "20250101000000_orders": UP_AND_DOWN,
    })  # fmt: skip
    (tmp_path / "README").write_text("no migration")
    first, second = read_migrations(tmp_path)
    assert (first.version, first.name, first.transaction) == ("20250101000000", ORDERS, True)
    assert first.up == "-- of the shop\n-- migrate:up\nCREATE TABLE orders ();\n\n"  # lines keep their numbers
    assert (second.version, second.transaction) == ("20250102000000", False)


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("20250101_x", "CREATE TABLE x ();", 'a line "-- migrate:up" must come first'),
        ("20250101_x", "-- migrate:down\n-- migrate:up\n", 'a line "-- migrate:up" must come first'),
        ("20250101_x", "\nSELECT 1;\n-- migrate:up\n", "20250101_x.sql:2: SQL before the line with migrate:up"),
        ("20250101_x", "-- migrate:up transaction:maybe\n", "unknown option"),
        ("20250101_x", "-- migrate:up fast:true\n", "unknown option"),
        ("orders", UP_AND_DOWN, "a migration is named by a time"),
    ],
)
def test_a_file_of_another_form_is_refused_by_name(tmp_path: Path, name: str, text: str, said: str) -> None:
    write(tmp_path, **{name: text})
    with pytest.raises(ManifestError) as caught:
        read_migrations(tmp_path)
    assert said in caught.value.message and f"{name}.sql" in caught.value.message


def test_bytes_that_are_no_text_are_refused(tmp_path: Path) -> None:
    (tmp_path / ORDERS).write_bytes(b"-- migrate:up\nSELECT '\xff';\n")
    with pytest.raises(ManifestError, match="is not UTF-8: byte 22"):
        read_migrations(tmp_path)


def test_two_of_one_version_are_refused(tmp_path: Path) -> None:
    write(tmp_path, **{"1_a": UP_AND_DOWN, "1_b": UP_AND_DOWN})
    with pytest.raises(ManifestError, match=r"1_a\.sql and 1_b\.sql have the same version"):
        read_migrations(tmp_path)


def test_what_was_applied_is_neither_changed_nor_taken_away_nor_preceded(tmp_path: Path) -> None:
    write(tmp_path, **{"2_a": UP_AND_DOWN, "3_b": UP_AND_DOWN, "4_c": UP_AND_DOWN})
    note_applied(tmp_path, read_migrations(tmp_path))
    done = subprocess.run(["sha256sum", "--check", APPLIED_NAME], cwd=tmp_path, capture_output=True, check=False)
    assert done.returncode == 0
    write(tmp_path, **{"5_d": UP_AND_DOWN})
    require_append_only(tmp_path, read_migrations(tmp_path))

    write(tmp_path, **{"2_a": UP_AND_DOWN + "--", "1_z": UP_AND_DOWN})
    (tmp_path / "3_b.sql").unlink()
    with pytest.raises(MigrationError, match="3 migrations") as caught:
        require_append_only(tmp_path, read_migrations(tmp_path))
    assert caught.value.detail == "2_a.sql: changed\n3_b.sql: gone\n1_z.sql: new, and earlier than 4_c.sql"
    assert APPLIED_NAME in (caught.value.hint or "")


def test_where_there_are_none_nothing_is_written(tmp_path: Path) -> None:
    note_applied(tmp_path, ())
    assert migration_parts(()) == ()
    assert read_migrations(tmp_path / "nowhere") == ()
    assert not list(tmp_path.iterdir())


def test_an_image_has_the_way_up_alone(tmp_path: Path) -> None:
    write(tmp_path, **{ORDERS.removesuffix(".sql"): UP_AND_DOWN})
    parts = {part.path: part for part in migration_parts(read_migrations(tmp_path))}
    assert b"DROP" not in parts[f"{PLACE}/{ORDERS}"].content
    assert parts[f"{PLACE}/first-start"].mode == 0o755
    assert b"BEGIN;\n\\ir '20250101000000_orders.sql'\n" in parts[f"{PLACE}/apply.sql"].content
