"""Facts of a made-up bundle for tests of reports: with every state that a page shows, and text that wants to run."""

from __future__ import annotations

from pgbake.recipes.lowering import store_name
from pgbake.report.facts import (
    BundleFacts,
    CheckFacts,
    Comparison,
    ExtensionFacts,
    Facts,
    PackageFacts,
    Part,
    PathFacts,
    RuntimeFacts,
    Side,
    StatementFacts,
    StepFacts,
    TestFacts,
)
from tests.small_closures import made_up

#: What a page must show as it is.
HOSTILE = "<script>window.ran = true</script><img src=x onerror='window.ran = true'>\"&'</table>"

_BEGIN = 1_790_000_000
_EXTENSIONS = {"vector": "0.8.0", "pgaudit": "1.7", "hll": "2.18", "hstore": "1.8", "btree_gin": "1.3", "evil": "1.0"}
_RUNTIME = {
    "libc6": (12_700_000, "2.36-9+deb12u13"),
    "libicu72": (37_000_000, "72.1-3"),
    "libperl5.36": (20_800_000, "5.36.0-7+deb12u3"),
    "libssl3": (5_700_000, "3.0.17-1~deb12u2"),
    "libxml2": (1_800_000, "2.9.14+dfsg-1.3~deb12u4"),
    "zlib1g": (126_000, "1:1.2.13.dfsg-1"),
    **{f"libsmall{number}": (9_000 * number, "1.0-1") for number in range(1, 20)},
}


def _path(name: str) -> str:
    return str(made_up(store_name(name)))


def _side(changed: bool) -> Side:
    """Return this bundle's side, or that of the one before."""
    extensions = dict(_EXTENSIONS)
    runtime = {name: version for name, (_, version) in _RUNTIME.items()}
    closure = {store_name(f"{name}-{version}"): size for name, (size, version) in _RUNTIME.items()}
    interface: dict[str, tuple[str, ...]] = {
        "vector": ("function l2_distance(vector, vector) returns double precision", "type vector"),
        "evil": (f"function {HOSTILE}()",),
    }
    if not changed:
        extensions |= {"vector": "0.7.4", "gone": "3"}
        del extensions["hll"]
        runtime["libssl3"] = "3.0.15-1~deb12u1"
        closure = {name: size for name, size in closure.items() if not name.startswith("libssl3")}
        closure["libssl3-3.0.15-1-deb12u1"] = 5_600_000
        interface = {"vector": ("function old_distance(vector, vector)", "type vector"), "gone": ("type gone",)}
    return Side(
        path=_path(f"demo-postgresql-15.{18 if changed else 17}"),
        postgresql="15.18" if changed else "15.17",
        platform="bookworm",
        extensions=extensions,
        packages={"pgvector": extensions["vector"]},
        runtime=runtime,
        closure=closure | ({"postgresql-15.18": 25_100_000} if changed else {"postgresql-15.17": 24_000_000}),
        interface=interface,
    )


def facts() -> Facts:
    """Return the facts."""
    sizes: list[tuple[str, Part, int]] = [
        *((f"{name}-{version}", "runtime", size) for name, (size, version) in _RUNTIME.items()),
        ("postgresql-15.18", "postgresql", 25_100_000),
        ("postgresql-15.18-plperl", "postgresql", 159_000),
        ("demo-postgresql-15.18", "bundle", 16_400_000),
        ("postgresql-15-pgvector-0.8.0", "extension", 800_000),
        ("postgresql-15-pgaudit-1.7.0", "extension", 34_300),
    ]
    sizes.sort(key=lambda item: -item[2])
    long = "\n".join(f"line {number} of a long log {HOSTILE if number == 3 else ''}" for number in range(400))
    passed = (
        TestFacts("created", "passed", "", 0.21, ""),
        TestFacts("used", "passed", "", 1.4, ""),
        TestFacts("dropped", "skipped", "it cannot be dropped", 0.0, ""),
    )
    failed = (
        TestFacts("created", "passed", "", 0.21, ""),
        TestFacts(f"used {HOSTILE}", "failed", f"another answer: {HOSTILE}", 2.5, f"-1 row\n+2 rows\n{HOSTILE}"),
    )
    return Facts(
        bundle=BundleFacts(
            name="demo",
            postgresql="15.18",
            platform="bookworm",
            system="x86_64-linux",
            path=_path("demo-postgresql-15.18"),
            nar_hash="sha256:1hdsif9bx0k2wnz6yjahw1ph6m9m1frxcj26k1ag4vk9nwcp65zq",
            registered=_BEGIN + 9_000,
            built_here=True,
            signatures=("ci.example-1",),
            statements=(StatementFacts("check", ("ci.example-1",), "PASSED"),),
            preload=("pgaudit",),
            settings={"wal_level": "logical"},
            locales=("C.UTF-8", "en_US.UTF-8"),
            collations={"icu": "72.1", "libc": "2.36"},
            kernel="3.2.0",
        ),
        extensions=tuple(
            ExtensionFacts(
                name=name,
                version=version,
                package="postgresql" if name in ("hstore", "btree_gin") else name,
                origin="contrib" if name in ("hstore", "btree_gin") else "deb" if name == "hll" else "source",
                licence="PostgreSQL" if name != "hll" else "Apache-2.0",
                preload=("pgaudit",) if name == "pgaudit" else (),
                size=None if name in ("hstore", "btree_gin") else 10_000 * len(name) ** 2,
                summary=HOSTILE if name == "evil" else f"what {name} is for",
                requires=("vector",) if name == "evil" else (),
                trusted=name == "hstore",
            )
            for name, version in sorted(_EXTENSIONS.items())
        ),
        packages=(
            PackageFacts(
                "postgresql", "15.18", "source", "PostgreSQL", _path("postgresql-15.18"), "postgresql-15_15.18.tar.bz2",
                "11df" * 16, 25_100_000,
            ),
            PackageFacts(
                "pgvector", "0.8.0", "source", "PostgreSQL", _path("postgresql-15-pgvector-0.8.0"), "pgvector.tar.gz",
                "22ab" * 16, 800_000,
            ),
        ),
        runtime=tuple(
            RuntimeFacts(name, version, _path(f"{name}-{version}"), "ab" * 32, f"share/doc/{name}/copyright", size)
            for name, (size, version) in sorted(_RUNTIME.items())
        ),
        closure=tuple(
            PathFacts(
                _path(name), name, part, size, size,
                () if part == "bundle" else ("demo-postgresql-15.18", "postgresql-15.18"),
            )
            for name, part, size in sizes
        ),
        budget=150_000_000,
        timeline=(
            StepFacts("pgbake-support", _path("pgbake-support"), "built", _BEGIN, _BEGIN + 2.5, _BEGIN + 3),
            StepFacts("locales", _path("locales"), "built", None, _BEGIN + 4.0, _BEGIN + 4),
            StepFacts("postgresql-15.18", _path("p"), "built", _BEGIN + 2.6, _BEGIN + 242.25, _BEGIN + 243),
            StepFacts("postgresql-15-pgvector-0.8.0", _path("v"), "built", _BEGIN + 243, _BEGIN + 263.5, _BEGIN + 264),
            StepFacts("postgresql-15-pgaudit-1.7.0", _path("a"), "taken", None, None, _BEGIN + 8_900),
            StepFacts("demo-postgresql-15.18", _path("demo"), "built", _BEGIN + 8_995, _BEGIN + 8_999, _BEGIN + 9_000),
        ),
        absent=1,
        checks=(
            CheckFacts("smoke/all", None, "passed", 1.61, passed, "ok - created\nok - used", 0),
            CheckFacts("smoke/hll", "hll", "passed", None, passed[:1], "", 0),
            CheckFacts("smoke/evil", "evil", "failed", 2.71, failed, long, 1200),
            CheckFacts("smoke/vector", "vector", "open", None, (), "", 0),
        ),
        side=_side(changed=True),
        against=Comparison(_side(changed=False), "the bundle of this project that was reported before"),
    )  # fmt: skip
