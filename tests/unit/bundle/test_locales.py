"""What localedef is called with, and what glibc looks for."""

from __future__ import annotations

import pytest

from pgbake.bundle.locales import locales_package
from pgbake.formats.system import SYSTEMS
from pgbake.lock import Lock
from pgbake.manifest import Manifest
from pgbake.recipes.lowering import Lowering
from pgbake.recipes.recipe import Catalogue


@pytest.mark.parametrize(
    ("locale", "words"),
    [
        ("en_US.UTF-8", "en_US.UTF-8,en_US,UTF-8,en_US.utf8"),
        ("C.UTF-8", "C.UTF-8,C,UTF-8,C.utf8"),
        ("de_DE.ISO-8859-15@euro", "de_DE.ISO-8859-15@euro,de_DE@euro,ISO-8859-15,de_DE.iso885915@euro"),
    ],
)
def test_a_locale_becomes_source_charmap_and_directory(
    manifest: Manifest, catalogue: Catalogue, lock: Lock, locale: str, words: str
) -> None:
    lowering = Lowering(catalogue, lock, SYSTEMS["x86_64-linux"], manifest.postgresql)
    assert locales_package(lowering, [locale]).env["locales"] == words


def test_the_order_in_the_manifest_does_not_matter(manifest: Manifest, catalogue: Catalogue, lock: Lock) -> None:
    lowering = Lowering(catalogue, lock, SYSTEMS["x86_64-linux"], manifest.postgresql)
    one = locales_package(lowering, ["C.UTF-8", "en_US.UTF-8"])
    assert one == locales_package(lowering, ["en_US.UTF-8", "C.UTF-8"])
