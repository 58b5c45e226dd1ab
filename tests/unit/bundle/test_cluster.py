"""What a server's settings come from, and what contradicts."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgbake.bundle.cluster import overridden, write_settings
from pgbake.bundle.receipt import Receipt, Server

RECEIPT = Receipt(
    version=1, name="a", system="x86_64-linux", postgresql=Server("15.1", 15), extensions=(),
    preload=("pg_cron", "pgaudit"), settings={"cron.database_name": "postgres"}, locales=("C.UTF-8",), collations={},
)  # fmt: skip


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"work_mem": "1MB"}, []),
        ({"shared_preload_libraries": 'pgaudit, "pg_cron",mine'}, []),
        ({"shared_preload_libraries": "mine,pgaudit"}, ["lacks pg_cron, without which"]),
        ({"cron.database_name": "postgres"}, []),
        (
            {"cron.database_name": "shop"},
            ["where extensions of the bundle need postgres"],
        ),
    ],
)
def test_what_the_manifest_takes_away_is_told(settings: dict[str, str], words: list[str]) -> None:
    found = overridden(RECEIPT, settings)
    assert len(found) == len(words) and all(word in line for word, line in zip(words, found, strict=True))


def test_the_receipt_s_settings_are_written_and_the_manifest_s_win(tmp_path: Path) -> None:
    write_settings(tmp_path, RECEIPT, 5432, {"cron.database_name": "it's"}, None)
    lines = (tmp_path / "pgbake.conf").read_text().splitlines()
    assert "shared_preload_libraries = 'pg_cron,pgaudit'" in lines
    assert "cron.database_name = 'it''s'" in lines
