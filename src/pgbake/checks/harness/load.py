"""Clients that write to a server at once, and keep what it has acknowledged, each on its own side of the wire.

Every transaction of a client writes several rows that only together make sense; so one that is there in part, or lost
after it was acknowledged, is seen by `verify`.
"""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from pgbake.checks.harness.report import Failure
from pgbake.checks.harness.server import Server

_TABLES = """
CREATE TABLE account (client int PRIMARY KEY, last int NOT NULL);
CREATE TABLE ledger (
  client int REFERENCES account, number int, part int, followed bool NOT NULL DEFAULT false,
  pad text NOT NULL, digest text NOT NULL, PRIMARY KEY (client, number, part)
);
ALTER TABLE ledger ALTER pad SET STORAGE EXTERNAL;
CREATE INDEX ON ledger (digest);
"""
#: A long value of some parts lies outside of its row, and spans pages.
_TRANSACTION = """\
BEGIN;
INSERT INTO ledger SELECT {client}, {number}, part, FALSE, pad, md5(pad) FROM (SELECT part,
  repeat(md5(concat({client}, ' ', {number}, ' ', part)), part * part * 12) AS pad FROM generate_series(1, 3) part) p;
UPDATE ledger SET followed = true WHERE client = {client} AND number = {number} - 1;
UPDATE account SET last = {number} WHERE client = {client};
COMMIT;
\\warn {number}
"""
#: What must hold, whatever was acknowledged: a line for each client where it does not.
_WHOLE = """
SELECT format('client %s: last is %s; %s of %s rows, %s of them damaged', a.client, a.last, count(l), 3 * a.last,
  count(*) FILTER (WHERE l.digest <> md5(l.pad) OR l.number > a.last OR l.followed <> (l.number < a.last)))
FROM account a LEFT JOIN ledger l USING (client) GROUP BY a.client, a.last
HAVING count(l) <> 3 * a.last OR NOT bool_and(l.digest = md5(l.pad) AND l.number BETWEEN 1 AND a.last
  AND l.part BETWEEN 1 AND 3 AND l.followed = (l.number < a.last)) ORDER BY a.client
"""
#: More than a client gets done before it is stopped.
_TRANSACTIONS = 4000
_CHECKPOINT_EVERY = 100


class Load:
    """The clients of one database.

    :param clients: how many there are.
    """

    def __init__(self, server: Server, database: str, clients: int = 4) -> None:
        self.server = server
        self.database = database
        #: The last transaction of each client that was acknowledged.
        self.acknowledged = [0] * clients
        self._running: list[tuple[subprocess.Popen[bytes], Path]] = []
        self._begun = list(self.acknowledged)

    def prepare(self) -> None:
        """Make the tables."""
        accounts = f"INSERT INTO account SELECT i, 0 FROM generate_series(0, {len(self.acknowledged) - 1}) i;"
        self.server.sql(_TABLES + accounts, self.database)

    def start(self) -> None:
        """Start the clients, which go on behind what the server has."""
        last = self._last(self.server)
        self._begun = list(self.acknowledged)
        for client in range(len(self.acknowledged)):
            script = self.server.directory / f"client-{client}.sql"
            told = self.server.directory / f"client-{client}.told"
            with script.open("w", encoding="utf-8") as file:
                for number in range(last[client] + 1, last[client] + _TRANSACTIONS):
                    file.write(_TRANSACTION.format(client=client, number=number))
                    if client == 0 and number % _CHECKPOINT_EVERY == 0:
                        file.write("CHECKPOINT;\n")
            words = ("-XAtq", "-v", "ON_ERROR_STOP=1", "-d", self.database, "-f", str(script))
            with told.open("wb") as file_of_told:
                process = subprocess.Popen(
                    [f"{self.server.session.bundle}/bin/psql", *words],
                    stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=file_of_told,
                    env=self.server.environment,
                )  # fmt: skip
            self._running.append((process, told))

    def run(self, transactions: int, seconds: float = 1.0) -> None:
        """Wait until each client has had so many transactions acknowledged since the start.

        :param seconds: after which a tenth of them is enough, on a slow disk.
        :raises Failure: a client ends before.
        """
        begin = time.monotonic()
        until = begin + self.server.session.patience
        while True:
            self._read()
            done = [last - begun for last, begun in zip(self.acknowledged, self._begun, strict=True)]
            enough = transactions if time.monotonic() < begin + seconds else transactions // 10
            if min(done) >= enough:
                return
            for client, (process, told) in enumerate(self._running):
                if process.poll() is not None:
                    raise Failure(f"client {client} ended with status {process.returncode}", told.read_text()[-1000:])
            if time.monotonic() > until:
                raise Failure(f"the clients wrote too little: {done} transactions", self.server.activity())
            time.sleep(0.02)

    def stop(self) -> None:
        """Stop the clients that still run, and see what they were told."""
        for process, _ in self._running:
            process.terminate()
            process.wait()
        self._read()
        self._running.clear()

    def _read(self) -> None:
        for client, (_, told) in enumerate(self._running):
            text = told.read_text(errors="replace")
            numbers = [int(line) for line in text[: text.rfind("\n") + 1].splitlines() if line.isdigit()]
            if numbers:
                self.acknowledged[client] = numbers[-1]

    def _last(self, server: Server) -> list[int]:
        """Return the last transaction of each client that a server has."""
        return [int(last) for last in server.sql("SELECT last FROM account ORDER BY client", self.database).split()]

    def verify(self, server: Server | None = None) -> None:
        """Check that all that was acknowledged is there, and nothing is there in part.

        :param server: that has the same data, in place of the one written to.
        :raises Failure: something is lost or torn.
        """
        server = server or self.server
        # A sequential scan sees the table itself; indexes are for pg_amcheck.
        if torn := server.sql(f"SET enable_indexscan = off; SET enable_bitmapscan = off; {_WHOLE}", self.database):
            raise Failure("transactions are there in part", torn)
        for client, (known, last) in enumerate(zip(self.acknowledged, self._last(server), strict=True)):
            # The answer to the last one may have been lost on its way.
            if not known <= last <= known + 1:
                raise Failure(f"client {client} was told that {known} transactions are committed, and {last} are there")
