"""A lock that no mirror ever saw: every pin follows from its name. For tests of what is derived from a lock."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import msgspec

from pgbake.formats.system import SYSTEMS
from pgbake.inputs.pins import Pin
from pgbake.lock import LOCK_VERSION, CratePin, Lock, Root, RuntimePin, SourcePin, SystemLock
from pgbake.manifest import Manifest
from pgbake.recipes.recipe import Catalogue, Recipe, Source
from pgbake.requirements import requirements

#: Runtime packages of the lock; those that the support package looks at are among them.
RUNTIME = ("ca-certificates", "libc6", "libperl5.36", "libpython3.11", "libssl3", "libtcl8.6", "tzdata")


def digest(*words: str) -> str:
    """Return a made-up sha256 in hexadecimal."""
    return hashlib.sha256(" ".join(words).encode()).hexdigest()


def synthetic_lock(manifest: Manifest, catalogue: Catalogue) -> Lock:
    """Return a lock that fits a manifest."""
    required = requirements(manifest, catalogue)

    def system(name: str) -> SystemLock:
        architecture = SYSTEMS[name].debian
        packages = sorted({package for wants in required.roots.values() for package in wants})
        return SystemLock(
            build={
                package: Pin(
                    version="1.0-1",
                    path=f"pool/main/{package}_1.0-1_{architecture}.deb",
                    size=1000,
                    sha256=digest(package, architecture),
                )
                for package in packages
            },
            roots={
                root: Root(tree=digest("root", root, architecture), wants=wants, packages=wants)
                for root, wants in required.roots.items()
            },
            runtime={
                package: RuntimePin(
                    version="1.0-1",
                    path=f"pool/main/{package}_1.0-1_{architecture}.deb",
                    size=1000,
                    sha256=digest(package, architecture),
                    tree=digest("tree", package, architecture),
                )
                for package in RUNTIME
            },
            runtime_wants=required.runtime,
        )

    return Lock(
        version=LOCK_VERSION,
        platform=required.platform,
        unpacking=required.unpacking,
        sources={
            recipe: SourcePin(
                version="1.0",
                path=f"pool/main/{want.source.debian or recipe}_1.0.orig.tar.gz",
                size=1000,
                sha256=digest("source", recipe),
                wanted=str(want),
            )
            for recipe, want in required.sources.items()
        },
        systems={name: system(name) for name in required.systems},
    )


def with_rust(catalogue: Catalogue, *names: str) -> Catalogue:
    """Add recipes of extensions in Rust to a catalogue."""
    recipes = {
        name: Recipe(
            name, summary="s", licence="MIT", builder="cargo-pgrx",
            source=Source(url=f"http://a.invalid/{name}.tar.gz", version="1.0"),
        )
        for name in names
    }  # fmt: skip
    return Catalogue({**catalogue.recipes, **recipes}, catalogue.debian)


def crate(name: str, version: str) -> CratePin:
    """Return the pin of a made-up crate."""
    return CratePin(name, version, digest(name, version), 100)


def with_pgrx(lock: Lock, versions: Mapping[str, str]) -> Lock:
    """Give extensions of a lock crates, pgrx in these versions among them, and the lock each one's cargo-pgrx."""
    sources = dict(lock.sources)
    for name, version in versions.items():
        crates = (crate("serde", "1.0.0"), crate("pgrx", version))
        sources[name] = msgspec.structs.replace(sources[name], crates=crates)
        sources[f"cargo-pgrx@{version}"] = SourcePin(
            version=version, path=f"cargo-pgrx/cargo-pgrx-{version}.crate", size=1, sha256=digest("tool", version),
            archive="crates", wanted=f"crate cargo-pgrx {version}", crates=(crate("clap", "4.0.0"),),
        )  # fmt: skip
    return msgspec.structs.replace(lock, sources=sources)
