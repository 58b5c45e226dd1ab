"""The care of caches on a real S3 server and with real Nix."""

from __future__ import annotations

import io
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgbake.cache import gc, lease
from pgbake.cache.archive import export
from pgbake.cache.cache import BinaryCache
from pgbake.cache.gc import Retention, collect
from pgbake.cache.index import NAME as INDEX
from pgbake.cache.inventory import bundles, take_inventory
from pgbake.cache.mend import mend
from pgbake.cache.push import push
from pgbake.cache.resign import sign_cache
from pgbake.cache.serve import Server
from pgbake.cache.verify import verify
from pgbake.errors import CacheError
from pgbake.events import silent
from pgbake.formats.keys import TrustedKeys
from pgbake.trust import Trust
from tests.closures import GREETING, make_closure, secret_key
from tests.integration.cache.transfers import OURS, Place, check_bucket
from tests.oracle import Oracle
from tests.s3 import S3Server, acting_as

pytestmark = pytest.mark.integration

NOTHING = Retention(names=("no bundle has this name",), grace=0)


@pytest.fixture
def bucket(s3: S3Server, place: Place) -> Iterator[BinaryCache]:
    """A cache in a bucket, at a prefix of its own."""
    with acting_as("admin"):
        yield BinaryCache(s3.url(prefix=place.directory.name), place.directory / "copies")


def test_a_bucket_is_collected(s3: S3Server, place: Place, bucket: BinaryCache) -> None:
    prefix = place.directory.name
    kept, gone = (make_closure(place.source, word, leaves=2) for word in ("-kept", "-gone"))
    for closure in (kept, gone):
        push(place.source, bucket, [closure.top], [OURS], silent)
    s3.write(f"{prefix}/index.html", b"not the cache's")
    assert {bundle.path for bundle in bundles(take_inventory(bucket, silent))} == {kept.top, gone.top}
    done = collect(bucket, Retention(names=(kept.top.name,), grace=0), silent)
    assert done.dead == set(gone.paths)
    assert check_bucket(s3, prefix, kept.paths) == set(kept.paths)
    assert s3.read(f"{prefix}/index.html") == b"not the cache's"
    names = s3.objects(prefix)
    assert len([name for name in names if name.startswith("nar/")]) == len(kept.paths)
    push(place.source, bucket, [gone.top], [OURS], silent)
    assert check_bucket(s3, prefix, [*kept.paths, *gone.paths]) == {*kept.paths, *gone.paths}


def test_a_push_to_a_bucket_waits_for_a_collection(
    s3: S3Server, place: Place, bucket: BinaryCache, monkeypatch: pytest.MonkeyPatch
) -> None:
    closure = make_closure(place.source)
    push(place.source, bucket, [closure.library], [OURS], silent)
    planned, go, waiting = threading.Event(), threading.Event(), threading.Event()
    real = gc.sweep

    def late(*args: object) -> None:
        planned.set()
        assert go.wait(30)
        real(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(gc, "sweep", late)
    other = BinaryCache(bucket.url)
    collector = threading.Thread(target=lambda: collect(other, NOTHING, silent))
    collector.start()
    assert planned.wait(30)
    pusher = threading.Thread(
        target=lambda: push(place.source, bucket, [closure.top], [OURS], lambda _event: waiting.set())
    )
    pusher.start()
    assert waiting.wait(30)
    go.set()
    collector.join(30)
    pusher.join(30)
    assert check_bucket(s3, place.directory.name, closure.paths) == set(closure.paths)


def test_a_holder_that_was_killed_is_outwaited(bucket: BinaryCache, monkeypatch: pytest.MonkeyPatch) -> None:
    bucket.objects.put(lease.NAME, b'{"serial": 3, "holder": "pgbake cache gc, pid 1 on a machine that is off"}')
    monkeypatch.setattr(lease, "EXPIRES", 1.0)
    told: list[str] = []
    lease.wait_until_free(bucket.objects, told.append)
    assert told == ["pgbake cache gc, pid 1 on a machine that is off"]
    with lease.lease(bucket.objects, "one", told.append) as held:
        # Somebody who takes it for dead meanwhile has it; the one who stood still learns of it.
        lease.wait_until_free(bucket.objects, told.append)
        with pytest.raises(CacheError, match="another process has taken over the work"):
            held.write(held.holder)
        with pytest.raises(CacheError, match="another process has taken over the work"):
            held.renew()
    lease.wait_until_free(bucket.objects, told.append)
    assert len(told) == 2


def test_a_bucket_is_verified_mended_and_signed(s3: S3Server, place: Place, bucket: BinaryCache) -> None:
    prefix = place.directory.name
    closure = make_closure(place.source)
    push(place.source, bucket, [closure.top], [OURS], silent)
    check = Trust(TrustedKeys((OURS.public,))).check
    assert verify(bucket, silent, check).findings == ()
    info = bucket.narinfo(closure.library)
    assert info is not None
    s3.write(f"{prefix}/{info.url}", b"x" * (info.file_size or 0))
    s3.delete(f"{prefix}/{closure.data.digest}.narinfo")
    s3.write(f"{prefix}/{INDEX}", b"damaged")
    found = verify(bucket, silent, check)
    assert set(found.lost().values()) == {closure.library, closure.data}
    done = mend(place.source, bucket, [OURS], silent, check=check)
    assert (set(done.mended), done.lost) == ({closure.library, closure.data}, ())
    assert verify(bucket, silent, check).findings == ()
    other = secret_key("other-1")
    signed = sign_cache(bucket, [other], silent)
    assert set(signed.changed) == set(closure.paths)
    assert verify(bucket, silent, Trust(TrustedKeys((other.public,))).check).findings == ()
    assert check_bucket(s3, prefix, closure.paths) == set(closure.paths)


def test_nix_takes_a_closure_from_our_server(any_nix: Oracle, place: Place) -> None:
    closure = place.pushed(leaves=3, size=2_000_000)
    with Server(place.cache) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        trusting = ("--option", "trusted-public-keys", str(OURS.public))
        any_nix.run("nix-store", "--realise", "--option", "substituters", server.url, *trusting, str(closure.top))
        server.shutdown()
        thread.join()
    assert GREETING.encode() in any_nix.run(f"{closure.top}/bin/greet").stdout


def test_nix_takes_a_closure_from_an_unpacked_archive(any_nix: Oracle, place: Place) -> None:
    closure = make_closure(place.source, leaves=2)
    file = io.BytesIO()
    export(place.source, [closure.top], file, [OURS], silent)
    directory = Path(any_nix.tmp("archive"))
    directory.mkdir()
    subprocess.run(["tar", "-x", "-C", str(directory)], input=file.getvalue(), check=True)
    trusting = ("--option", "trusted-public-keys", str(OURS.public))
    any_nix.run("nix", "copy", "--from", "file:///tmp/archive", *trusting, str(closure.top))
    assert GREETING.encode() in any_nix.run(f"{closure.top}/bin/greet").stdout
    any_nix.run("nix", "store", "verify", "--recursive", *trusting, str(closure.top))


def test_a_cache_that_nix_wrote_is_cared_for(any_nix: Oracle, place: Place) -> None:
    closure = place.pushed()
    other = make_closure(place.source, "-other")
    place.push(other)
    trusting = ("--option", "trusted-public-keys", str(OURS.public))
    for top in (closure.top, other.top):
        any_nix.run("nix", "copy", "--from", f"file://{place.cache}", *trusting, str(top), binds=[place.cache])
        any_nix.run("nix", "copy", "--to", "file:///tmp/theirs?compression=xz&write-nar-listing=true", str(top))
    cache = BinaryCache(str(any_nix.tmp("theirs")))
    assert verify(cache, silent, Trust(TrustedKeys((OURS.public,))).check).findings == ()
    assert collect(cache, Retention(names=(closure.top.name,)), silent).dead == set(), "all of it is young"
    done = collect(cache, NOTHING, silent)
    assert done.dead == {*closure.paths, *other.paths}
    left = {file.name for file in any_nix.tmp("theirs").rglob("*") if file.is_file()}
    assert left == {"nix-cache-info", lease.NAME, ".pgbake-lease"}
