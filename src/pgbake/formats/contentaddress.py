"""Content addresses: what lets a store path certify itself, without a signature.

::

    text:sha256:DIGEST               a text file with references, such as a .drv
    fixed:[r:]ALGORITHM:DIGEST       a fixed output; r: its NAR is what the digest is of
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, Self

from pgbake.errors import FormatError
from pgbake.formats.digest import parse_digest
from pgbake.formats.storepath import StorePath, fixed_output_path, source_path, text_path


@dataclass(frozen=True, slots=True)
class ContentAddress:
    """What a path's contents hash to.

    :param method: ``text`` and ``flat``: the digest is that of one file's bytes; ``recursive``: of the NAR.
    :param algorithm: one of :data:`~pgbake.formats.storepath.ALGORITHMS`; of a text, ``sha256``.
    :param digest: raw.
    """

    method: Literal["text", "flat", "recursive"]
    algorithm: str
    digest: bytes

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read Nix's notation.

        :raises FormatError: it is none.
        """
        kind, _, rest = text.partition(":")
        if kind == "text":
            algorithm, digest = parse_digest(rest)
            if algorithm == "sha256":
                return cls("text", algorithm, digest)
        elif kind == "fixed":
            recursive = rest.startswith("r:")
            algorithm, digest = parse_digest(rest.removeprefix("r:"))
            return cls("recursive" if recursive else "flat", algorithm, digest)
        raise FormatError(f"{text[:200]!r} is no content address: text:sha256:DIGEST or fixed:[r:]ALGORITHM:DIGEST")

    def path(self, name: str, references: Iterable[StorePath] = ()) -> StorePath | None:
        """Return the path that contents of this address have, or None where none can have it.

        A tree that mentions its own path is not told from its digest alone; Nix never makes one by default.

        :param references: what the contents refer to.
        """
        references = list(references)
        if self.method == "text":
            return text_path(name, self.digest, references)
        if self.method == "recursive" and self.algorithm == "sha256":
            return source_path(name, self.digest, references)
        return None if references else fixed_output_path(name, self.method, self.algorithm, self.digest)
