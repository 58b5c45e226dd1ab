"""Buckets: rights, refusals, a server that dies in the middle, and Nix's own client beside ours."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgbake.cache import clients
from pgbake.cache.cache import BinaryCache
from pgbake.cache.index import NAME as INDEX
from pgbake.cache.mend import mend
from pgbake.cache.push import push
from pgbake.cache.verify import verify
from pgbake.errors import CacheError
from pgbake.events import Event, Finished, silent
from pgbake.formats.narinfo import NarInfo
from tests.closures import make_closure
from tests.integration.cache.transfers import OURS, Place, check_bucket, check_store
from tests.oracle import Oracle, OracleUnavailable, newer_nix
from tests.s3 import S3Server, acting_as
from tests.web import FarProxy

pytestmark = pytest.mark.integration

#: Of a NAR that goes up in several parts.
LARGE = 12_000_000


@pytest.fixture(autouse=True)
def admin() -> Iterator[None]:
    with acting_as("admin"):
        yield


@pytest.fixture
def prefix(place: Place) -> str:
    return place.directory.name


def test_push_and_pull(place: Place, s3: S3Server, prefix: str) -> None:
    closure = place.pushed(url=s3.url(prefix=prefix), leaves=20, size=LARGE // 20)
    assert check_bucket(s3, prefix, closure.paths) == set(closure.paths)
    with acting_as("reader"):
        result = place.pull(closure, s3.url(prefix=prefix))
    assert {path for path, _ in result.pulled} == set(closure.paths)
    check_store(place.target, closure.paths)


def test_a_large_nar_goes_up_in_parts(place: Place, s3: S3Server, prefix: str) -> None:
    closure = make_closure(place.source, size=LARGE)
    with FarProxy(s3.address, 0) as proxy:
        place.push(closure, s3.url(prefix=prefix, address=proxy.address))
        assert any("uploadId=" in request for request in proxy.requests)
    check_bucket(s3, prefix, closure.paths)
    place.pull(closure, s3.url(prefix=prefix))
    check_store(place.target, closure.paths)


def test_nothing_to_push_is_one_request(place: Place, s3: S3Server, prefix: str) -> None:
    closure = place.pushed(url=s3.url(prefix=prefix), leaves=100, size=500)
    with FarProxy(s3.address, 0) as proxy:
        url = s3.url(prefix=prefix, address=proxy.address)
        place.push(closure, url)  # fetches the index, which the URL of the proxy has no copy of
        proxy.requests.clear()
        result = place.push(closure, url)
        assert not result.sent and len(result.present) == len(closure.paths)
        assert len(proxy.requests) == 1 and "list-type=2" in proxy.requests[0]


def test_what_is_there_is_not_sent_again(place: Place, s3: S3Server, prefix: str) -> None:
    first = place.pushed("first", url=s3.url(prefix=prefix))
    before = s3.objects(prefix)
    more = make_closure(place.source, "more")
    with FarProxy(s3.address, 0) as proxy:
        cache = BinaryCache(s3.url(prefix=prefix, address=proxy.address))
        result = push(place.source, cache, [first.top, more.top], [OURS], silent)
    assert set(result.sent) == set(more.paths) and set(result.present) == set(first.paths)
    assert before.items() - {(INDEX, before[INDEX])} <= s3.objects(prefix).items()
    check_bucket(s3, prefix, (*first.paths, *more.paths))


def test_everybody_may_read_a_public_bucket(place: Place, s3: S3Server, prefix: str) -> None:
    closure = place.pushed(url=s3.url("public", prefix))
    with acting_as(None):
        place.pull(closure, s3.url("public", prefix, more="anonymous=true"))
        place.pull(closure, s3.web_url("public", prefix), store=place.target)
        check_store(place.target, closure.paths)
        with pytest.raises(CacheError, match="refused: HTTP status 403"):
            place.push(make_closure(place.source, "more"), s3.url("public", prefix, more="anonymous=true"))


def test_everybody_may_read_a_public_bucket_by_http(place: Place, s3: S3Server, prefix: str) -> None:
    closure = place.pushed(url=s3.url("public", prefix))
    with acting_as(None):
        place.pull(closure, s3.web_url("public", prefix))
    check_store(place.target, closure.paths)


@pytest.mark.parametrize(
    ("user", "secret"), [("admin", "wrong"), ("stranger", None), ("outsider", None), (None, None)],
    ids=["wrong secret", "unknown key", "denied bucket", "anonymous"],
)  # fmt: skip
def test_who_has_no_right_is_told_so(place: Place, s3: S3Server, prefix: str, user: str | None, secret: str) -> None:
    closure = place.pushed(url=s3.url(prefix=prefix))
    url = s3.url(prefix=prefix, more="" if user else "anonymous=true")
    with acting_as(user, secret):  # type: ignore[arg-type]
        for attempt in (lambda: place.pull(closure, url), lambda: place.push(closure, url)):
            with pytest.raises(CacheError) as raised:
                attempt()
            assert "refused: HTTP status 403" in str(raised.value), raised.value
            assert "AWS_ACCESS_KEY_ID" in str(raised.value.hint)
            assert "wrong" not in f"{raised.value} {raised.value.detail}"
    assert not check_store(place.target)


def test_who_may_only_read_is_told_so(place: Place, s3: S3Server, prefix: str) -> None:
    closure = place.pushed("first", url=s3.url(prefix=prefix))
    before = s3.objects(prefix)
    with acting_as("reader"):
        assert not place.push(closure, s3.url(prefix=prefix)).sent
        with pytest.raises(CacheError, match="refused: HTTP status 403"):
            place.push(make_closure(place.source, "second"), s3.url(prefix=prefix))
    assert s3.objects(prefix) == before


def test_a_bucket_that_is_not_there(place: Place, s3: S3Server) -> None:
    closure = make_closure(place.source)
    url = s3.url().replace("s3://main", "s3://nowhere")
    for attempt in (lambda: place.pull(closure, url), lambda: place.push(closure, url)):
        with pytest.raises(CacheError, match="no bucket"):
            attempt()


def test_a_push_just_now_is_seen_by_a_client_with_a_copy_of_the_index(place: Place, s3: S3Server, prefix: str) -> None:
    url = s3.url(prefix=prefix)
    first = place.pushed("first", url=url)
    place.pull(first, url)
    second = make_closure(place.source, "second")
    with pytest.raises(CacheError, match="in none of the caches"):
        place.pull(second, url)
    place.push(second, url)
    place.pull(second, url)
    check_store(place.target, (*first.paths, *second.paths))


def test_two_who_push_at_once_lose_nothing(place: Place, s3: S3Server, prefix: str) -> None:
    """Both write the index: each keeps what the other has added."""
    closures = [make_closure(place.source, word, leaves=10, size=2000) for word in ("one", "two", "three")]
    failed: list[BaseException] = []

    def work(number: int) -> None:
        try:
            for closure in (closures[number], closures[(number + 1) % 3]):
                place.push(closure, s3.url(prefix=prefix))
        except BaseException as error:
            failed.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(3)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        check_bucket_while_written(s3, prefix)
    assert not failed
    check_bucket(s3, prefix, [path for closure in closures for path in closure.paths])


def check_bucket_while_written(server: S3Server, prefix: str) -> None:
    """What was told of a moment ago is there, with all that it refers to."""
    told = [name for name in server.objects(prefix) if name.endswith(".narinfo")]
    there = server.objects(prefix)
    for name in told:
        info = NarInfo.parse(server.read(f"{prefix}/{name}").decode())
        assert there.get(info.url) == info.file_size
        assert all(f"{reference.digest}.narinfo" in there for reference in info.references)


def test_each_fault_in_a_bucket_is_named_and_mended(place: Place, s3: S3Server, prefix: str) -> None:
    """Verification names exactly what is lost; mending brings it back, and readers get it."""
    url = s3.url(prefix=prefix)
    closure = place.pushed(url=url, leaves=4, size=50_000)
    cache = BinaryCache(url)
    assert not verify(cache, silent).findings
    infos = cache.query(closure.paths)
    truncated, flipped, gone, untold = closure.leaves
    name = f"{prefix}/{infos[truncated].url}"
    s3.write(name, s3.read(name)[:-9])
    name = f"{prefix}/{infos[flipped].url}"
    data = s3.read(name)
    s3.write(name, data[:999] + bytes([data[999] ^ 1]) + data[1000:])
    s3.delete(f"{prefix}/{infos[gone].url}")
    s3.write(f"{prefix}/{untold.digest}.narinfo", b"not what it was")
    with pytest.raises(CacheError):
        place.pull(closure, url)
    check_store(place.target)
    found = verify(BinaryCache(url), silent)
    assert set(found.lost()) == {path.digest for path in closure.leaves}
    mended = mend(place.source, BinaryCache(url), [OURS], silent)
    assert set(mended.mended) == set(closure.leaves) and not mended.lost
    assert not verify(BinaryCache(url), silent).findings
    check_bucket(s3, prefix, closure.paths)
    place.pull(closure, url)
    check_store(place.target, closure.paths)


class After:
    """Does something once, when so many transfers have ended."""

    def __init__(self, count: int, act: Callable[[], object]) -> None:
        self.count = count
        self.act = act
        self.turn = threading.Lock()

    def __call__(self, event: Event) -> None:
        if isinstance(event, Finished):
            with self.turn:
                self.count -= 1
                if self.count == 0:
                    self.act()


@pytest.mark.parametrize("ended", [1, 25])
def test_a_server_killed_in_the_middle_of_a_push(
    place: Place, mortal_s3: S3Server, prefix: str, monkeypatch: pytest.MonkeyPatch, ended: int
) -> None:
    """After its restart nothing half-written is to be seen, and the next push completes what is there."""
    monkeypatch.setattr(clients, "_RETRIES", 2)
    closure = make_closure(place.source, leaves=40, size=100_000)
    large = make_closure(place.source, "large", size=LARGE)
    url = mortal_s3.url(prefix=prefix)
    place.push(large, mortal_s3.url(prefix=f"{prefix}-other"))
    with pytest.raises(CacheError) as raised:
        place.push(closure, url, report=After(ended, mortal_s3.kill))
    assert raised.value.hint
    mortal_s3.start()
    seen = check_bucket(mortal_s3, prefix)
    assert closure.top not in seen
    assert {finding.kind for finding in verify(BinaryCache(url), silent).findings} <= {"index", "cache-info", "root"}
    check_bucket(mortal_s3, f"{prefix}-other", large.paths)
    kept = {name: size for name, size in mortal_s3.objects(prefix).items() if name.startswith("nar/")}
    result = place.push(closure, url)
    assert set(result.present) == seen and set(result.sent) | seen == set(closure.paths)
    assert kept.items() <= mortal_s3.objects(prefix).items()
    check_bucket(mortal_s3, prefix, closure.paths)
    place.pull(closure, url)
    check_store(place.target, closure.paths)


def test_a_server_killed_in_the_middle_of_a_large_object(
    place: Place, mortal_s3: S3Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An upload in parts is seen when it is complete, and not before."""
    monkeypatch.setattr(clients, "_RETRIES", 1)
    closure = make_closure(place.source, size=2 * LARGE)
    with FarProxy(mortal_s3.address, 0.02) as proxy:
        failed: list[BaseException] = []

        def work() -> None:
            try:
                place.push(closure, mortal_s3.url(prefix=prefix, address=proxy.address))
            except CacheError as error:
                failed.append(error)

        thread = threading.Thread(target=work)
        thread.start()
        while thread.is_alive() and not any("partNumber=" in request for request in proxy.requests):
            thread.join(0.005)
        mortal_s3.kill()
        thread.join()
    assert failed
    mortal_s3.start()
    assert closure.data not in check_bucket(mortal_s3, prefix)
    place.push(closure, mortal_s3.url(prefix=prefix))
    check_bucket(mortal_s3, prefix, closure.paths)


def test_a_server_killed_in_the_middle_of_a_pull(
    place: Place, mortal_s3: S3Server, prefix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What came whole stays, and does not travel again."""
    monkeypatch.setattr(clients, "_RETRIES", 2)
    url = mortal_s3.url(prefix=prefix)
    closure = place.pushed(url=url, leaves=60, size=200_000)
    with pytest.raises(CacheError) as raised:
        place.pull(closure, url, report=After(20, mortal_s3.kill))
    assert raised.value.hint
    before = check_store(place.target)
    assert before and closure.top not in before
    mortal_s3.start()
    result = place.pull(closure, url)
    assert not {path for path, _ in result.pulled} & before
    check_store(place.target, closure.paths)


def test_connections_that_are_cut(place: Place, s3: S3Server, prefix: str) -> None:
    closure = place.pushed(url=s3.url(prefix=prefix), size=5_000_000)
    with FarProxy(s3.address, 0) as proxy:
        proxy.cuts, proxy.cut_after = 2, 2_000_000
        result = place.pull(closure, s3.url(prefix=prefix, address=proxy.address))
        assert not result.problems
    check_store(place.target, closure.paths)


def test_the_command_with_a_profile_of_aws(place: Place, s3: S3Server, prefix: str, tmp_path: Path) -> None:
    """Credentials, region and endpoint of ``~/.aws``; no secret is shown."""
    closure = make_closure(place.source)
    (tmp_path / "credentials").write_text(
        "[admin]\naws_access_key_id = admin\naws_secret_access_key = secret-of-admin\n"
        "[wrong]\naws_access_key_id = admin\naws_secret_access_key = not-the-secret\n"
    )
    (tmp_path / "aws").write_text(
        "".join(f"[profile {name}]\nregion = x\nendpoint_url = {s3.endpoint}\n" for name in ("admin", "wrong"))
    )
    (tmp_path / "key").write_text(OURS.export())
    (tmp_path / "key").chmod(0o600)
    variables = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")} | {
        "HOME": str(tmp_path),
        "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"),
        "AWS_CONFIG_FILE": str(tmp_path / "aws"),
        "PGBAKE_STORE": str(tmp_path / "source"),
    }

    def push(profile: str) -> subprocess.CompletedProcess[str]:
        url = f"s3://main/{prefix}?profile={profile}"
        command = [sys.executable, "-m", "pgbake", "push", "--to", url, "--key", str(tmp_path / "key")]
        return subprocess.run([*command, str(closure.top)], env=variables, capture_output=True, text=True, cwd=tmp_path)

    refused = push("wrong")
    assert refused.returncode == 1 and "HTTP status 403" in refused.stderr and "hint: " in refused.stderr
    assert "not-the-secret" not in refused.stderr + refused.stdout
    done = push("admin")
    assert done.returncode == 0, done.stderr
    check_bucket(s3, prefix, closure.paths)


@pytest.mark.full
def test_nixs_own_client_reads_our_bucket(place: Place, s3: S3Server, prefix: str, tmp_path: Path) -> None:
    """The newest Nix knows S3, by the same URL; Debian's knows no credentials."""
    try:
        tree = newer_nix("sid")
    except OracleUnavailable as error:
        pytest.skip(str(error))
    url = s3.url("public", prefix)
    closure = place.pushed(url=url)
    (tmp_path / "oracle").mkdir()
    nix = Oracle(tmp_path / "oracle", tree)
    trusting = ("--option", "trusted-public-keys", str(OURS.public))
    nix.run("nix", "copy", "--from", url, *trusting, str(closure.top))
    nix.run("nix", "store", "verify", "--recursive", *trusting, str(closure.top))
    nix.remove()
