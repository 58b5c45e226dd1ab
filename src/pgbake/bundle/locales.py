"""The bundle's locales, compiled by glibc's ``localedef`` as a derivation of their own."""

from __future__ import annotations

import re
from collections.abc import Sequence

from pgbake.formats.derivation import Derivation
from pgbake.recipes.builders import SOURCE_DATE_EPOCH
from pgbake.recipes.lowering import Lowering, root_of

_SCRIPT = r"""
mkdir -p "$out/usr/lib/locale"
for locale in $locales; do
  IFS=, read -r locale source charmap directory <<< "$locale"
  localedef --no-archive -i "$source" -f "$charmap" "$out/usr/lib/locale/$directory"
  # by the name that people use, too: glibc looks for it in all directories, the machine's included, before it
  # looks for the normalised one in the first
  ln -s "$directory" "$out/usr/lib/locale/$locale"
done
"""


def locales_package(lowering: Lowering, locales: Sequence[str]) -> Derivation:
    """Lower the package of the given locales (``en_US.UTF-8``, ``C.UTF-8``)."""
    root = lowering.root(*root_of(lowering.server, lowering.catalogue))
    words = [",".join((locale, *_definition(locale))) for locale in sorted(locales)]
    return lowering.graph.add(
        "locales",
        lowering.system,
        root,
        _SCRIPT,
        env={"SOURCE_DATE_EPOCH": SOURCE_DATE_EPOCH, "locales": " ".join(words), "pname": "locales"},
    )


def _definition(locale: str) -> tuple[str, str, str]:
    """Return what localedef is called with: source, charmap, and the directory's name as glibc normalises it."""
    name, _, modifier = locale.partition("@")
    language, _, charmap = name.partition(".")
    suffix = f"@{modifier}" if modifier else ""
    normalised = re.sub(r"[^a-z0-9]", "", charmap.lower())
    return language + suffix, charmap, f"{language}.{normalised}{suffix}"
