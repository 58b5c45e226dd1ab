"""What the sources of an extension say of themselves: name, version, licence, builder, and what it takes to build them.

All of it is read, nothing run. What is not certain is left out or told as an assumption: a recipe that was drafted from
a survey is for its user to read.
"""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import PurePosixPath
from typing import Any

from pgbake.errors import InputError
from pgbake.inputs.sources import SourceTree, stem
from pgbake.recipes.recipe import Builder

#: What is written for a licence that could not be told.
UNKNOWN_LICENCE = "LicenseRef-unknown"

#: Debian package with headers -> (globs of what is included, names that the linker gets, names for pkg-config).
#: Only what is certain: headers that no other package has.
_HEADERS: dict[str, tuple[str, str, str]] = {
    "libboost-dev": (r"boost/.*", "", ""),
    "libcurl4-openssl-dev": (r"curl/.*", "curl", "libcurl"),
    "libexpat1-dev": (r"expat\.h", "expat", "expat"),
    "libgdal-dev": (r"gdal(/.*|\.h)", "gdal", "gdal"),
    "libgeos-dev": (r"geos_c\.h", "geos_c", "geos"),
    "libgsl-dev": (r"gsl/.*", "gsl|gslcblas", "gsl"),
    "libh3-dev": (r"h3/h3api\.h", "h3", "h3"),
    "libhiredis-dev": (r"hiredis/.*", "hiredis", "hiredis"),
    "libicu-dev": (r"unicode/.*", "icuuc|icui18n|icudata", "icu-uc|icu-i18n"),
    "libjansson-dev": (r"jansson\.h", "jansson", "jansson"),
    "libjson-c-dev": (r"json-c/.*", "json-c", "json-c"),
    "libkrb5-dev": (r"gssapi(/.*|\.h)|libpq/libpq(-be)?\.h|libpq/auth\.h", "gssapi_krb5|krb5", "krb5|krb5-gssapi"),
    "libldap-dev": (r"ldap\.h", "ldap", "ldap"),
    "liblz4-dev": (r"lz4\.h", "lz4", "liblz4"),
    "libmagic-dev": (r"magic\.h", "magic", "libmagic"),
    "libmaxminddb-dev": (r"maxminddb\.h", "maxminddb", "libmaxminddb"),
    "libmosquitto-dev": (r"mosquitto\.h", "mosquitto", "libmosquitto"),
    "libnuma-dev": (r"numa\.h", "numa", "numa"),
    "libpam0g-dev": (r"security/pam_\w+\.h", "pam", ""),
    "libpcre2-dev": (r"pcre2\.h", "pcre2-8|pcre2-posix", "libpcre2-8"),
    "libpcre3-dev": (r"pcre\.h", "pcre", "libpcre"),
    "libproj-dev": (r"proj\.h", "proj", "proj"),
    "libprotobuf-c-dev": (r"protobuf-c/.*", "protobuf-c", "libprotobuf-c"),
    "librabbitmq-dev": (r"amqp(_\w+)?\.h|rabbitmq-c/.*", "rabbitmq", "librabbitmq"),
    "librdkafka-dev": (r"librdkafka/.*", "rdkafka", "rdkafka"),
    "libsodium-dev": (r"sodium\.h", "sodium", "libsodium"),
    "libsqlite3-dev": (r"sqlite3\.h", "sqlite3", "sqlite3"),
    "libssl-dev": (r"openssl/.*|libpq/libpq(-be)?\.h|libpq/auth\.h", "ssl|crypto", "openssl|libssl|libcrypto"),
    "libsystemd-dev": (r"systemd/sd-\w+\.h", "systemd", "libsystemd"),
    "libxml2-dev": (r"libxml/.*", "xml2", r"libxml-2\.0"),
    "libxslt1-dev": (r"libxslt/.*", "xslt", "libxslt"),
    "libyaml-dev": (r"yaml\.h", "yaml", r"yaml-0\.1"),
    "libzmq3-dev": (r"zmq\.h", "zmq", "libzmq"),
    "libzstd-dev": (r"zstd\.h", "zstd", "libzstd"),
    "freetds-dev": (r"sybdb\.h|sybfront\.h", "sybdb", ""),
    "libgroonga-dev": (r"groonga\.h", "groonga", "groonga"),
    "libpng-dev": (r"png\.h", "png", "libpng"),
    "unixodbc-dev": (r"sqlext\.h|sql\.h", "odbc", "odbc"),
    "uuid-dev": (r"uuid/uuid\.h", "uuid", "uuid"),
    "zlib1g-dev": (r"zlib\.h", "z", "zlib"),
}

#: The words of PGXN's META.json for licences, in SPDX's form.
_META_LICENCES = {
    "postgresql": "PostgreSQL", "mit": "MIT", "bsd": "BSD-3-Clause", "freebsd": "BSD-2-Clause", "isc": "ISC",
    "apache_2_0": "Apache-2.0", "apache_1_1": "Apache-1.1", "gpl_1": "GPL-1.0-or-later", "gpl_2": "GPL-2.0-only",
    "gpl_3": "GPL-3.0-only", "agpl_3": "AGPL-3.0-only", "lgpl_2_1": "LGPL-2.1-only", "lgpl_3_0": "LGPL-3.0-only",
    "mozilla_1_0": "MPL-1.0", "mozilla_1_1": "MPL-1.1", "mozilla_2_0": "MPL-2.0", "artistic_2": "Artistic-2.0",
    "zlib": "Zlib",
}  # fmt: skip

#: What the text of a licence holds -> its SPDX name; the first that fits is taken.
_LICENCE_TEXTS = (
    (r"GNU AFFERO GENERAL PUBLIC LICENSE\s+Version 3", "AGPL-3.0-only"),
    (r"GNU LESSER GENERAL PUBLIC LICENSE\s+Version 3", "LGPL-3.0-only"),
    (r"GNU LESSER GENERAL PUBLIC LICENSE\s+Version 2\.1", "LGPL-2.1-only"),
    (r"GNU GENERAL PUBLIC LICENSE\s+Version 3", "GPL-3.0-only"),
    (r"GNU GENERAL PUBLIC LICENSE\s+Version 2", "GPL-2.0-only"),
    (r"Apache License,?\s+Version 2\.0", "Apache-2.0"),
    (r"Mozilla Public License,?\s+(Version|v\.?) ?2\.0", "MPL-2.0"),
    (r"to use, copy, modify, and distribute this software and its documentation for any purpose, without fee",
     "PostgreSQL"),
    (r"PostgreSQL License", "PostgreSQL"),
    (r"Permission is hereby granted, free of charge, to any person obtaining a copy", "MIT"),
    (r"Permission to use, copy, modify, and/?(or)? distribute this software for any purpose with or without fee",
     "ISC"),
    (r"Redistribution and use in source and binary forms.*(Neither the name|may not be used to endorse|The names? of)",
     "BSD-3-Clause"),
    (r"Redistribution and use in source and binary forms", "BSD-2-Clause"),
)  # fmt: skip

_VERSION = r"v?(\d+(?:[._]\d+)*(?:-?(?:alpha|beta|rc|devel)\.?\d*)?)"
_PRELOADING = "process_shared_preload_libraries_in_progress"
_MAKEFILES = ("GNUmakefile", "makefile", "Makefile")
_PGXS = re.compile(r"\bPGXS\b|--pgxs\b")


@dataclass(frozen=True, slots=True)
class Survey:
    """What the sources say of themselves.

    :param directory: below the sources: where the builder works.
    :param preload: modules that ask whether they are being preloaded.
    :param packages: Debian packages with headers.
    :param assumed: what was concluded rather than read, each in one sentence.
    """

    name: str
    version: str
    summary: str
    licence: str
    homepage: str | None
    builder: Builder
    directory: str = ""
    extensions: tuple[str, ...] = ()
    requires: tuple[str, ...] = ()
    preload: tuple[str, ...] = ()
    packages: tuple[str, ...] = ()
    assumed: tuple[str, ...] = field(default_factory=tuple)


def survey(tree: SourceTree, major: int, place: str = "") -> Survey:
    """Look at an extension's sources.

    :param major: PostgreSQL's major version that it is wanted for.
    :param place: the URL that they come from, which may name version and project.
    :raises InputError: nothing says how they are built, or they are for other versions of PostgreSQL.
    """
    assumed: list[str] = []
    meta = _meta(tree)
    cargo = _toml(tree.texts.get("Cargo.toml", ""))
    builder, directory = _builder(tree, cargo)
    _check_major(tree, meta, cargo, major)
    controls = _controls(tree, directory)
    control = next(iter(controls.values()), {})
    name = _name(tree, meta, cargo, controls, builder)
    version, whence = _version(tree, meta, cargo, control, place)
    assumed.append(f"the version {version} is {whence}")
    licence, whence = _licence(tree, meta, cargo)
    assumed.append(f"the licence {licence} is {whence}")
    package = cargo.get("package", {}) if builder == "cargo-pgrx" else {}
    summary = str(meta.get("abstract") or package.get("description") or control.get("comment") or name)
    preload = _preload(tree, controls, package, directory)
    if preload:
        assumed.append(f"{', '.join(preload)} is loaded at the server's start: its sources ask for {_PRELOADING}")
    packages = _packages(tree)
    if packages:
        assumed.append(f"{', '.join(packages)}: its sources include their headers, or its makefiles link with them")
    if directory:
        assumed.append(f"it is built in its directory {directory}")
    return Survey(
        name=name,
        version=version,
        summary=" ".join(summary.split()).rstrip("."),
        licence=licence,
        homepage=_homepage(meta, package, place),
        builder=builder,
        directory=directory,
        extensions=tuple(sorted(controls)),
        requires=tuple(part.strip() for part in control.get("requires", "").split(",") if part.strip()),
        preload=preload,
        packages=packages,
        assumed=tuple(assumed),
    )


# --- how it is built -------------------------------------------------------------------------------------------


def _builder(tree: SourceTree, cargo: dict[str, Any]) -> tuple[Builder, str]:
    """Return the builder, and the directory below the sources that it works in."""
    found = _builder_in(tree, "", cargo)
    if found:
        return found, ""
    below = sorted(
        {str(PurePosixPath(name).parent) for name in tree.texts if "/" in name}, key=lambda d: (d.count("/"), d)
    )
    for directory in below:
        # Only where the extension itself lies there: others have a makefile for their documents, or for a tool.
        if any(str(PurePosixPath(name).parent) == directory and ".control" in name for name in tree.names):
            found = _builder_in(tree, directory + "/", _toml(tree.texts.get(f"{directory}/Cargo.toml", "")))
            if found:
                return found, directory
    raise InputError(
        f"nothing in {tree.label} says how to build it",
        hint="wanted is a makefile with PGXS, CMakeLists.txt, meson.build, configure or a Cargo.toml with pgrx; where "
        "it is built otherwise, write a recipe of your own: recipes/NAME.toml",
    )


def _builder_in(tree: SourceTree, where: str, cargo: dict[str, Any]) -> Builder | None:
    def there(*names: str) -> bool:
        return any(where + name in tree.names for name in names)

    if "pgrx" in cargo.get("dependencies", {}):
        return "cargo-pgrx"
    makefile = next((tree.texts[where + name] for name in _MAKEFILES if where + name in tree.texts), None)
    configured = there("configure", "configure.ac", "configure.in", "autogen.sh")
    if configured and there("Makefile.in", "GNUmakefile.in", "Makefile.global.in", "Makefile.am"):
        return "autotools"
    if makefile is not None and _PGXS.search(makefile):
        return "pgxs"
    if there("CMakeLists.txt"):
        return "cmake"
    if there("meson.build"):
        return "meson"
    if configured:
        return "autotools"
    if makefile is not None and re.search(r"^install\b.*:", makefile, re.MULTILINE):
        return "make"
    return None


def _check_major(tree: SourceTree, meta: dict[str, Any], cargo: dict[str, Any], major: int) -> None:
    """Check that the sources are for a major version, where they say which they are for."""
    wanted = None
    for phase in ("runtime", "build"):
        prereqs = meta.get("prereqs")
        part = prereqs.get(phase, {}) if isinstance(prereqs, dict) else {}
        requires = part.get("requires", {}) if isinstance(part, dict) else {}
        wanted = wanted or (requires.get("PostgreSQL") if isinstance(requires, dict) else None)
    if isinstance(wanted, str | int | float) and not _admits(str(wanted), major):
        raise InputError(
            f"{tree.label} is for PostgreSQL {wanted}, not {major}: its META.json says so",
            hint=f"take a version of it for PostgreSQL {major}, or set `postgresql` in the manifest",
        )
    if "pgrx" in cargo.get("dependencies", {}):
        majors = sorted(int(name[2:]) for name in cargo.get("features", {}) if re.fullmatch(r"pg\d\d", name))
        if majors and major not in majors:
            raise InputError(
                f"{tree.label} is for PostgreSQL {', '.join(map(str, majors))}, not {major}: its Cargo.toml says so",
                hint=f"take a version of it for PostgreSQL {major}, or set `postgresql` in the manifest",
            )


def _admits(wanted: str, major: int) -> bool:
    """Whether a range of versions, as META.json has it, admits some version of a major: ``>= 12.0.0, < 17``."""
    for part in wanted.split(","):
        found = re.match(r"\s*(>=|<=|==|!=|>|<|)\s*(\d+)(?:\.(\d+))?", part)
        if not found:
            continue
        sign, number, rest = found[1] or ">=", int(found[2]), int(found[3] or 0)
        admitted = {
            ">=": major >= number,
            ">": major >= number,  # 15.2 is more than 15.1
            "<": major < number or (major == number and rest > 0),
            "<=": major <= number,
            "==": major == number,
            "!=": True,
        }
        if not admitted[sign]:
            return False
    return True


# --- what it is ------------------------------------------------------------------------------------------------


def _meta(tree: SourceTree) -> dict[str, Any]:
    try:
        meta = json.loads(tree.texts.get("META.json", "{}"))
    except (ValueError, RecursionError):
        return {}
    return meta if isinstance(meta, dict) else {}


def _toml(text: str) -> dict[str, Any]:
    try:
        return tomllib.loads(text)
    except (ValueError, RecursionError):
        return {}


def _controls(tree: SourceTree, directory: str) -> dict[str, dict[str, str]]:
    """Return the extensions by their names in SQL, with what their control files say; the main one first."""
    found: dict[str, dict[str, str]] = {}
    files = [name for name in tree.texts if re.search(r"\.control(\.in)?$", name)]
    for file in sorted(files, key=lambda name: (not name.startswith(directory), name.count("/"), name)):
        name = PurePosixPath(file).name.removesuffix(".in").removesuffix(".control")
        if "--" in name or not re.fullmatch(r"[\w.-]+", name):
            continue
        values = {}
        for line in tree.texts[file].splitlines():
            if match := re.match(r"\s*(\w+)\s*=\s*'?([^'#]*)", line):
                values[match[1].lower()] = match[2].strip()
        found.setdefault(name, values)
    return found


def _name(
    tree: SourceTree, meta: dict[str, Any], cargo: dict[str, Any], controls: dict[str, Any], builder: Builder
) -> str:
    label = re.sub(rf"[-_]{_VERSION}$", "", tree.label)
    candidates = [meta.get("name"), cargo.get("package", {}).get("name") if builder == "cargo-pgrx" else None]
    candidates += list(controls)[:1] if len(controls) == 1 else []
    candidates += [label if not re.fullmatch(_VERSION, label) else None, *controls]
    for candidate in candidates:
        name = re.sub(r"[^a-z0-9_+.-]+", "-", str(candidate or "").lower()).strip("-._+")
        if name:
            return name
    raise InputError(f"nothing in {tree.label} says what it is called", hint="write a recipe of your own")


def _version(
    tree: SourceTree, meta: dict[str, Any], cargo: dict[str, Any], control: dict[str, str], place: str
) -> tuple[str, str]:
    tagged = re.compile(rf"(?:^|rel(?:ease)?[-_]?|ver(?:sion)?[-_]?|[-_]){_VERSION}$", re.IGNORECASE)
    if found := tagged.search(stem(place.rpartition("/")[2])) or tagged.search(tree.label):
        return found[1], "that of the tarball's name" if place else "that of the directory's name"
    package = cargo.get("package")
    for where, told in (("META.json", meta), ("Cargo.toml", package if isinstance(package, dict) else {})):
        if re.fullmatch(r"\d[\w.+~-]*", str(told.get("version"))):
            return str(told["version"]), f"{where}'s"
    if re.fullmatch(_VERSION, control.get("default_version", "")):
        return control["default_version"], "that of its control file"
    return "0", "made up: nothing tells it"


def _licence(tree: SourceTree, meta: dict[str, Any], cargo: dict[str, Any]) -> tuple[str, str]:
    told = meta.get("license")
    words = list(told) if isinstance(told, dict | list) else [told]
    names = [_META_LICENCES[word] for word in words if isinstance(word, str) and word in _META_LICENCES]
    if isinstance(told, dict):  # PGXN: names of licences to their URLs
        names = names or [_META_LICENCES[key] for key in map(_key, told) if key in _META_LICENCES]
    if names:
        return " OR ".join(names), "META.json's"
    package = cargo.get("package")
    if isinstance(package, dict) and isinstance(package.get("license"), str):
        return str(package["license"]).replace("/", " OR "), "Cargo.toml's"
    files = [n for n in tree.texts if "/" not in n and re.match(r"(licen[sc]e|copying|copyright)", n, re.IGNORECASE)]
    for file in sorted(files):
        text = " ".join(tree.texts[file].split())
        for pattern, name in _LICENCE_TEXTS:
            if re.search(pattern, text, re.IGNORECASE):
                return name, f"what the text of {file} looks like"
    return UNKNOWN_LICENCE, "a placeholder: nothing tells it in a known form; correct it"


def _key(word: object) -> str:
    return re.sub(r"[^a-z0-9]+", "_", str(word).lower())


def _homepage(meta: dict[str, Any], package: dict[str, Any], place: str) -> str | None:
    resources = meta.get("resources")
    resources = resources if isinstance(resources, dict) else {}
    repository = resources.get("repository")
    repository = repository if isinstance(repository, dict) else {}
    for url in (resources.get("homepage"), package.get("homepage"), package.get("repository"), repository.get("web")):
        if isinstance(url, str) and re.match(r"https?://\S+$", url):
            return url
    found = re.match(r"https://(?:github|gitlab)\.com/[\w.-]+/[\w.-]+", place)
    return found[0] if found else None


# --- what it takes ---------------------------------------------------------------------------------------------


def _preload(
    tree: SourceTree, controls: dict[str, dict[str, str]], package: dict[str, Any], directory: str
) -> tuple[str, ...]:
    """Return the modules to preload, where sources ask for it and it is certain which module that is."""
    asking = [n for n in tree.texts if re.search(r"\.(c|cc|cpp|cxx|rs)$", n) and _PRELOADING in _code(tree.texts[n])]
    if not asking:
        return ()
    if package:
        return (str(package.get("name", "")).replace("-", "_"),)
    where = f"{directory}/" if directory else ""
    makefile = next((tree.texts[where + name] for name in _MAKEFILES if where + name in tree.texts), "")
    found = re.search(r"^MODULE_big\s*:?=\s*([\w.-]+)\s*(?:#.*)?$", makefile, re.MULTILINE)
    if found:
        return (found[1],)
    found = re.search(r"^MODULES\s*:?=\s*(.+)$", makefile, re.MULTILINE)
    if found:
        stems = {PurePosixPath(name).stem for name in asking}
        return tuple(word for word in found[1].split() if PurePosixPath(word).name in stems)
    modules = {PurePosixPath(c["module_pathname"]).name for c in controls.values() if c.get("module_pathname")}
    return (modules.pop(),) if len(modules) == 1 and "@" not in "".join(modules) else ()


def _code(text: str) -> str:
    """Return C without its comments."""
    return re.sub(r"/\*.*?\*/|//[^\n]*", "", text, flags=re.DOTALL)


def _packages(tree: SourceTree) -> tuple[str, ...]:
    """Return the Debian packages whose headers are included, or whose libraries are linked with."""
    included, linked, asked = set[str](), set[str](), set[str]()
    for name, text in tree.texts.items():
        base = PurePosixPath(name).name
        if re.search(r"\.(c|h|cc|cpp|cxx|hpp)$", base):
            included |= set(re.findall(r'^\s*#\s*include\s*[<"]([^>"]+)[>"]', _code(text), re.MULTILINE))
        elif re.match(r"(GNUm|M|m)akefile", base):
            linked |= set(re.findall(r"(?:^|\s)-l([\w.+-]+)", text))
            asked |= _pkg_config(text)
        elif base in ("configure.ac", "configure.in"):
            asked |= {
                w
                for words in re.findall(r"PKG_CHECK_MODULES\(\s*\[?\w+\]?\s*,\s*\[?([^\]\)]+)", text)
                for w in words.split()
            }
        elif base == "meson.build":
            asked |= set(re.findall(r"dependency\(\s*'([^']+)'", text))
        elif base == "CMakeLists.txt" or base.endswith(".cmake"):
            for words in re.findall(r"pkg_(?:check|search)_modules?\s*\(\s*\w+\s+([^)]+)\)", text, re.IGNORECASE):
                asked |= set(re.split(r"[\s<>=]+", words))
    own = {name.rpartition("/")[2] for name in tree.names}
    included = {name for name in included if name.rpartition("/")[2] not in own}  # a copy of its own

    def named(names: Iterable[str], pattern: str) -> bool:
        return bool(pattern) and any(re.fullmatch(pattern, name) for name in names)

    return tuple(
        sorted(
            package
            for package, (header, library, module) in _HEADERS.items()
            if named(included, header) or named(linked, library) or named(asked, module)
        )
    )


def _pkg_config(text: str) -> set[str]:
    found = set()
    for words in re.findall(r"(?:pkg-config|PKG_CONFIG\))([^)`\n]*)", text):
        found |= {word for word in words.split() if not word.startswith("-")}
    return found
