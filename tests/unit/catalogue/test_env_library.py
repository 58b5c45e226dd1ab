"""libpgbake-env.so, compiled for a small bundle, in a program that is linked with it and in one that is not."""

from __future__ import annotations

import locale
import os
import re
import shutil
import subprocess
import sysconfig
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from pgbake.bundle.environment import COMPILER_OPTIONS, LIBRARY, SOURCE_DIR, SOURCES, Row, table_header
from tests.elf import abi_tag

DRIVER = Path(__file__).with_name("env_driver.c")
TRIPLET = sysconfig.get_config_var("MULTIARCH") or "x86_64-linux-gnu"
LIBRARIES = Path("/usr/lib") / TRIPLET
WARNINGS = ("-Wall", "-Wextra", "-Werror")
STARTERS = (
    "execve", "execv", "execvp", "execvpe", "execl", "execlp", "execle", "fexecve", "posix_spawn", "posix_spawnp",
    "vfork", "system", "popen",
)  # fmt: skip

ROWS = (
    Row("LOCPATH", ("lib/locale",)),
    Row("PGBAKE_TWO", ("lib/locale", "no/such", "/no/such", "/usr", "share/data")),
    Row("PGBAKE_FIRST", ("/no/such", "share/data", "lib/locale"), first=True),
    Row("PGBAKE_HOST", ("/no/such", "/usr", "share/data"), first=True),
    Row("PGBAKE_NONE", ("no/such", "/no/such")),
    Row("PGBAKE_UNLESS_SET", ("share/data",), unless=("PGBAKE_OTHER",)),
    Row("PGBAKE_UNLESS_PATH", ("share/data",), unless=("PGBAKE_OTHER", "/usr")),
)


@dataclass(frozen=True)
class Bundle:
    """A directory that stands for a ``/usr``, as the merge makes it."""

    root: Path
    plain: Path

    @property
    def locpath(self) -> str:
        return str(self.root / "lib/locale")

    def run(self, *args: str | Path, env: Mapping[str, str] | None = None, root: Path | None = None) -> dict[str, str]:
        """Run the driver, and read its output as an environment."""
        lines = self.output(*args, env=env, root=root).splitlines()
        return dict(line.split("=", 1) for line in lines if "=" in line)

    def output(self, *args: str | Path, env: Mapping[str, str] | None = None, root: Path | None = None) -> str:
        return output((root or self.root) / "lib/postgresql/15/bin/driver", *args, env=env)


def output(program: Path, *args: str | Path, env: Mapping[str, str] | None = None) -> str:
    """Run a program in an environment of a PATH and what is given."""
    done = subprocess.run(
        [program, *args],
        env={"PATH": "/usr/bin:/bin", **(env or {})},
        stdout=subprocess.PIPE,
        stdin=subprocess.DEVNULL,
        text=True,
        timeout=60,
        check=True,
    )
    return done.stdout


def sandboxed(bundle: Bundle, mounts: Sequence[str], *args: str) -> str:
    """Run the driver where something of the machine is hidden."""
    everything = ["bwrap", "--dev-bind", "/", "/"]
    if not shutil.which("bwrap") or subprocess.run([*everything, "true"], check=False).returncode != 0:
        pytest.skip("bwrap does not work here")
    top = str(bundle.root.parent)
    done = subprocess.run(
        [*everything, *mounts, "--ro-bind", top, top, bundle.root / "lib/postgresql/15/bin/driver", *args],
        capture_output=True,
        text=True,
        check=True,
    )
    return done.stdout


def compile_driver(target: Path, *options: str) -> None:
    subprocess.run(
        ["cc", "-O1", "-D_GNU_SOURCE", *WARNINGS, "-Wno-unused-result", "-Wno-nonnull", DRIVER, "-o", target, *options],
        check=True,
    )


def make_bundle(top: Path, *options: str, **languages: str | Sequence[str]) -> Bundle:
    root = top / "bundle"
    package = top / "package"
    libraries = root / "lib" / TRIPLET
    for directory in (libraries, package, root / "lib/locale", root / "share/data", root / "lib/postgresql/15/bin"):
        directory.mkdir(parents=True)
    header = table_header(ROWS, library_dir=f"lib/{TRIPLET}", **languages)  # type: ignore[arg-type]
    (package / "table.h").write_text(header)
    sources = [SOURCE_DIR / name for name in SOURCES]
    subprocess.run(
        ["cc", *COMPILER_OPTIONS, *options, *WARNINGS, "-I", package, "-o", package / LIBRARY, *sources], check=True
    )
    (libraries / LIBRARY).symlink_to(package / LIBRARY)
    rpath = f"-Wl,--disable-new-dtags,-rpath,$ORIGIN/../../../../lib/{TRIPLET}"
    compile_driver(
        root / "lib/postgresql/15/bin/driver", "-Wl,--no-as-needed", f"-L{libraries}", f"-l:{LIBRARY}", rpath
    )
    compile_driver(top / "plain")
    return Bundle(root, top / "plain")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    return make_bundle(tmp_path_factory.mktemp("env").resolve())


# --- the variables of the process itself -----------------------------------------------------------


def test_sets_what_exists(bundle: Bundle) -> None:
    assert bundle.run("print", *(row.variable for row in ROWS)) == {
        "LOCPATH": bundle.locpath,
        "PGBAKE_TWO": f"{bundle.locpath}:/usr:{bundle.root}/share/data",
        "PGBAKE_FIRST": f"{bundle.root}/share/data",
        "PGBAKE_HOST": "/usr",
        "PGBAKE_NONE": "(unset)",
        "PGBAKE_UNLESS_SET": f"{bundle.root}/share/data",
        "PGBAKE_UNLESS_PATH": "(unset)",
    }


def test_sets_nothing_that_another_variable_decides(bundle: Bundle) -> None:
    seen = bundle.run("print", "PGBAKE_UNLESS_SET", env={"PGBAKE_OTHER": "x"})
    assert seen == {"PGBAKE_UNLESS_SET": "(unset)"}


@pytest.mark.parametrize("value", ["/usr/lib/locale", ""])
def test_respects_a_value_of_the_users_own(bundle: Bundle, value: str) -> None:
    assert bundle.run("print", "LOCPATH", env={"LOCPATH": value}) == {"LOCPATH": value}


def test_finds_the_bundle_through_the_links_of_a_service(bundle: Bundle, tmp_path: Path) -> None:
    service = tmp_path / "service"
    (service / "lib/postgresql/15").mkdir(parents=True)
    shutil.copytree(bundle.root / "lib/postgresql/15/bin", service / "lib/postgresql/15/bin")
    (service / f"lib/{TRIPLET}").symlink_to(bundle.root / f"lib/{TRIPLET}")
    (service / "share").symlink_to(bundle.root / "share")
    assert bundle.run("print", "LOCPATH", "PGBAKE_FIRST", root=service) == {
        "LOCPATH": bundle.locpath,  # the service has no link for it: from the bundle itself
        "PGBAKE_FIRST": f"{service}/share/data",  # by the name that stays when the link is switched
    }


def test_finds_the_bundle_from_the_program_where_it_is_loaded_by_a_relative_name(bundle: Bundle) -> None:
    done = subprocess.run(
        ["lib/postgresql/15/bin/driver", "print", "LOCPATH"],
        env={"LD_PRELOAD": f"lib/{TRIPLET}/{LIBRARY}"},
        cwd=bundle.root,
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == f"LOCPATH={bundle.locpath}\n"


def test_finds_no_bundle_and_sets_nothing(bundle: Bundle, tmp_path: Path) -> None:
    library = tmp_path / LIBRARY
    shutil.copy(bundle.root / "lib" / TRIPLET / LIBRARY, library)
    names = ("LOCPATH", "PGBAKE_FIRST", "PGBAKE_HOST")
    assert output(bundle.plain, "print", *names, env={"LD_PRELOAD": str(library)}).splitlines() == [
        "LOCPATH=(unset)",
        "PGBAKE_FIRST=(unset)",
        "PGBAKE_HOST=/usr",
    ]


# --- what is started -------------------------------------------------------------------------------


@pytest.mark.parametrize("how", STARTERS)
def test_withdraws_from_what_is_started(bundle: Bundle, how: str) -> None:
    seen = bundle.run(how, env={"KEPT": "yes"})
    assert seen["KEPT"] == "yes"
    assert not {row.variable for row in ROWS} & seen.keys()


@pytest.mark.parametrize("how", STARTERS)
def test_hands_on_a_value_of_the_users_own(bundle: Bundle, how: str) -> None:
    own = {"LOCPATH": "/mine", "PGBAKE_TWO": "", "PGBAKE_HOST": "/usr"}
    seen = bundle.run(how, env=own)
    assert {name: seen.get(name) for name in own} == own
    assert "PGBAKE_FIRST" not in seen


@pytest.mark.parametrize("how", STARTERS)
def test_withdraws_a_value_equal_to_its_own_that_leaked_in(bundle: Bundle, how: str) -> None:
    assert "LOCPATH" not in bundle.run(how, env={"LOCPATH": bundle.locpath})


@pytest.mark.parametrize("how", ["execl", "execlp", "execle"])
def test_hands_on_the_arguments(bundle: Bundle, how: str) -> None:
    assert bundle.run(how)["ARGUMENT"] == "1"


@pytest.mark.parametrize("what", ["statuses", "signals"])
def test_popen_and_system_do_what_libcs_do(bundle: Bundle, what: str) -> None:
    expected = output(bundle.plain, what)
    assert len(expected.splitlines()) > 6
    assert bundle.output(what) == expected


def test_popen_and_system_in_many_threads(bundle: Bundle) -> None:
    assert bundle.output("threads").splitlines() == ["wrong 0", "after: INT 1 QUIT 1 CHLD blocked 0"]


def test_system_can_be_cancelled(bundle: Bundle) -> None:
    assert bundle.output("cancel").splitlines() == [
        "cancelled 1 in time 1 children 0",
        "after: INT 1 QUIT 1 CHLD blocked 0",
    ]


def test_popen_says_why_there_is_no_shell(bundle: Bundle) -> None:
    """glibc before 2.38 says "Cannot allocate memory", whatever went wrong."""
    shell = os.path.realpath("/bin/sh")
    assert sandboxed(bundle, ["--ro-bind", "/dev/null", shell], "no-shell").splitlines() == [
        "popen -1 Permission denied",
        f"system {127 << 8} ",
    ]


# --- commands that the bundle answers itself -------------------------------------------------------


def make_locales(directory: Path, *names: str) -> None:
    for name in names:
        (directory / name).mkdir(parents=True)
        (directory / name / "LC_COLLATE").touch()


def test_locale_a_lists_the_bundles_locales(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    make_locales(bundle.root / "lib/locale", "en_US.utf8", "C.utf8", "de_DE@euro")
    (bundle.root / "lib/locale/unfinished").mkdir()
    listed = bundle.output("read", "locale -a").splitlines()
    assert listed == ["C", "POSIX", "C.utf8", "de_DE@euro", "en_US.utf8", "pclose 0 "]
    make_locales(tmp_path / "own", "xx_YY")
    listed = bundle.output("read", "locale -a", env={"LOCPATH": str(tmp_path / "own")}).splitlines()
    assert listed == ["C", "POSIX", "xx_YY", "pclose 0 "]
    own = {"LOCPATH": ""}  # the user wants the machine's
    assert bundle.output("read", "locale -a", env=own) == output(bundle.plain, "read", "locale -a", env=own)
    assert bundle.output("read", "locale -a; true") == output(bundle.plain, "read", "locale -a; true")


def test_psql_pages_by_the_bundles_less_unless_told_otherwise(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    machine = tmp_path / "machine"
    for path, name in ((machine, "more"), (bundle.root / "bin", "less")):
        path.mkdir()
        (path / name).write_text(f'#!/bin/sh\nwhile read line; do echo "{name}: $line $LOCPATH"; done\nexit 3\n')
        (path / name).chmod(0o755)
    env = {"PATH": f"{machine}:/usr/bin:/bin"}
    assert bundle.output("write", "more", env=env) == "less: first \nless: second \npclose 768 \n"
    for chosen in ("PAGER", "PSQL_PAGER"):
        assert bundle.output("write", "more", env=env | {chosen: "more"}).startswith("more: first \n")
    assert bundle.output("write", "exec more", env=env).startswith("more: first \n")
    (bundle.root / "bin/less").unlink()
    assert bundle.output("write", "more", env=env).startswith("more: first \n")


# --- languages -------------------------------------------------------------------------------------


def installed(pattern: str) -> Path:
    """Return a library of this machine by a glob pattern, or skip the test."""
    found = sorted(LIBRARIES.glob(pattern))
    if not found:
        pytest.skip(f"no {LIBRARIES}/{pattern}")
    return found[0]


def withdrawn(text: str) -> bool:
    return not any(line.split("=")[0] in {row.variable for row in ROWS} for line in text.splitlines())


def test_perl_looks_into_the_bundle_after_perl5lib(tmp_path: Path) -> None:
    library = installed("libperl.so.5.*")
    bundle = make_bundle(tmp_path, perl_dirs=("share/perl/none", "share/perl/b", "share/perl/a"))
    for name in ("a", "b"):
        (bundle.root / "share/perl" / name).mkdir(parents=True)
    ours = [f"{bundle.root}/share/perl/b", f"{bundle.root}/share/perl/a"]
    lines = bundle.output("perl", library).splitlines()
    assert lines[:2] == ours
    assert len(lines) > 4
    assert withdrawn("\n".join(lines))
    lines = bundle.output("perl", library, env={"PERL5LIB": f"{tmp_path}/x::{tmp_path}/y"}).splitlines()
    assert lines[:4] == [f"{tmp_path}/x", f"{tmp_path}/y", *ours]


def python_of_machine() -> tuple[Path, Path]:
    """Return a libpython and its standard library."""
    library = installed("libpython3.*.so.1.0")
    version = re.findall(r"3\.\d+", library.name)[0]
    modules = Path(f"/usr/lib/python{version}")
    if not (modules / "os.py").exists():
        pytest.skip(f"no {modules}")
    return library, modules


def test_python_has_the_bundle_as_its_home(tmp_path: Path) -> None:
    library, modules = python_of_machine()
    bundle = make_bundle(tmp_path, python_dir=f"lib/{modules.name}")
    (bundle.root / "lib" / modules.name).symlink_to(modules)
    text = bundle.output("python", library)
    assert text.splitlines()[0] == f"{bundle.root} False"
    assert text.count("PATH=/usr/bin:/bin") == 3
    assert withdrawn(text)
    assert bundle.output("python", library, env={"PYTHONHOME": "/usr"}).splitlines()[0] == "/usr True"


def test_a_language_is_found_by_a_library_that_is_loaded_for_itself_alone(tmp_path: Path) -> None:
    library, modules = python_of_machine()
    bundle = make_bundle(tmp_path, python_dir=f"lib/{modules.name}")
    (bundle.root / "lib" / modules.name).symlink_to(modules)
    source = tmp_path / "plugin.c"
    source.write_text(
        "void Py_Initialize(void); int PyRun_SimpleString(const char *);\n"
        'void run(void) { Py_Initialize(); PyRun_SimpleString("import sys; print(sys.prefix, flush=True)"); }\n'
    )
    plugin = tmp_path / "plugin.so"
    subprocess.run(["cc", "-shared", "-fPIC", source, library, "-o", plugin], check=True)
    assert bundle.output("plugin", plugin) == f"{bundle.root}\n"


def test_tcl_has_its_library_modules_and_encodings_in_the_bundle(tmp_path: Path) -> None:
    library = installed("libtcl[89].*.so")
    name = library.name.removeprefix("lib").removesuffix(".so")
    scripts = Path("/usr/share/tcltk") / name
    if not scripts.exists():
        pytest.skip(f"no {scripts}")
    bundle = make_bundle(tmp_path, tcl_dir=f"share/tcltk/{name}")
    (bundle.root / "share/tcltk").mkdir()
    (bundle.root / "share/tcltk" / name).symlink_to(scripts)
    text = bundle.output("tcl", library)
    place = f"{bundle.root}/share/tcltk/{name}"
    lines = text.splitlines()
    assert lines[:4] == [place, "Thu Jan 01 00:00:00 GMT 1970", "8364", place]
    assert f"{place}/tcl{name[3]}" in lines[4].split()
    assert withdrawn(text)
    assert bundle.output("tcl", library, env={"TCL_LIBRARY": str(scripts)}).splitlines()[0] == str(scripts)


# --- the machine's modules and data ----------------------------------------------------------------


def real_locales(bundle: Bundle) -> None:
    for name in ("C.utf8", "en_US.utf8"):
        shutil.copytree("/usr/lib/locale/C.utf8", bundle.root / "lib/locale" / name)
        (bundle.root / "lib/locale" / name.replace("utf8", "UTF-8")).symlink_to(name)


def test_locales_are_the_bundles_alone(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path)
    real_locales(bundle)
    machine = tmp_path / "machine"
    shutil.copytree("/usr/lib/locale/C.utf8", machine / "xx_YY.utf8")
    shutil.copytree("/usr/lib/locale/C.utf8", machine / "en_US.utf-8")

    def ask(*words: str, **env: str) -> str:
        done = subprocess.run(
            ["bwrap", "--dev-bind", "/", "/", "--bind", machine, "/usr/lib/locale",
             bundle.root / "lib/postgresql/15/bin/driver", *words],
            env=env, capture_output=True, text=True, check=True,
        )  # fmt: skip
        return done.stdout.strip()

    sandboxed(bundle, [], "print")  # or skip
    collate, everything = str(int(locale.LC_COLLATE)), str(int(locale.LC_ALL))
    assert ask("setlocale", collate, "en_US.UTF-8") == "en_US.UTF-8"
    assert ask("setlocale", collate, "en_US.utf-8") == "en_US.utf8"  # not the machine's of just this name
    assert ask("setlocale", collate, "xx_YY.UTF-8") == "refused"
    assert ask("setlocale", collate, "xx_YY.UTF-8", LOCPATH="/usr/lib/locale") == "xx_YY.UTF-8"
    assert ask("setlocale", collate, "", LANG="xx_YY.UTF-8") == "refused"
    assert ask("setlocale", collate, "", LC_ALL="", LC_COLLATE="en_US.UTF-8", LANG="xx_YY.UTF-8") == "en_US.UTF-8"
    assert ask("setlocale", everything, "", LANG="en_US.UTF-8") == "en_US.UTF-8"
    assert ask("setlocale", everything, "") == "C"
    assert ask("setlocale", everything, "xx_YY.UTF-8") == "refused"
    lenient = ask("setlocale", everything, "", LANG="xx_YY.UTF-8")
    assert lenient.startswith("LC_CTYPE=C.UTF-8;LC_NUMERIC=C;LC_TIME=C;LC_COLLATE=C;")
    assert ask("setlocale", everything, lenient) == lenient
    assert ask("setlocale", everything, lenient.replace("LC_TIME=C", "LC_TIME=xx_YY.UTF-8")) == "refused"
    assert ask("setlocale", everything, "", LANG="xx_YY.ISO-8859-1") == "refused"
    assert ask("setlocale", everything, "/etc") == ask("setlocale", everything, ".") == "refused"
    assert ask("newlocale", "en_US.UTF-8") == "made"
    assert ask("newlocale", "xx_YY.UTF-8") == "No such file or directory"
    assert ask("newlocale", "", LANG="xx_YY.UTF-8") == "No such file or directory"
    # libgfortran asks for no category at all, and hands what it gets to freelocale, which takes no NULL.
    assert ask("newlocale", "C", "0") == ask("newlocale", "xx_YY.UTF-8", "0") == "C"
    assert ask("newlocale", "C", "0", "en_US.UTF-8") == "made"
    assert ask("newlocale", "en_US.UTF-8", str(1 << locale.LC_COLLATE)) == "made"
    assert ask("newlocale", "en_US.UTF-8", str(1 << locale.LC_ALL)) == "made"
    assert ask("newlocale", "xx_YY.UTF-8", str(1 << locale.LC_ALL)) == "No such file or directory"
    assert ask("newlocale", "C", str(1 << 20)) == "Invalid argument"


GETENT = """#!/bin/sh
[ -z "$LOCPATH$PGBAKE_TWO" ] || exit 1
case $1-$2 in
  passwd-ada|passwd-4711) echo ada:x:4711:4711::/home/ada:/bin/sh ;;
  passwd-4712|passwd-12) echo somebody:x:1:1::/:/bin/sh ;;
  passwd-dead) kill -ABRT $$ ;;
  passwd-slow) exec sleep 100 ;;
  passwd-deaf) echo deaf:x:5:5::/deaf:/bin/sh; exec >&-; exec sleep 100 ;;
  group-4711|group-lovelaces) echo lovelaces:x:4711:ada,augusta ;;
  *) exit 2 ;;
esac
"""


def test_getent_is_asked_for_whom_the_files_do_not_know(tmp_path: Path) -> None:
    bundle = make_bundle(tmp_path, "-DPATIENCE=300")
    getent = tmp_path / "getent"
    getent.write_text(GETENT)
    getent.chmod(0o755)
    mounts = ["--ro-bind", str(getent), os.path.realpath("/usr/bin/getent"), "--unsetenv", "LOCPATH"]
    start = time.monotonic()
    lines = sandboxed(bundle, mounts, "accounts", "ada", "nobody1", "12", "dead", "slow", "deaf", "", "-x").splitlines()
    assert time.monotonic() - start < 20
    assert lines == [
        "ada 4711 /home/ada 0", "nobody1 -1  0", "12 -1  0", "dead -1  0", "slow -1  0", "deaf 5 /deaf 0", " -1  0",
        "-x -1  0", "4711 ada", "4712 ", "group augusta", "group 4711", "small 1", "children 0 -1",
    ]  # fmt: skip
    hidden = ["--ro-bind", "/dev/null", os.path.realpath("/usr/bin/getent")]
    assert sandboxed(bundle, hidden, "accounts", "ada", "root").splitlines()[:2] == ["ada -1  0", "root 0 /root 0"]


#: A library that opens another one, from a directory that only its own DT_RUNPATH names.
OPENER = """
#include <dlfcn.h>
#include <stdio.h>
#include <stdlib.h>
void run(void) { puts(dlopen(getenv("OPEN"), RTLD_NOW) ? "loaded" : dlerror()); }
"""


@pytest.mark.parametrize("name", ["libkrb5support.so.0", "libp11-kit.so.0", "libncursesw.so.6", "libother.so.1"])
def test_a_confined_library_loads_nothing_of_the_machines(tmp_path: Path, name: str) -> None:
    bundle = make_bundle(tmp_path)
    opener, machine = tmp_path / name, tmp_path / "machine"
    machine.mkdir()
    module = machine / "module.so"
    shared = ["cc", "-shared", "-fPIC", "-x", "c", "-", "-o"]
    subprocess.run([*shared, module], input="", text=True, check=True)
    subprocess.run([*shared, opener, f"-Wl,--enable-new-dtags,-rpath,{machine}"], input=OPENER, text=True, check=True)
    shutil.copy(module, bundle.root / "share/data/ours.so")
    shutil.copy(module, bundle.root / "lib" / TRIPLET / "beside.so")
    confined = name != "libother.so.1"

    def opened(file: str | Path, **env: str) -> bool:
        said = bundle.output("plugin", opener, env={"OPEN": str(file), **env})
        assert said == "loaded\n" or "No such file" in said, said
        return said == "loaded\n"

    assert opened(module) != confined
    assert opened("module.so") != confined  # found where the caller looks: the caller is known as such
    assert opened("/usr/share/data/ours.so") == confined  # ours, by the machine's name
    assert opened(bundle.root / "share/data/ours.so")
    # A library with DT_RUNPATH has no use of the program's DT_RPATH; a confined one is given the whole name.
    assert opened("beside.so") == confined
    assert not opened("/usr/no/such.so")
    assert opened(module, KRB5_CONFIG="/mine") == (name == "libkrb5support.so.0" or not confined)
    assert bundle.output("dlopen", module) == "loaded\n"


# --- where a server listens ------------------------------------------------------------------------


USUAL = "/tmp/.s.PGSQL.5432"
DEBIAN = "/var/run/postgresql/.s.PGSQL.5432"
NOBODY = "No such file or directory"
REFUSED = "Connection refused"


@pytest.mark.parametrize(
    ("to", "listening", "expected"),
    [
        (USUAL, (DEBIAN,), DEBIAN),
        (USUAL, (USUAL,), USUAL),
        (USUAL, (USUAL, DEBIAN), USUAL),
        (USUAL, (), NOBODY),
        (USUAL, ("!" + USUAL, DEBIAN), DEBIAN),
        (USUAL, ("!" + USUAL, "!" + DEBIAN), REFUSED),
        (USUAL, ("!" + DEBIAN,), NOBODY),
        (USUAL + "x", (DEBIAN + "x",), NOBODY),
        ("/tmp/.s.PGSQL.", ("/var/run/postgresql/.s.PGSQL.",), NOBODY),
        ("/tmp/.s.PGSQL.5433", (DEBIAN,), NOBODY),
        ("/tmp/x/.s.PGSQL.5432", (DEBIAN,), NOBODY),
        (DEBIAN, (USUAL,), NOBODY),
    ],
)
def test_connect_also_looks_where_debian_has_the_socket(
    bundle: Bundle, to: str, listening: tuple[str, ...], expected: str
) -> None:
    run = os.path.realpath("/var/run")
    hidden = ["--tmpfs", "/tmp", "--tmpfs", run, "--dir", f"{run}/postgresql"]
    assert sandboxed(bundle, hidden, "connect", to, *listening) == f"{expected}\n"


# --- the kernel ------------------------------------------------------------------------------------


def test_a_kernel_that_is_too_old_for_one_library_is_refused(bundle: Bundle, tmp_path: Path) -> None:
    """libc's own note is met, since the driver runs everywhere else; one of Linux 99.1.2 is not."""
    library = tmp_path / "libnew.so"
    subprocess.run(
        ["cc", "-shared", "-x", "assembler", "-o", library, "-"], input=abi_tag(99, 1, 2), text=True, check=True
    )
    driver = bundle.root / "lib/postgresql/15/bin/driver"
    done = subprocess.run(
        [driver, "print", "LOCPATH"], env={"LD_PRELOAD": str(library)}, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout) == (127, "")
    assert done.stderr == (
        f"{driver}: this program needs Linux 99.1 or newer, and this machine runs {os.uname().release}\n"
    )
