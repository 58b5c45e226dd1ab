"""What maintainer scripts would make is found by reading them, and nothing of them is run."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgbake.errors import InputError
from pgbake.inputs.deb import control_files
from pgbake.inputs.maintainer import require_declared, undeclared
from tests.unit.inputs.debs import make_deb

HARMLESS = r"""
set -e
# a comment
case "$1" in
  configure|abort-upgrade)
    if [ -z "$2" ]; then
      echo "first installation" >&2
    fi
    ;;
  *) echo "what?"; exit 1 ;;
esac
# Automatically added by dh_python3
if command -v py3compile >/dev/null 2>&1; then
  py3compile -p thing
fi
# End automatically added section
# Automatically added by dh_makeshlibs/13
ldconfig
# End automatically added section
exit 0
"""


def scripted(directory: Path, lines: str) -> Path:
    return make_deb(directory / "thing_1_all.deb", postinst=lines)


def test_control_files_are_read(tmp_path: Path) -> None:
    assert control_files(scripted(tmp_path, "true\n")) == {"postinst": "#!/bin/sh\ntrue\n"}


def test_what_debhelper_adds_and_the_skeleton_make_nothing(tmp_path: Path) -> None:
    assert undeclared(scripted(tmp_path, HARMLESS), ()) == []


@pytest.mark.parametrize(
    "line",
    [
        "update-alternatives --install /usr/bin/x x /usr/lib/x/bin/x 10",
        "mkdir -p /var/lib/thing",
        "install -d /var/lib/thing",
        "thing --make-dictionary > /usr/share/thing/dictionary",
        'echo "x" > /etc/thing.conf',
        "printf x >> /etc/thing.conf",
        "cp /usr/share/a /etc/a",
        "ln -s a b",
        "adduser --system thing",
        "if true; then mkdir /x; fi",
        "[ -d /x ] || mkdir /x",
        "a|b) mkdir /x ;;",
        "*) : > /etc/x",
    ],
)
def test_what_makes_something_is_named_with_its_script(tmp_path: Path, line: str) -> None:
    deb = scripted(tmp_path, HARMLESS.replace("exit 0", f"  {line}\nexit 0"))
    assert undeclared(deb, ()) == [f"postinst: {line}"]
    assert undeclared(deb, [line[:6] + "*"]) == []


def test_lines_that_go_on_are_one(tmp_path: Path) -> None:
    deb = scripted(tmp_path, "update-alternatives \\\n    --install a b \\\n    c 10\n")
    assert undeclared(deb, ()) == ["postinst: update-alternatives --install a b c 10"]


def test_a_tool_of_debhelper_that_writes_counts(tmp_path: Path) -> None:
    deb = scripted(tmp_path, "# Automatically added by dh_ucf\nucf a b\n# End automatically added section\n")
    assert undeclared(deb, ()) == ["postinst: ucf a b"]


def test_a_script_of_another_language_counts_as_a_whole(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(
        "pgbake.inputs.maintainer.control_files", lambda deb: {"preinst": "#!/usr/bin/perl\nmkdir '/x';\n"}
    )
    assert undeclared(tmp_path / "any.deb", ()) == ["preinst: #!/usr/bin/perl"]


def test_all_packages_are_named_in_one_error(tmp_path: Path) -> None:
    debs = {name: make_deb(tmp_path / f"{name}.deb", postinst=f"mkdir /{name}\n") for name in ("one", "two", "three")}
    with pytest.raises(InputError, match="maintainer scripts of one, two make what nobody has declared") as caught:
        require_declared(debs, lambda name: ["mkdir *"] if name == "three" else [])
    assert caught.value.detail == "one: postinst: mkdir /one\ntwo: postinst: mkdir /two"
