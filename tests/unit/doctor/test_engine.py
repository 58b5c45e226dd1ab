"""Which engine builds, and what is told of a Nix that does not answer."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgbake.doctor.engine import examine_engine
from pgbake.errors import StoreError
from pgbake.places import engine


def test_an_engine_of_its_own() -> None:
    (finding,) = examine_engine("local", "there is no Nix on this machine")
    assert (finding.state, finding.found) == ("ok", "local: there is no Nix on this machine")


def test_a_daemon_that_is_not_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NIX_DAEMON_SOCKET_PATH", str(tmp_path / "socket"))
    monkeypatch.setenv("PATH", str(tmp_path))
    (finding,) = examine_engine("nix", "it was named")
    assert finding.state == "problem"
    assert f"Nix's daemon does not answer at {tmp_path / 'socket'}: No such file or directory" in finding.found
    assert finding.hint is not None and "systemctl start nix-daemon" in finding.hint


def test_a_daemon_that_hangs_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    program = tmp_path / "nix-daemon"
    program.write_text("#!/bin/sh\necho error: you may not >&2\n")
    program.chmod(0o755)
    monkeypatch.setenv("NIX_DAEMON_SOCKET_PATH", str(tmp_path / "socket"))
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    monkeypatch.setattr("os.geteuid", lambda: 0)
    (finding,) = examine_engine("nix", "it was named")
    assert finding.state == "problem" and "you may not" in finding.found


def test_a_choice_needs_what_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgbake.places.nix_owns_the_store", lambda: False)
    assert engine(None, None) == ("local", "there is no Nix on this machine")
    with pytest.raises(StoreError, match="no Nix on this machine"):
        engine(None, "nix")
    monkeypatch.setattr("pgbake.places.nix_owns_the_store", lambda: True)
    assert engine(None, None) == ("nix", "a real Nix owns /nix")
    assert engine(tmp_path, None)[0] == "local" and engine(None, "local")[0] == "local"
    with pytest.raises(StoreError, match="another one is named"):
        engine(tmp_path, "nix")
