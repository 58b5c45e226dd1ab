"""The pin: which outside file exactly, and where on any mirror it lies."""

from __future__ import annotations

from typing import Annotated

import msgspec

#: Changes with every change of how packages are unpacked (`pgbake.inputs.buildroot`), so that locks which
#: record the trees that an earlier way gave are recognised.
UNPACKING_VERSION = 1

#: Where a file lies: ``debian`` or ``security``, which have mirrors; ``crates``, cargo's registry; the name of one of
#: the manifest's repositories; or a base URL, of which there is just that one.
Archive = str

#: Relative, without an empty, ``.`` or ``..`` component: a pin never names a file outside its mirror.
_ARCHIVE = r"^([a-z0-9][a-z0-9-]*|(https?|file)://\S+)\Z"
_RELATIVE_PATH = r"^(?!\.{1,2}(/|\Z))[^/\x00]+(/(?!\.{1,2}(/|\Z))[^/\x00]+)*\Z"


class Pin(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True):
    """One outside file as the lock records it. Its sha256 decides; the rest says where to ask for it.

    :param version: its version as its origin writes it (a Debian version for a package, with epoch).
    :param path: relative to an archive's base URL and not percent-encoded, such as
        ``pool/main/b/bash/bash_5.2.15-2+b13_amd64.deb``.
    :param size: in bytes.
    :param sha256: of the whole file, 64 lower-case hexadecimal digits.
    :param archive: whose mirrors carry it.
    """

    version: Annotated[str, msgspec.Meta(min_length=1)]
    path: Annotated[str, msgspec.Meta(pattern=_RELATIVE_PATH)]
    size: Annotated[int, msgspec.Meta(ge=0)]
    sha256: Annotated[str, msgspec.Meta(pattern=r"^[0-9a-f]{64}\Z")]
    archive: Annotated[Archive, msgspec.Meta(pattern=_ARCHIVE)] = "debian"

    @property
    def filename(self) -> str:
        """The last component of the path."""
        return self.path.rpartition("/")[2]
