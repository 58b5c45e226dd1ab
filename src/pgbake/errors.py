"""The tree of errors that pgbake raises.

The library raises; only ``pgbake.cli`` prints. Every error says what happened (``message``), what to
do or type next (``hint``) and, where it helps, the evidence (``detail``: several lines, a log's end).
A user's mistake never shows a traceback; an exception outside this tree is a bug of pgbake.
"""

from __future__ import annotations

import errno


class PgbakeError(Exception):
    """Anything that pgbake reports to its user instead of crashing.

    :param message: one sentence: what happened, with names and values.
    :param hint: one sentence: what to do or type next.
    :param detail: further lines shown below, such as the end of a log.
    """

    exit_status = 1

    def __init__(self, message: str, *, hint: str | None = None, detail: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.detail = detail

    def __str__(self) -> str:
        return self.message


class FormatError(PgbakeError):
    """Data that does not follow its format: base32, store path, NAR, derivation."""


class ManifestError(PgbakeError):
    """The manifest, a recipe, or a command's argument is wrong."""

    exit_status = 2


class LockError(PgbakeError):
    """The lock is missing, unreadable, or does not fit the manifest."""


class InputError(PgbakeError):
    """A pinned input could not be fetched, verified or unpacked."""


class StoreError(PgbakeError):
    """The store is damaged, locked by another, or not writable."""


class CacheError(PgbakeError):
    """A binary cache refuses, does not answer, or holds what it should not."""


class BuildError(PgbakeError):
    """A derivation failed to build."""


class ServerError(PgbakeError):
    """A local server did not start, stop or answer."""


class MigrationError(PgbakeError):
    """A migration of an image fails, or is not what it was when it was first applied."""


class VerifyError(PgbakeError):
    """An image deviates from its contract, or fails its tests."""


class HostError(PgbakeError):
    """The machine lacks something: a program, a permission, a kernel feature, disk space."""


#: What to do about an error of the operating system, by its number.
HOST_HINTS = {
    errno.ENOSPC: "free disk space, then run the same command again; nothing that was complete is lost",
    errno.EDQUOT: "your disk quota is used up: free space, then run the same command again",
    errno.EROFS: "mount the file system writable, or name another place",
    errno.EACCES: "run as the owner of that place, or name another",
}


def host_error(error: OSError, what: str) -> HostError:
    """Turn an OS error into one that says what to do: disk space, rights, or just its own words."""
    return HostError(f"{what}: {error.strerror}", hint=HOST_HINTS.get(error.errno or 0))


class CommandError(PgbakeError):
    """A program that pgbake ran has failed; see :func:`pgbake.run.run`."""

    def __init__(self, message: str, *, status: int, hint: str | None = None, detail: str | None = None) -> None:
        super().__init__(message, hint=hint, detail=detail)
        self.status = status
