"""What the suites of uses read from a server's log, and which extensions they put into one bundle."""

from __future__ import annotations

import msgspec

from pgbake.recipes.recipe import load_catalogue
from tests.uses import Outcome, crashes, table, together

LOG = """\
2026-11-26 13:54:01.100 UTC [71] LOG:  connection received: host=[local]
2026-11-26 13:54:01.101 UTC [71] LOG:  connection authorized: user=postgres database=u application_name=use:plr
2026-11-26 13:54:01.102 UTC [72] LOG:  connection authorized: user=postgres database=u application_name=psql
2026-11-26 13:54:01.200 UTC [9] LOG:  server process (PID 71) was terminated by signal 11: Segmentation fault
2026-11-26 13:54:01.201 UTC [9] LOG:  background worker "powa" (PID 73) exited with exit code 1
2026-11-26 13:54:02.101 UTC [71] LOG:  replication connection authorized: user=postgres application_name=use:wal2json
2026-11-26 13:54:02.200 UTC [9] LOG:  server process (PID 71) was terminated by signal 6: Aborted
2026-11-26 13:54:02.300 UTC [9] LOG:  background worker "pg_cron launcher" (PID 74) was terminated by signal 9: Killed
"""


def test_a_crash_is_told_with_the_use_whose_process_it_was() -> None:
    assert crashes(LOG) == [
        ("plr", "server process (PID 71) was terminated by signal 11: Segmentation fault"),
        ("wal2json", "server process (PID 71) was terminated by signal 6: Aborted"),
        (None, 'background worker "pg_cron launcher" (PID 74) was terminated by signal 9: Killed'),
    ]


def test_the_table_tells_of_a_second_try() -> None:
    text = table([Outcome("unit", "7", "deb", None, 0.5, lost="server closed\nthe connection")])
    assert text.splitlines()[1] == "    tried again after: server closed the connection"


def test_extensions_that_disturb_each_other_are_put_into_bundles_of_their_own() -> None:
    catalogue = load_catalogue()
    names = ["documentdb", "hll", "mongo_fdw", "pg_show_plans", "timescaledb"]
    assert together(names, 18, catalogue) == [["documentdb", "hll", "pg_show_plans"], ["mongo_fdw", "timescaledb"]]
    assert together(names, 17, catalogue) == [["documentdb", "hll", "pg_show_plans", "timescaledb"], ["mongo_fdw"]]
    recipe = catalogue.recipes["documentdb"]
    catalogue.recipes = {**catalogue.recipes, "documentdb": msgspec.structs.replace(recipe, conflicts={})}
    assert together(names, 17, catalogue) == [names]
