"""A job server in GNU make's protocol, shared by all builds, so that they never oversubscribe the cores.

A pipe holds one byte for each free core. A build takes one before it starts and puts it back when it
ends; every ``make`` inside it takes further ones for as long as it runs more than one job at once.
Protocol: "POSIX Jobserver Interaction" in the manual of GNU make.
"""

from __future__ import annotations

import os
import select
from collections.abc import Callable, Iterator
from contextlib import contextmanager


class JobServer:
    """The free cores of this run."""

    def __init__(self, cores: int) -> None:
        self.cores = cores
        self._read, self._write = os.pipe()
        # make sets it non-blocking as well, and the flag is shared by all who have the pipe.
        os.set_blocking(self._read, False)
        os.write(self._write, b"+" * cores)

    @property
    def descriptors(self) -> tuple[int, int]:
        """The pipe's ends, which builds inherit."""
        return self._read, self._write

    @property
    def makeflags(self) -> str:
        """The value of MAKEFLAGS that tells make of this server."""
        return f" -j{self.cores} --jobserver-auth={self._read},{self._write}"

    @contextmanager
    def core(self, cancelled: Callable[[], bool]) -> Iterator[bool]:
        """Wait for a free core and hold it for a ``with`` block; False when ``cancelled`` says so first."""
        token = b""
        while not token and not cancelled():
            select.select([self._read], [], [], 0.2)
            try:
                token = os.read(self._read, 1)
            except BlockingIOError:
                continue
        try:
            yield bool(token)
        finally:
            os.write(self._write, token)

    def close(self) -> None:
        """Close the pipe; no build may be running."""
        os.close(self._read)
        os.close(self._write)
