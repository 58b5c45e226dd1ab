"""Caches that are damaged, lie, refuse or break: nothing unverified enters the store, and the next cache helps."""

from __future__ import annotations

import dataclasses
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from pgbake.cache import clients
from pgbake.cache.cache import REQUESTS_AT_ONCE, BinaryCache, narinfo_name
from pgbake.cache.index import NAME as INDEX
from pgbake.cache.pull import Ungiven
from pgbake.errors import CacheError
from pgbake.formats.narinfo import MAX_NARINFO, NarInfo
from tests.closures import Closure, make_closure, secret_key
from tests.integration.cache.transfers import OURS, Place, check_directory, check_store
from tests.web import Fault, WebServer, web_server

pytestmark = pytest.mark.integration


@pytest.fixture
def mirror(place: Place) -> Iterator[WebServer]:
    """A second cache; :func:`copy_to` fills it."""
    (place.directory / "mirror").mkdir()
    with web_server(place.directory / "mirror") as server:
        yield server


def copy_to(mirror: WebServer, place: Place) -> None:
    shutil.copytree(place.cache, mirror.root, dirs_exist_ok=True)


def rewrite(place: Place, closure: Closure, change: Callable[[str], str]) -> None:
    """Change what the cache tells of the top, in a cache without an index."""
    file = place.narinfo_file(closure.top)
    text = file.read_text()
    assert change(text) != text
    file.write_text(change(text))
    place.forget_index()


def assert_falls_over(place: Place, closure: Closure, bad: WebServer, mirror: WebServer, reason: str) -> None:
    """Alone the bad cache gives an error; before a good one, it is named, and the whole closure comes."""
    with pytest.raises(CacheError, match=reason):
        place.pull(closure, bad.url)
    assert closure.top not in check_store(place.target)
    result = place.pull(closure, bad.url, mirror.url)
    check_store(place.target, closure.paths)
    assert dict(result.pulled)[closure.top] == mirror.url
    assert any(bad.url in str(problem) for problem in result.problems), result.problems


@pytest.mark.parametrize("where", [0, 1000, 20_000, -1])
def test_a_flipped_bit_in_a_nar(place: Place, web: WebServer, mirror: WebServer, where: int) -> None:
    closure = place.pushed()
    copy_to(mirror, place)
    file = place.object_of(closure.data)
    data = bytearray(file.read_bytes())
    data[min(where, len(data) - 1)] ^= 4
    file.write_bytes(data)
    with pytest.raises(Ungiven) as raised:
        place.pull(closure, web.url)
    assert raised.value.path == closure.data
    assert web.url in str(raised.value.detail) and "pgbake cache verify --repair" in str(raised.value.hint)
    assert not {closure.data, closure.top} & check_store(place.target)
    result = place.pull(closure, web.url, mirror.url)
    assert dict(result.pulled)[closure.data] == mirror.url
    assert [web.url in str(problem) for problem in result.problems] == [True]
    check_store(place.target, closure.paths)


@pytest.mark.parametrize("left", [0, 0.1, 0.5, 0.99])
def test_a_truncated_nar(place: Place, web: WebServer, mirror: WebServer, left: float) -> None:
    closure = place.pushed()
    copy_to(mirror, place)
    file = place.object_of(closure.top)
    data = file.read_bytes()
    file.write_bytes(data[: int(left * len(data))])
    assert_falls_over(place, closure, web, mirror, "no cache gives")


def test_a_nar_with_more_behind_its_end(place: Place, web: WebServer, mirror: WebServer) -> None:
    closure = place.pushed()
    copy_to(mirror, place)
    file = place.object_of(closure.top)
    file.write_bytes(file.read_bytes() * 2)
    assert_falls_over(place, closure, web, mirror, "no cache gives")


def test_a_nar_that_unpacks_without_end(place: Place, web: WebServer, mirror: WebServer) -> None:
    """A file of a few kilobytes that holds gigabytes is given up as soon as it is longer than promised."""
    import zstandard

    closure = place.pushed()
    copy_to(mirror, place)
    machine = zstandard.ZstdCompressor(level=1).compressobj()
    block = bytes(1 << 20)
    bomb = b"".join(machine.compress(block) for _ in range(4000)) + machine.flush()
    place.object_of(closure.top).write_bytes(bomb)
    begin = time.monotonic()
    assert_falls_over(place, closure, web, mirror, "no cache gives")
    assert time.monotonic() - begin < 2


def test_a_nar_that_is_gone(place: Place, web: WebServer, mirror: WebServer) -> None:
    closure = place.pushed()
    copy_to(mirror, place)
    place.object_of(closure.top).unlink()
    assert_falls_over(place, closure, web, mirror, "no cache gives")
    assert place.push(closure).sent == (closure.top,), "a push mends it"
    check_directory(place.cache, closure.paths)


def test_a_nar_that_is_truncated_is_mended_by_a_push(place: Place) -> None:
    closure = place.pushed()
    file = place.object_of(closure.top)
    file.write_bytes(file.read_bytes()[:50])
    assert place.push(closure).sent == (closure.top,)
    check_directory(place.cache, closure.paths)


def test_the_nar_of_another_path(place: Place, web: WebServer, mirror: WebServer) -> None:
    closure = place.pushed()
    copy_to(mirror, place)
    shutil.copy(place.object_of(closure.library), place.object_of(closure.top))
    assert_falls_over(place, closure, web, mirror, "no cache gives")


def without_line(key: str) -> Callable[[str], str]:
    return lambda text: "".join(line for line in text.splitlines(True) if not line.startswith(f"{key}:"))


def flipped(key: str) -> Callable[[str], str]:
    """Another digit at the end of a line's value."""

    def change(text: str) -> str:
        lines = text.splitlines(True)
        (number,) = [n for n, line in enumerate(lines) if line.startswith(f"{key}:")]
        line = lines[number]
        place = 10 + len(key) if key != "Sig" else len(line) - 8
        lines[number] = line[:place] + ("0" if line[place] != "0" else "1") + line[place + 1 :]
        return "".join(lines)

    return change


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (flipped("NarHash"), "does not fit"),
        (flipped("Sig"), "does not fit"),
        (without_line("Sig"), "bears no signature"),
        (without_line("NarHash"), "damaged"),
        (lambda text: text[: len(text) // 2], "damaged|does not fit|no signature"),
        (lambda _text: "", "damaged"),
        (lambda text: text.replace("NarSize: ", "NarSize: 9"), "does not fit"),
        (lambda text: text + "NarSize: 5\n", "damaged"),
        (lambda text: text.replace("nar/", "../nar/"), "damaged"),
        (lambda text: text.replace("nar/", "http://127.0.0.1:9/"), "damaged"),
        (lambda text: text.replace("-top", "-other"), "instead of"),
        (lambda text: text.replace("zstd", "rot13"), "damaged"),
    ],
    ids=["hash", "signature", "unsigned", "no hash", "half", "empty", "size", "two sizes", "outside", "elsewhere",
         "other path", "compression"],
)  # fmt: skip
def test_a_damaged_narinfo(
    place: Place, web: WebServer, mirror: WebServer, change: Callable[[str], str], reason: str
) -> None:
    closure = place.pushed()
    copy_to(mirror, place)
    rewrite(place, closure, change)
    with pytest.raises(CacheError, match=reason):
        place.pull(closure, web.url)
    assert not check_store(place.target)
    result = place.pull(closure, web.url, mirror.url)
    check_store(place.target, closure.paths)
    assert dict(result.pulled)[closure.top] == mirror.url
    assert any(web.url in str(problem) for problem in result.problems), "the first cache is named"


def test_a_narinfo_without_end(place: Place, web: WebServer, mirror: WebServer) -> None:
    closure = place.pushed()
    copy_to(mirror, place)
    rewrite(place, closure, lambda text: text + "X: " + "x" * MAX_NARINFO + "\n")
    with pytest.raises(CacheError, match=f"larger than {MAX_NARINFO} bytes"):
        place.pull(closure, web.url)
    place.pull(closure, web.url, mirror.url)
    check_store(place.target, closure.paths)


def test_a_damaged_narinfo_is_no_reason_to_leave_the_rest(place: Place, web: WebServer, mirror: WebServer) -> None:
    """What only that cache has is still taken from it."""
    closure = place.pushed()
    place.push(closure, mirror.root.as_uri())
    for path in (closure.library, closure.data, closure.notes):
        (mirror.root / f"{path.digest}.narinfo").unlink()
    (mirror.root / INDEX).unlink()
    rewrite(place, closure, lambda text: text[:100])
    came = dict(place.pull(closure, web.url, mirror.url).pulled)
    assert (came[closure.top], came[closure.library]) == (mirror.url, web.url)
    check_store(place.target, closure.paths)


def test_a_liar_with_a_key_of_the_trusted_name(place: Place, web: WebServer, mirror: WebServer) -> None:
    closure = make_closure(place.source)
    forger = dataclasses.replace(secret_key("somebody"), name=OURS.name)
    place.push(closure, key=forger)
    place.push(closure, mirror.root.as_uri())
    with pytest.raises(CacheError, match="does not fit the trusted key of that name"):
        place.pull(closure, web.url)
    result = place.pull(closure, web.url, mirror.url)
    assert {url for path, url in result.pulled if path in (closure.top, closure.library)} == {mirror.url}
    assert any(web.url in str(problem) for problem in result.problems)
    check_store(place.target, closure.paths)


def test_a_content_address_that_its_path_does_not_follow_from(place: Place, web: WebServer) -> None:
    """``CA:`` alone makes nobody trust a path."""
    closure = make_closure(place.source)
    place.push(closure, key=None)
    ca = place.narinfo(closure.data).ca
    rewrite(place, closure, lambda text: f"{text}CA: {ca}\n")
    with pytest.raises(CacheError, match="no signature"):
        place.pull(closure, web.url)


def test_contents_that_are_not_what_the_content_address_says(place: Place, web: WebServer) -> None:
    """Nobody signed it: only the contents can prove it, whatever NAR hash is told."""
    closure = make_closure(place.source)
    other = make_closure(place.source, "other")
    place.push(closure, key=None)
    place.push(other, key=None)
    told, lie = place.narinfo(closure.data), place.narinfo(other.data)
    lie = dataclasses.replace(lie, path=told.path, ca=told.ca)
    place.narinfo_file(closure.data).write_text(lie.to_text())
    place.forget_index()
    with pytest.raises(CacheError, match="no cache gives"):
        place.pull([closure.data], web.url)
    assert not check_store(place.target)


def test_a_damaged_index_is_passed_over_and_mended(place: Place, web: WebServer) -> None:
    closure = place.pushed()
    (place.cache / INDEX).write_bytes((place.cache / INDEX).read_bytes()[:40])
    place.pull(closure, web.url)
    check_store(place.target, closure.paths)
    assert not place.push(closure).sent
    check_directory(place.cache, closure.paths)


def test_an_index_that_promises_too_much(place: Place, web: WebServer) -> None:
    """What it names and the cache has not is an error that names the path, and a push takes it out."""
    closure = place.pushed()
    place.narinfo_file(closure.top).unlink()
    place.object_of(closure.library).unlink()
    with pytest.raises(CacheError, match="no cache gives"):
        place.pull(closure, web.url)
    assert set(place.push(closure).sent) == {closure.top, closure.library}
    place.pull(closure, web.url)
    check_store(place.target, closure.paths)


@pytest.mark.parametrize("names", ["*", "*.narinfo", "nar/*", INDEX])
def test_a_server_that_fails_three_times(place: Place, web: WebServer, names: str) -> None:
    closure = place.pushed()
    if names == "*.narinfo":
        place.forget_index()
    web.faults = [Fault(names, 3, status=500)]
    result = place.pull(closure, web.url)
    assert not result.problems and web.faults[0].times == 0
    check_store(place.target, closure.paths)


@pytest.mark.parametrize("status", [500, 503])
def test_a_server_that_fails_for_good(
    place: Place, web: WebServer, mirror: WebServer, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clients, "_RETRIES", 2)
    closure = place.pushed()
    copy_to(mirror, place)
    web.faults = [Fault("*", status=status)]
    with pytest.raises(CacheError) as raised:
        place.pull(closure, web.url)
    assert f"HTTP status {status}" in f"{raised.value} {raised.value.detail}"
    result = place.pull(closure, web.url, mirror.url)
    assert any(web.url in str(problem) for problem in result.problems)
    check_store(place.target, closure.paths)


@pytest.mark.parametrize("names", ["*", "*.narinfo", "nar/*", INDEX, "nix-cache-info"])
@pytest.mark.parametrize(
    ("status", "says"), [(401, "refused"), (403, "refused"), (407, "proxy")], ids=["401", "403", "407"]
)
def test_a_refusal_is_no_absence(
    place: Place, web: WebServer, mirror: WebServer, names: str, status: int, says: str
) -> None:
    closure = place.pushed()
    copy_to(mirror, place)
    if names == "*.narinfo":
        place.forget_index()
    web.faults = [Fault(names, status=status)]
    if names != "nix-cache-info":  # the only cache's is not asked for
        with pytest.raises(CacheError) as raised:
            place.pull(closure, web.url)
        said = f"{raised.value} {raised.value.detail}"
        assert f"HTTP status {status}" in said and says in said and web.url in said
        assert raised.value.hint is not None and ("netrc" in raised.value.hint or "http_proxy" in raised.value.hint)
    result = place.pull(closure, web.url, mirror.url)
    assert any(web.url in str(problem) and str(status) in str(problem) for problem in result.problems)
    check_store(place.target, closure.paths)


def test_a_password_from_netrc(place: Place, web: WebServer) -> None:
    closure = place.pushed()
    web.password = "Basic bWU6c2VjcmV0"
    with pytest.raises(CacheError, match="refused: HTTP status 401") as raised:
        place.pull(closure, web.url)
    assert "netrc" in str(raised.value.hint)
    (place.directory / "netrc").write_text("machine 127.0.0.1 login me password secret\n")
    place.pull(closure, web.url)
    check_store(place.target, closure.paths)


@pytest.mark.parametrize("ranges", [True, False], ids=["ranges", "no ranges"])
def test_a_connection_that_breaks_is_taken_up(place: Place, web: WebServer, ranges: bool) -> None:
    closure = place.pushed(size=5_000_000)
    web.ranges = ranges
    name = place.narinfo(closure.data).url
    web.faults = [Fault(name, 1, cut_at=at) for at in (1_500_000, 3_000_000)]
    result = place.pull(closure, web.url)
    check_store(place.target, closure.paths)
    assert not result.problems
    asked = [wanted for asked, wanted in web.asked if asked == name]
    assert len(asked) >= 2
    if ranges:
        assert asked[1].startswith("bytes=") and asked[1] != "bytes=0-", "it goes on where it was"


def test_a_connection_that_always_breaks(place: Place, web: WebServer, mirror: WebServer) -> None:
    closure = place.pushed(size=100_000)
    copy_to(mirror, place)
    web.faults = [Fault(place.narinfo(closure.data).url, cut_at=5000)]
    result = place.pull(closure, web.url, mirror.url)
    assert dict(result.pulled)[closure.data] == mirror.url and len(result.problems) == 1
    check_store(place.target, closure.paths)


def test_a_server_that_falls_silent(
    place: Place, web: WebServer, mirror: WebServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    from datetime import timedelta

    options = clients._client_options()
    monkeypatch.setattr(clients, "_client_options", lambda: {**options, "read_timeout": timedelta(seconds=0.3)})
    monkeypatch.setattr(clients, "_RETRIES", 1)
    closure = place.pushed(size=100_000)
    copy_to(mirror, place)
    web.faults = [Fault(place.narinfo(closure.data).url, stall_at=50_000)]
    result = place.pull(closure, web.url, mirror.url)
    assert dict(result.pulled)[closure.data] == mirror.url
    check_store(place.target, closure.paths)


def test_a_server_that_is_gone(place: Place, mirror: WebServer, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clients, "_RETRIES", 1)
    closure = place.pushed()
    copy_to(mirror, place)
    with web_server(place.cache) as server:
        gone = server.url
    with pytest.raises(CacheError) as raised:
        place.pull(closure, gone)
    assert gone in str(raised.value) and raised.value.hint
    result = place.pull(closure, gone, mirror.url)
    assert any(gone in str(problem) for problem in result.problems)
    check_store(place.target, closure.paths)


def test_a_path_pushed_a_moment_ago_is_found(place: Place, web: WebServer) -> None:
    """The index is asked for anew, with whatever means the server offers to say that it is the same."""
    first = place.pushed("first")
    second = make_closure(place.source, "second")
    place.pull(first, web.url)
    for etags in (True, False):
        web.etags = etags
        with pytest.raises(CacheError, match="in none of the caches"):
            place.pull(make_closure(place.source, f"absent-{etags}"), web.url)
    with pytest.raises(CacheError, match="in none of the caches"):
        place.pull(second, web.url)
    place.push(second)
    place.pull(second, web.url)
    check_store(place.target, (*first.paths, *second.paths))


def test_the_same_client_finds_what_was_pushed_since(place: Place, web: WebServer) -> None:
    first = place.pushed("first")
    cache = BinaryCache(web.url)
    second = make_closure(place.source, "second")
    assert cache.query([first.top]) and not cache.query([second.top])
    place.push(second)
    assert cache.narinfo(second.top) is not None
    assert cache.query([], sure=[second.top])


def test_one_request_tells_of_all(place: Place, web: WebServer) -> None:
    closure = place.pushed(leaves=30)
    place.pull(closure, web.url)
    told = [name for name, _ in web.asked if not name.startswith("nar/")]
    assert told == [INDEX]
    assert {count for name, count in web.counts.items() if name.startswith("nar/")} == {1}


def test_without_an_index_requests_are_parallel_and_bounded(place: Place, web: WebServer) -> None:
    closure = place.pushed(leaves=100, size=500)
    place.forget_index()
    web.latency = 0.01
    cache = BinaryCache(web.url)
    begin = time.monotonic()
    assert len(cache.query(closure.paths)) == len(closure.paths)
    assert time.monotonic() - begin < 100 * 0.01
    assert 8 <= web.most_at_once <= REQUESTS_AT_ONCE
    assert all(web.counts[narinfo_name(path)] == 1 for path in closure.paths)
    web.most_at_once = 0
    place.pull(closure, web.url)
    assert 4 <= web.most_at_once <= REQUESTS_AT_ONCE
    check_store(place.target, closure.paths)


@pytest.mark.parametrize("end", ["", "/"])
def test_a_cache_below_a_directory_of_a_server(place: Place, end: str) -> None:
    closure = place.pushed()
    with web_server(place.directory) as server:
        place.pull(closure, f"{server.url}/cache{end}")
        assert all(name.startswith("cache/") and "//" not in name for name in server.counts)
    check_store(place.target, closure.paths)


def test_a_directory_with_a_name_that_urls_write_otherwise(place: Place) -> None:
    directory = place.directory / "a cache, 100% ours"
    closure = place.pushed(url=directory.as_uri())
    check_directory(directory, closure.paths)
    place.pull(closure, str(directory))
    check_store(place.target, closure.paths)


def test_a_cache_of_another_store_directory(place: Place, web: WebServer, mirror: WebServer) -> None:
    closure = place.pushed()
    copy_to(mirror, place)
    (place.cache / "nix-cache-info").write_text("StoreDir: /other/store\n")
    result = place.pull(closure, web.url, mirror.url)
    assert {url for _, url in result.pulled} == {mirror.url}
    assert any("/other/store" in str(problem) for problem in result.problems)


def test_caches_are_asked_by_priority(place: Place, web: WebServer, mirror: WebServer) -> None:
    closure = place.pushed()
    copy_to(mirror, place)
    (mirror.root / "nix-cache-info").write_text("StoreDir: /nix/store\nPriority: 5\n")
    result = place.pull(closure, web.url, mirror.url)
    assert {url for _, url in result.pulled} == {mirror.url} and not result.problems
    assert not [name for name in web.counts if name.startswith("nar/")]


def test_what_one_cache_lacks_another_has(place: Place, web: WebServer, mirror: WebServer) -> None:
    closure = place.pushed()
    place.push(closure, mirror.root.as_uri())
    place.narinfo_file(closure.library).unlink()
    place.forget_index()
    (mirror.root / f"{closure.top.digest}.narinfo").unlink()
    (mirror.root / INDEX).unlink()
    result = place.pull(closure, web.url, mirror.url)
    came = dict(result.pulled)
    assert (came[closure.top], came[closure.library]) == (web.url, mirror.url)
    check_store(place.target, closure.paths)


def test_a_circle_of_references(place: Place, web: WebServer) -> None:
    closure = make_closure(place.source)
    place.push(closure)
    info = place.narinfo(closure.library)
    lie = dataclasses.replace(info, references=info.references | {closure.top}, signatures=())
    lie = dataclasses.replace(lie, signatures=(OURS.sign(lie.fingerprint),))
    place.narinfo_file(closure.library).write_text(lie.to_text())
    place.forget_index()
    with pytest.raises(CacheError, match="circle"):
        place.pull(closure, web.url)
    assert not check_store(place.target)


def test_damage_in_the_store_is_not_pushed(place: Place) -> None:
    from pgbake.errors import StoreError

    closure = make_closure(place.source)
    file = place.source.physical(closure.data) / "words"
    file.chmod(0o644)
    file.write_text("other words, as many\n")
    with pytest.raises(StoreError, match="damaged in the store") as raised:
        place.push(closure)
    assert f"pgbake repair {closure.data}" in str(raised.value.hint)
    assert not {closure.data, closure.library, closure.top} & check_directory(place.cache)


def test_a_foreign_narinfo_is_left_alone(place: Place, tmp_path: Path) -> None:
    """Signed by somebody else before us: the push adds what is absent, and changes nothing."""
    closure = make_closure(place.source)
    place.push(closure, key=secret_key("theirs-1"))
    before = place.narinfo_file(closure.top).read_bytes()
    assert not place.push(closure).sent
    assert place.narinfo_file(closure.top).read_bytes() == before
    assert [s.name for s in NarInfo.parse(before.decode()).signatures] == ["theirs-1"]
