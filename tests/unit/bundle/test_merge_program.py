"""The merge, run on small packages made with the machine's compiler: what it links, copies and refuses."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from elftools.elf.elffile import ELFFile

from pgbake.bundle import merge_program
from pgbake.bundle.merge_program import Merge, read_control, read_elf, read_symbols
from tests.elf import abi_tag

TRIPLET = "x86_64-linux-gnu"


class Packages:
    """Small packages in Debian's layout, and a specification that names them."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.packages: list[dict[str, Any]] = []
        self.runtime: list[dict[str, Any]] = []
        self.rules: list[dict[str, Any]] = [{"match": "tzdata", "needs": [], "always": True, "places": []}]
        self.write(self.add_runtime("tzdata"), "usr/share/zoneinfo/UTC", "TZif")
        libc = self.add_runtime("libc6")
        (libc / f"usr/lib/{TRIPLET}").mkdir(parents=True)
        for name in ("libc.so.6", "ld-linux-x86-64.so.2"):
            shutil.copy(f"/lib/{TRIPLET}/{name}", libc / f"usr/lib/{TRIPLET}")

    def add(self, name: str) -> Path:
        top = self.directory / name
        (top / "usr").mkdir(parents=True)
        self.packages.append({"name": name, "version": "1", "path": str(top), "receipt": False})
        return top

    def add_runtime(self, name: str) -> Path:
        top = self.directory / name
        (top / "usr").mkdir(parents=True)
        self.runtime.append({"name": name, "version": "1", "path": str(top), "sha256": "0" * 64})
        return top

    def write(self, top: Path, file: str, text: str) -> Path:
        path = top / file
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return path

    def library(self, top: Path, name: str, *link: str, source: str = "int f(void) { return 1; }") -> Path:
        return self._compile(top, f"usr/lib/{TRIPLET}/{name}", source, "-shared", "-fPIC", f"-Wl,-soname,{name}", *link)

    def program(self, top: Path, name: str, *link: str) -> Path:
        return self._compile(top, f"usr/lib/postgresql/15/bin/{name}", "int main(void) { return 0; }", *link)

    def _compile(self, top: Path, file: str, source: str, *options: str) -> Path:
        path = top / file
        path.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["cc", "-x", "c", "-", "-x", "none", "-o", str(path), "-Wl,--no-as-needed", *options],
            input=source.encode(), check=True, cwd=path.parent,
        )  # fmt: skip
        return path

    def merge(self) -> Merge:
        spec = {
            "name": "test", "system": "x86_64-linux", "triplet": TRIPLET, "loader": "ld-linux-x86-64.so.2", "major": 15,
            "postgresql": "15.18", "packages": self.packages, "runtime": self.runtime, "rules": self.rules,
        }  # fmt: skip
        return Merge(json.loads(json.dumps(spec)), str(self.directory / "out"))


@pytest.fixture
def packages(tmp_path: Path) -> Packages:
    return Packages(tmp_path)


def refusal(packages: Packages, capsys: pytest.CaptureFixture[str]) -> str:
    merge = packages.merge()
    with pytest.raises(SystemExit):
        merge.choose_runtime()
        merge.check_versions()
        merge.link()
    return capsys.readouterr().err


def test_a_file_of_two_packages_is_refused_with_both_names(
    packages: Packages, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("one", "two"):
        packages.write(packages.add(name), "usr/share/postgresql/15/extension/same.sql", name)
    assert "one 1 and two 1 both bring usr/share/postgresql/15/extension/same.sql" in refusal(packages, capsys)


def test_a_library_that_nobody_brings_is_refused_with_who_needs_it(
    packages: Packages, capsys: pytest.CaptureFixture[str]
) -> None:
    top = packages.add("server")
    stray = packages.library(packages.directory / "elsewhere", "libstray.so.1")
    packages.program(top, "tool", str(stray))
    error = refusal(packages, capsys)
    assert "server 1: lib/postgresql/15/bin/tool needs libstray.so.1" in error and "`runtime` in the recipe" in error


def test_a_runpath_that_hides_our_libraries_is_refused(packages: Packages, capsys: pytest.CaptureFixture[str]) -> None:
    top = packages.add("server")
    wanted = packages.library(packages.add_runtime("libwanted1"), "libwanted.so.1")
    packages.library(top, "libhiding.so.1", str(wanted), "-Wl,--enable-new-dtags,-rpath,/opt/lib")
    error = refusal(packages, capsys)
    assert "libhiding.so.1 has DT_RUNPATH /opt/lib, which hides" in error and "libwanted.so.1" in error


def test_a_runpath_that_finds_its_neighbours_is_fine(packages: Packages) -> None:
    top = packages.add_runtime("libpair1")
    first = packages.library(top, "libfirst.so.1")
    packages.library(top, "libsecond.so.1", str(first), "-Wl,--enable-new-dtags,-rpath,$ORIGIN")
    packages.program(packages.add("server"), "tool", str(top / f"usr/lib/{TRIPLET}/libsecond.so.1"), str(first))
    merge = packages.merge()
    merge.choose_runtime()
    merge.check_versions()
    assert "libpair1" in merge.runtime


def test_a_version_that_is_not_defined_is_refused(packages: Packages, capsys: pytest.CaptureFixture[str]) -> None:
    script = packages.write(packages.directory, "versions", "V_2 { global: f; local: *; };\n")
    runtime = packages.add_runtime("libversioned1")
    library = packages.library(runtime, "libversioned.so.1", f"-Wl,--version-script={script}")
    module = packages.library(
        packages.add("server"), "libuser.so.1", str(library), source="int f(void); int g(void) { return f(); }"
    )
    assert "V_2" in str(read_elf(str(module)))
    script.write_text("V_1 { global: f; local: *; };\n")
    packages.library(runtime, "libversioned.so.1", f"-Wl,--version-script={script}")
    error = refusal(packages, capsys)
    assert "libuser.so.1 wants version V_2 of libversioned.so.1, which is not defined there" in error


def test_only_what_is_needed_is_taken_and_what_it_needs_follows(packages: Packages) -> None:
    base = packages.library(packages.add_runtime("libbase1"), "libbase.so.1")
    over = packages.library(packages.add_runtime("libover1"), "libover.so.1", str(base))
    packages.library(packages.add_runtime("libidle1"), "libidle.so.1")
    data = packages.write(packages.add_runtime("over-data"), "usr/share/over/data", "data")
    packages.rules.append({"match": "libover*", "needs": ["over-data"], "always": False, "places": []})
    licence = packages.add_runtime("liblicence1")
    (licence / "usr/share/doc").mkdir(parents=True)
    packages.program(packages.add("server"), "tool", str(over), str(base))
    merge = packages.merge()
    merge.choose_runtime()
    assert set(merge.runtime) == {"libc6", "tzdata", "libbase1", "libover1", "over-data"}
    merge.link()
    out = packages.directory / "out"
    assert (out / "share/over").is_symlink() and (out / "share/over/data").read_text() == data.read_text()
    assert (out / f"lib/{TRIPLET}/libover.so.1").readlink() == over
    assert (out / "share/postgresql/15/timezone/UTC").read_text() == "TZif"


def test_programs_are_copies_and_links_to_them_stay_relative(packages: Packages) -> None:
    top = packages.add("server")
    tool = packages.program(top, "tool")
    tool.with_name("alias").symlink_to("tool")
    driver = packages._compile(top, "usr/lib/postgresql/15/lib/pgxs/driver", "int main(void) { return 0; }")
    packages.write(top, "usr/lib/postgresql/15/lib/pgxs/file", "x")
    packages.write(top, "usr/share/postgresql/15/errcodes.txt", "x")
    licence = top / "usr/share/doc/server"
    licence.parent.mkdir(parents=True)
    licence.symlink_to("server-common")
    merge = packages.merge()
    merge.choose_runtime()
    merge.link()
    out = packages.directory / "out"
    binaries = out / "lib/postgresql/15/bin"
    assert not (binaries / "tool").is_symlink() and (binaries / "alias").readlink() == Path("tool")
    assert (out / "bin/tool").resolve() == binaries / "tool"
    copy = out / "lib/postgresql/15/lib/pgxs/driver"
    assert not copy.is_symlink() and copy.read_bytes() == driver.read_bytes()
    assert copy.with_name("file").is_symlink()
    assert (out / "share/doc/server").readlink() == Path("server-common")
    assert sorted(merge.programs) == ["lib/postgresql/15/bin/tool", "lib/postgresql/15/lib/pgxs/driver"]
    merge.patch()
    for program, up in (
        ("lib/postgresql/15/bin/tool", "/../../../.."),
        ("lib/postgresql/15/lib/pgxs/driver", "/../../../../.."),
    ):
        elf = read_elf(str(out / program))
        assert elf and elf.needed[0] == "libpgbake-env.so" and not elf.runpath
        assert elf.rpath == f"$ORIGIN{up}/lib/postgresql/15/lib:$ORIGIN{up}/lib/{TRIPLET}:$ORIGIN{up}/lib"


def test_an_extension_that_cannot_be_created_is_refused(packages: Packages, capsys: pytest.CaptureFixture[str]) -> None:
    top = packages.add("rational")
    directory = "usr/share/postgresql/15/extension"
    packages.write(top, f"{directory}/rational.control", "default_version = '1.2'\n")
    packages.write(top, f"{directory}/rational--1.0.sql", "")
    with pytest.raises(SystemExit):
        packages.merge().check_extensions()
    error = capsys.readouterr().err
    assert "its extension rational has no script for its default version 1.2" in error and "rational--1.0.sql" in error
    packages.write(top, f"{directory}/rational--1.0--1.1.sql", "")
    packages.write(top, f"{directory}/rational--1.1--1.2.sql", "")
    packages.merge().check_extensions()


def test_the_newest_kernel_that_a_file_asks_for_is_the_floor(packages: Packages) -> None:
    packages.program(packages.add("server"), "tool")
    merge = packages.merge()
    merge.choose_runtime()
    libc = read_elf(f"/lib/{TRIPLET}/libc.so.6")
    assert libc and merge.kernel() == ".".join(map(str, libc.kernel))
    assert libc.kernel >= (3, 2, 0)
    top = packages.add("driver")
    note = packages.write(packages.directory, "note.s", abi_tag(6, 10, 3))
    packages.library(top, "libdriver.so.1", "-x", "assembler", str(note))
    merge = packages.merge()
    merge.choose_runtime()
    assert merge.kernel() == "6.10.3"


def test_control_files_are_read_as_postgresql_reads_them(tmp_path: Path) -> None:
    control = tmp_path / "x.control"
    control.write_text("# a comment\ncomment = 'it''s here' # more\ndefault_version = 1.0 # bare\nTrusted=true\n\n")
    assert read_control(str(control)) == {"comment": "it's here", "default_version": "1.0", "trusted": "true"}


def test_the_program_stands_alone(tmp_path: Path) -> None:
    """It is handed to a derivation as text, where there is no pgbake."""
    source = Path(merge_program.__file__).read_text()
    assert "import pgbake" not in source and "from pgbake" not in source
    done = subprocess.run(
        [sys.executable, "-I", "-c", source], env={"spec": "{}", "out": str(tmp_path), "PATH": os.environ["PATH"]},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert "KeyError" in done.stderr  # an empty specification, and not a missing module


class Server:
    """A small server, and packages with modules for it."""

    def __init__(self, packages: Packages) -> None:
        self.packages = packages
        base = packages.library(packages.add_runtime("libbase1"), "libbase.so.1", source="void in_base(void) {}")
        self.add("server", requires={})
        packages._compile(
            packages.directory / "server", "usr/lib/postgresql/15/bin/postgres",
            "void in_server(void) {} int main(void) { return 0; }", "-rdynamic", str(base),
        )  # fmt: skip

    def add(self, name: str, requires: dict[str, str], preload: tuple[str, ...] = ()) -> Path:
        """Add a package of extensions, each with the others that it requires; ``-`` is a module of no extension."""
        top = self.packages.add(name)
        self.packages.packages[-1] |= {
            "receipt": True, "licence": "MIT", "source": {}, "many": len(requires) != 1,
            "needs": {"": {"preload": preload, "settings": {}}},
        }  # fmt: skip
        for extension, required in requires.items():
            control = f"module_pathname = '$libdir/{extension}'\nrequires = '{required}'\n"
            self.packages.write(top, f"usr/share/postgresql/15/extension/{extension}.control", control)
        return top

    def module(self, top: Path, name: str, source: str, *link: str) -> Path:
        return self.packages._compile(top, f"usr/lib/postgresql/15/lib/{name}.so", source, "-shared", "-fPIC", *link)

    def check(self) -> None:
        merge = self.packages.merge()
        merge.choose_runtime()
        merge.check_symbols()

    def refuses(self, capsys: pytest.CaptureFixture[str]) -> str:
        with pytest.raises(SystemExit):
            self.check()
        return capsys.readouterr().err


@pytest.fixture
def server(packages: Packages) -> Server:
    return Server(packages)


_WANTS = "void {0}(void); void use_{0}(void) {{ {0}(); }}"


def test_a_module_whose_symbols_nobody_defines_is_refused(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    top = server.add("mine", {"mine": ""})
    names = [f"lost_{letter}" for letter in "gfedcba"]
    server.module(top, "mine", "\n".join(_WANTS.format(name) for name in names))
    error = server.refuses(capsys)
    assert (
        "merge: mine 1: lib/postgresql/15/lib/mine.so wants lost_a, lost_b, lost_c, lost_d, lost_e and 2 more" in error
    )
    assert "defined neither by the server nor by a library" in error and 'make = ["SHLIB_LINK=-lNAME"]' in error


def test_a_package_of_the_distribution_for_another_release_is_refused(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    server.module(server.add("mine", {"mine": ""}), "mine", _WANTS.format("newer"))
    server.packages.packages[-1]["deb"] = "postgresql-15-mine"
    assert "postgresql-15-mine was built for another release of PostgreSQL than 15.18: build it" in server.refuses(
        capsys
    )


def test_a_module_finds_its_symbols_where_the_server_would(server: Server) -> None:
    private = server.packages.library(
        server.packages.add_runtime("libprivate1"), "libprivate.so.1", source="void in_private(void) {}"
    )
    over = server.packages.library(
        server.packages.add_runtime("libover1"), "libover.so.1", str(private), source="void in_over(void) {}"
    )
    top = server.add("mine", {"mine": ""})
    wants = ("in_server", "in_base", "in_private", "in_over", "__tls_get_addr")
    weak = "__attribute__((weak)) void nowhere(void); void perhaps(void) { if (nowhere) nowhere(); }"
    source = "\n".join([*(_WANTS.format(name) for name in wants), weak])
    server.module(top, "mine", source, str(over))
    server.check()


@pytest.mark.parametrize(
    ("requires", "fine"), [("base", True), ("middle", True), ("", False), ("other", False), ("base, other", True)]
)
def test_symbols_of_an_extension_count_where_it_is_required(
    server: Server, capsys: pytest.CaptureFixture[str], requires: str, fine: bool
) -> None:
    """As contrib has it: several extensions in one package, each with its own module."""
    top = server.add("contrib", {"base": "", "middle": "base", "other": ""})
    server.module(top, "base", "void in_base_module(void) {}")
    server.module(top, "other", "void in_other_module(void) {}")
    server.module(server.add("mine", {"mine": requires}), "mine", _WANTS.format("in_base_module"))
    if fine:
        server.check()
    else:
        error = server.refuses(capsys)
        assert "mine.so wants in_base_module" in error
        assert "base.so has it: name its extension under `requires` in the control file" in error


def test_symbols_of_what_must_be_preloaded_count(server: Server) -> None:
    top = server.add("pair", {"pair": ""}, preload=("first", "second"))
    server.module(top, "first", "void in_first(void) {}")
    server.module(top, "second", _WANTS.format("in_first"))
    server.check()


def test_a_library_that_the_lock_has_is_named(server: Server, capsys: pytest.CaptureFixture[str]) -> None:
    server.packages.library(server.packages.add_runtime("libidle1"), "libidle.so.1", source="void in_idle(void) {}")
    server.module(server.add("mine", {"mine": ""}), "mine", _WANTS.format("in_idle"))
    assert (
        'libidle.so.1 of libidle1 has it: link with it, in the recipe: make = ["SHLIB_LINK=-lidle"]'
        in server.refuses(capsys)
    )


def test_a_package_s_own_library_is_checked_with_the_module_that_needs_it(
    server: Server, capsys: pytest.CaptureFixture[str]
) -> None:
    top = server.add("mine", {"mine": ""})
    own = server.packages.library(top, "libown.so.1", source=_WANTS.format("lost"))
    server.module(top, "mine", _WANTS.format("use_lost"), str(own))
    assert "mine.so wants lost," in server.refuses(capsys)


def test_symbols_are_those_that_pyelftools_reads() -> None:
    path = f"/lib/{TRIPLET}/libc.so.6"
    with Path(path).open("rb") as stream:
        table: Any = ELFFile(stream).get_section_by_name(".dynsym")
        known = [
            (symbol.name.encode(), symbol["st_shndx"], symbol["st_info"]["bind"]) for symbol in table.iter_symbols()
        ]
    found = read_symbols(path)
    assert found.defined == {name for name, section, _ in known if section != "SHN_UNDEF" and name}
    assert found.undefined == {name for name, section, b in known if (section, b) == ("SHN_UNDEF", "STB_GLOBAL")}
    assert b"malloc" in found.defined and b"_rtld_global" in found.undefined


def test_a_truncated_library_is_one_clear_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    short = tmp_path / "libshort.so"
    short.write_bytes(Path(f"/lib/{TRIPLET}/libc.so.6").read_bytes()[:5000])
    with pytest.raises(SystemExit):
        read_symbols(str(short))
    assert f"merge: {short} is a damaged ELF file" in capsys.readouterr().err


class Needs:
    """Packages with extensions, and what they want preloaded and set."""

    def __init__(self, packages: Packages) -> None:
        self.packages = packages

    def add(
        self,
        name: str,
        *,
        asks: bool = False,
        after: tuple[str, ...] = (),
        first: bool = False,
        requires: str = "",
        older: bool = False,
        many: bool = False,
        version: str = "1",
        **needs: dict[str, Any],
    ) -> Path:
        """Add a package with one extension and module; ``asks``: whether the server is starting."""
        top = self.packages.add(name)
        self.packages.packages[-1] |= {
            "version": version, "receipt": True, "licence": "MIT", "source": {}, "origin": "source", "many": many,
            "older": older, "after": after, "first": first,
            "needs": {("" if key == "whole" else key): words for key, words in needs.items()},
        }  # fmt: skip
        directory = "usr/share/postgresql/15/extension"
        control = f"default_version = '{version}'\nmodule_pathname = '$libdir/{name}'\nrequires = '{requires}'\n"
        self.packages.write(top, f"{directory}/{name}.control", control)
        self.packages.write(top, f"{directory}/{name}--{version}.sql", version)
        symbol = "process_shared_preload_libraries_in_progress" if asks else "MyProcPid"
        self.packages._compile(
            top, f"usr/lib/postgresql/15/lib/{name}.so", f"extern int {symbol}; int f(void) {{ return {symbol}; }}",
            "-shared", "-fPIC",
        )  # fmt: skip
        return top

    def merge(self, *chosen: str) -> Merge:
        merge = self.packages.merge()
        merge.spec["extensions"] = list(chosen)
        return merge


@pytest.fixture
def needs(packages: Packages) -> Needs:
    return Needs(packages)


def test_a_module_that_asks_is_preloaded_unless_the_recipe_knows_better(needs: Needs) -> None:
    needs.add("asks", asks=True)
    needs.add("plain")
    needs.add("shy", asks=True, whole={"preload": [], "settings": {}})
    needs.add("told", whole={"preload": ["told_worker"], "settings": {}})
    needs.add("set", asks=True, whole={"preload": None, "settings": {"a.b": "c"}})
    merge = needs.merge("plain", "shy", "set", "told", "asks")
    assert merge.preload() == ["set", "told_worker", "asks"]
    assert merge.settings() == {"a.b": "c"}
    extensions = {extension["name"]: extension["preload"] for extension in merge.all_extensions()}
    assert extensions == {"asks": ["asks"], "plain": [], "shy": [], "told": ["told_worker"], "set": ["set"]}


def test_of_contrib_only_what_the_manifest_names_is_preloaded(needs: Needs) -> None:
    word = {"preload": ["pg_prewarm"], "settings": {}}
    needs.add(
        "contrib", asks=True, many=True, pg_prewarm=word, auto_explain={"preload": ["auto_explain"], "settings": {}}
    )
    assert needs.merge("pg_prewarm").preload() == ["pg_prewarm"]
    assert needs.merge().preload() == []


def test_what_others_require_of_contrib_is_preloaded_before_them(needs: Needs) -> None:
    needs.add("kcache", asks=True, requires="statements")
    needs.add("postgresql", many=True, statements={"preload": ["statements"], "settings": {}})
    assert needs.merge("kcache").preload() == ["statements", "kcache"]


def test_preloading_has_an_order_that_works(needs: Needs) -> None:
    needs.add("kcache", asks=True, after=("statements",))
    needs.add("user", asks=True, requires="base")
    needs.add("base", asks=True)
    needs.add("statements", asks=True)
    assert needs.merge("kcache", "user", "statements", "base").preload() == ["statements", "kcache", "base", "user"]


def test_one_may_have_to_be_first(needs: Needs) -> None:
    needs.add("a", asks=True)
    needs.add("b", asks=True, first=True)
    assert needs.merge("a", "b").preload() == ["b", "a"]


def test_two_that_must_each_come_after_the_other_are_preloaded_all_the_same(needs: Needs) -> None:
    needs.add("a", asks=True, after=("b",))
    needs.add("b", asks=True, after=("a",))
    assert needs.merge("b", "a").preload() == ["b", "a"]


def test_settings_that_contradict_each_other_are_an_error(needs: Needs, capsys: pytest.CaptureFixture[str]) -> None:
    needs.add("a", whole={"preload": [], "settings": {"wal_level": "logical"}})
    needs.add("b", whole={"preload": [], "settings": {"wal_level": "replica"}})
    with pytest.raises(SystemExit):
        needs.merge("a", "b").settings()
    error = capsys.readouterr().err
    assert "a wants the setting wal_level = 'logical' and b wants 'replica'; remove one" in error


@pytest.mark.parametrize(
    ("sample", "trusted"),
    [
        ("#wal_level = replica\n", {}),
        (
            "#output_plugin_libraries = 'pgoutput, test'  # approved\n",
            {"output_plugin_libraries": "pgoutput, test, plug"},
        ),
    ],
)
def test_replication_slots_may_use_a_packages_output_plugin(needs: Needs, sample: str, trusted: dict[str, str]) -> None:
    top = needs.add("postgresql", many=True)
    needs.packages.write(top, "usr/share/postgresql/15/postgresql.conf.sample", sample)
    assert needs.merge("postgresql").settings() == {}
    needs.add("other")
    top = needs.add("plugins")
    source = "void _PG_output_plugin_init(void) {}"
    needs.packages._compile(top, "usr/lib/postgresql/15/lib/plug.so", source, "-shared", "-fPIC")
    assert needs.merge("other").settings() == {"wal_level": "logical"} | trusted


@pytest.mark.parametrize(("required", "where"), [("plperl", "`languages`"), ("cube", "`extensions`")])
def test_what_an_extension_requires_must_be_there(
    needs: Needs, capsys: pytest.CaptureFixture[str], required: str, where: str
) -> None:
    needs.add("mine", requires=f"mine_too, {required}")
    needs.add("mine_too")
    with pytest.raises(SystemExit):
        needs.merge("mine").check_required()
    assert f"the extension mine requires {required}, which the bundle does not hold; add it to {where}" in (
        capsys.readouterr().err
    )


def test_of_an_older_version_only_what_the_newer_lacks_is_there(needs: Needs) -> None:
    old = needs.add("thing@1", older=True)
    new = needs.add("thing", version="2")
    directory = "usr/share/postgresql/15/extension"
    for name in (f"{directory}/thing--1.sql", f"{directory}/thing.control", "usr/lib/postgresql/15/lib/thing-1.so"):
        needs.packages.write(old, name, "old")
    needs.packages.write(new, f"{directory}/thing--1--2.sql", "update")
    merge = needs.merge("thing")
    merge.choose_runtime()
    merge.check_extensions()
    merge.merge_directories("", [(tree, tree.usr) for tree in merge.packages])
    out = Path(merge.out)
    assert (out / "lib/postgresql/15/lib/thing-1.so").read_text() == "old"
    assert (out / "share/postgresql/15/extension/thing--1.sql").read_text() == "old"
    assert "default_version = '2'" in (out / "share/postgresql/15/extension/thing.control").read_text()
    assert [extension["name"] for extension in merge.all_extensions()] == ["thing"]
