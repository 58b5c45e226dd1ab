"""Licences of Debian packages, from their machine-readable copyright files (DEP-5), as SPDX names."""

from __future__ import annotations

import re
from pathlib import Path

#: Debian's short names that are not SPDX's already.
_SPDX = {
    "expat": "MIT", "bsd-2-clause": "BSD-2-Clause", "bsd-3-clause": "BSD-3-Clause", "bsd-4-clause": "BSD-4-Clause",
    "postgresql": "PostgreSQL", "psf": "PSF-2.0", "perl": "Artistic-1.0-Perl", "isc": "ISC", "zlib": "Zlib",
    "apache": "Apache-2.0", "apache-2": "Apache-2.0", "mpl-2": "MPL-2.0", "artistic": "Artistic-1.0-Perl",
}  # fmt: skip
_GNU = re.compile(r"(?P<name>A?L?GPL)-?(?P<version>\d(\.\d)?)?(?P<later>\+)?", re.IGNORECASE)

#: What is said where a copyright file tells no licence in a form that can be read.
UNKNOWN = "LicenseRef-see-copyright"


def licence_of(tree: Path, package: str) -> str:
    """Return the licence that the copyright file of an unpacked package tells for its files.

    That is the one of ``Files: *``, else of all paragraphs that speak of other files than Debian's own.
    """
    try:
        text = (tree / "usr/share/doc" / package / "copyright").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return UNKNOWN
    found: dict[str, None] = {}
    for paragraph in re.split(r"\n\s*\n", text):
        files = re.search(r"^Files:\s*((?:.*)(?:\n\s+.*)*)", paragraph, re.MULTILINE)
        licence = re.search(r"^License:[ \t]*(.+)", paragraph, re.MULTILINE)
        if not files or not licence:
            continue
        name = spdx(licence[1])
        if files[1].split() == ["*"]:
            return name
        if not all(glob.startswith("debian/") for glob in files[1].split()):
            found[name] = None
    return " AND ".join(found) or UNKNOWN


def spdx(name: str) -> str:
    """Return Debian's name of a licence, or of several joined by ``or`` and ``and``, in SPDX's form."""
    parts = re.split(r"\s+(or|and)\s+|,\s*", name.strip())
    words = [part.upper() if part in ("or", "and") else _one(part) for part in parts if part]
    return " ".join(words)


def _one(name: str) -> str:
    plain = name.split(" with ")[0].strip()
    if gnu := _GNU.fullmatch(plain):
        version = gnu["version"] or "1"
        version += "" if "." in version else ".0"
        return f"{gnu['name'].upper()}-{version}-{'or-later' if gnu['later'] or not gnu['version'] else 'only'}"
    return _SPDX.get(plain.lower(), re.sub(r"[^A-Za-z0-9.+-]", "-", plain))
