"""Where crates are fetched from: what the manifest names, else what the host's cargo is configured with, else its own.

A registry is known by templates of URLs, with ``{crate}`` and ``{version}`` in the place of a crate's name and version,
as cargo's registries themselves name their downloads. pgbake knows none by name: cargo is asked, as apt is for mirrors.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
import threading
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pgbake.errors import HostError
from pgbake.run import run

#: How the manifest names a registry.
MANIFEST_HINT = '[platform] crates = ["https://HOST/crates"]'
_HINT = "install cargo, or name a registry in the manifest: " + MANIFEST_HINT
_TIMEOUT = (10.0, 30.0)
#: Nobody answers there, so that cargo says what it asked for and gets nothing.
_NOWHERE = "http://127.0.0.1:9"
_ASKED = re.compile(r"(https?://[^\s`'\"]+)/config\.json")
#: Replacements of one source by another that are followed.
_DEEPEST = 8


class Registry:
    """The templates of a registry, which are found when first asked for."""

    def __init__(self, named: Sequence[str] = ()) -> None:
        """:param named: what the manifest names: base URLs, or templates."""
        self._named = tuple(named)
        self._lock = threading.Lock()
        self._found: tuple[str, ...] | None = None

    def templates(self) -> tuple[str, ...]:
        """Return the templates of the URLs of crates, in the order in which they are tried.

        :raises HostError: none is known, or the registry does not answer.
        """
        with self._lock:
            if self._found is None:
                self._found = tuple(map(_template, self._named)) or find_templates()
            return self._found


def _template(url: str) -> str:
    return url if "{crate}" in url else url.rstrip("/") + "/{crate}/{crate}-{version}.crate"


def fill(template: str, path: str) -> str:
    """Return a crate's URL.

    :param path: of its pin, ``NAME/NAME-VERSION.crate``.
    """
    name, _, file = path.partition("/")
    version = file.removeprefix(f"{name}-").removesuffix(".crate")
    words = {"crate": name, "version": version, "prefix": _prefix(name), "lowerprefix": _prefix(name.lower())}
    return re.sub(r"\{(\w+)\}", lambda found: words.get(found[1], found[0]), template)


def _prefix(name: str) -> str:
    """Return the directory of a crate in an index."""
    if len(name) <= 3:
        return f"{len(name)}/{name[0]}" if len(name) == 3 else str(len(name))
    return f"{name[:2]}/{name[2:4]}"


def find_templates() -> tuple[str, ...]:
    """Return the templates of the registry that the host's cargo uses.

    :raises HostError: it is not known, or does not answer.
    """
    home = Path(os.environ.get("CARGO_HOME") or Path.home() / ".cargo")
    source = _configured(home)
    if source is None:
        index = _default_index()
    elif local := source.get("local-registry"):
        return (f"file://{quote(str(home.parent / str(local)))}/{{crate}}-{{version}}.crate",)
    else:
        index = str(source.get("registry") or source.get("index") or "")
        if not index.startswith("sparse+"):
            raise HostError(
                f"crates come from a place that cannot be asked for single files ({index or 'a directory'})",
                hint="see replace-with in " + str(home) + '/config.toml, or name another: [platform] crates = ["URL"]',
            )
        index = index.removeprefix("sparse+").rstrip("/")
    return (_download_template(index),)


def _configured(home: Path) -> Mapping[str, Any] | None:
    """Return the source that stands for cargo's default one in its configuration; None where none does."""
    for name in ("config.toml", "config"):
        file = home / name
        try:
            config = tomllib.loads(file.read_text(encoding="utf-8"))
        except FileNotFoundError:
            continue
        except (OSError, ValueError) as error:
            raise HostError(f"cannot read cargo's {file}: {error}", hint="repair it") from None
        sources = config.get("source", {})
        registries = config.get("registries", {})
        key, seen = "crates-io", 0
        while (following := sources.get(key, {}).get("replace-with")) and seen < _DEEPEST:
            key, seen = following, seen + 1
        found: Mapping[str, Any] | None = sources.get(key) or registries.get(key)
        if seen:
            return found or {}
        return found if found and {"registry", "local-registry", "directory"} & found.keys() else None
    return None


def _default_index() -> str:
    """Return the URL of the index that cargo asks by itself, read from what it says when it cannot reach it."""
    if shutil.which("cargo") is None:
        raise HostError("it is not known where crates are fetched from: there is no cargo here", hint=_HINT)
    with tempfile.TemporaryDirectory(prefix="pgbake-cargo-") as directory:
        home = Path(directory)
        (home / "src").mkdir()
        (home / "src/lib.rs").touch()
        (home / "Cargo.toml").write_text('[package]\nname = "ask"\nversion = "0.0.0"\n[dependencies]\nlibc = "0.2"\n')
        toolchains = {"RUSTUP_HOME": os.environ.get("RUSTUP_HOME") or str(Path.home() / ".rustup")}
        asked = run(
            ["cargo", "generate-lockfile"],
            sandbox="host",
            cwd=home,
            env={
                **os.environ, **toolchains, "HOME": directory, "CARGO_HOME": str(home / "home"), "LC_ALL": "C.UTF-8",
                "CARGO_HTTP_PROXY": _NOWHERE, "no_proxy": "", "NO_PROXY": "", "CARGO_NET_RETRY": "0",
                "CARGO_TERM_COLOR": "never",
            },
            check=False,
            timeout=60,
        )  # fmt: skip
    found = _ASKED.search(asked.stderr)
    if found is None:
        raise HostError(
            "it is not known where crates are fetched from: the host's cargo does not say it",
            hint="name a registry in the manifest: " + MANIFEST_HINT,
        )
    return found[1]


def _download_template(index: str) -> str:
    """Return the template that a registry's own configuration names, ``dl`` in ``config.json`` of its index."""
    import requests

    from pgbake.inputs.fetch import innermost

    url = f"{index}/config.json"
    try:
        if url.startswith("file://"):
            import json

            named = json.loads(Path(url.removeprefix("file://")).read_text())["dl"]
        else:
            with requests.get(url, timeout=_TIMEOUT) as response:
                if response.status_code != 200:
                    raise HostError(
                        f"the registry of crates does not answer: {url}: {response.status_code} {response.reason}",
                        hint=_HINT,
                    )
                named = response.json()["dl"]
    except requests.RequestException as error:
        raise HostError(
            f"the registry of crates cannot be asked: {url}: {innermost(error)}",
            hint="is there a network? or name another: " + MANIFEST_HINT,
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HostError(f"{url} is not the configuration of a registry: {error}", hint=_HINT) from None
    return str(named) if "{" in str(named) else f"{named}/{{crate}}/{{version}}/download"
