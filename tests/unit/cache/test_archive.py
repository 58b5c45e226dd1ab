"""Archives: the same closure gives the same bytes; only what is whole and signed gets into the store."""

from __future__ import annotations

import io
import random
import subprocess
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from pgbake.cache.archive import export, import_archive
from pgbake.cache.cache import BinaryCache
from pgbake.cache.verify import verify
from pgbake.errors import CacheError, PgbakeError
from pgbake.events import silent
from pgbake.formats.keys import SecretKey, TrustedKeys
from pgbake.formats.narinfo import NarInfo
from pgbake.formats.storepath import StorePath
from pgbake.store.local import LocalStore
from pgbake.store.tree import hash_tree
from pgbake.trust import Trust
from tests.small_closures import add_graph, add_path, made_up

KEY = SecretKey.generate("test-1")
TRUST = Trust(TrustedKeys((KEY.public,))).check
GRAPH = {"a-libc": (), "b-ssl": ("a-libc",), "a-pg": ("a-libc", "b-ssl"), "x-postgresql-15.1": ("a-pg", "b-ssl")}
TOP = made_up("x-postgresql-15.1")


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Iterator[LocalStore]:
    with LocalStore(tmp_path_factory.mktemp("source")) as store:
        add_graph(store, GRAPH)
        yield store


@pytest.fixture(scope="module")
def archive(source: LocalStore) -> bytes:
    return archived(source, TOP)


@pytest.fixture
def store(tmp_path: Path) -> Iterator[LocalStore]:
    with LocalStore(tmp_path / "store") as store:
        yield store


def archived(store: LocalStore, *paths: StorePath) -> bytes:
    file = io.BytesIO()
    export(store, paths, file, [KEY], silent)
    return file.getvalue()


def members(archive: bytes) -> list[tuple[tarfile.TarInfo, bytes]]:
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        return [(member, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]


def remade(parts: list[tuple[tarfile.TarInfo, bytes]]) -> bytes:
    file = io.BytesIO()
    for header, data in parts:
        file.write(header.tobuf(tarfile.GNU_FORMAT) + data + bytes(-len(data) % 512))
    return file.getvalue() + bytes(1024)


def whole(store: LocalStore) -> set[str]:
    """Names of the paths that are valid, each looked at: contents, and what it refers to."""
    paths = store.database.paths()
    for path in paths:
        info = store.info(path)
        assert hash_tree(store.physical(path)).sha256 == info.nar_sha256
        assert store.valid(info.references) == info.references
    return {path.name for path in paths}


def test_the_same_closure_gives_the_same_bytes(source: LocalStore, archive: bytes) -> None:
    assert archived(source, TOP) == archived(source, TOP, made_up("a-libc")) == archive
    names = [header.name for header, _ in members(archive)]
    assert names[:2] == ["nix-cache-info", "pgbake-index"]
    order = [NarInfo.parse(data.decode()).path.name for header, data in members(archive) if "narinfo" in header.name]
    assert order == ["a-libc", "b-ssl", "a-pg", "x-postgresql-15.1"]


def test_what_goes_out_comes_in(archive: bytes, store: LocalStore) -> None:
    done = import_archive(store, io.BytesIO(archive), "x.tar", TRUST, silent)
    assert done.tops == (TOP,)
    assert {path.name for path in done.added} == whole(store) == set(GRAPH)
    again = import_archive(store, io.BytesIO(archive), "x.tar", TRUST, silent)
    assert (again.added, set(again.present)) == ((), set(done.added))
    assert archived(store, TOP) == archive


def test_what_a_store_has_need_not_be_in_it_again(source: LocalStore, archive: bytes, store: LocalStore) -> None:
    import_archive(store, io.BytesIO(archived(source, made_up("b-ssl"))), "x.tar", TRUST, silent)
    done = import_archive(store, io.BytesIO(archive), "x.tar", TRUST, silent)
    assert {path.name for path in done.added} == {"a-pg", "x-postgresql-15.1"}


def test_unpacked_by_tar_it_is_a_cache(archive: bytes, tmp_path: Path) -> None:
    subprocess.run(["tar", "-x", "-C", str(tmp_path)], input=archive, check=True, capture_output=True)
    found = verify(BinaryCache(str(tmp_path)), silent, TRUST)
    assert (found.findings, found.orphans) == ((), {})
    assert {path.name for path in found.inventory.infos} == set(GRAPH)


def test_nothing_is_added_unless_all_is_trusted(archive: bytes, store: LocalStore) -> None:
    other = Trust(TrustedKeys((SecretKey.generate("other-1").public,)))
    with pytest.raises(CacheError, match=r"from x.tar is refused: it is signed by test-1; trusted: other-1"):
        import_archive(store, io.BytesIO(archive), "x.tar", other.check, silent)
    assert whole(store) == set()


def test_a_large_path_goes_through(tmp_path: Path, store: LocalStore) -> None:
    with LocalStore(tmp_path / "other") as other:
        path = add_path(other, "large", size=3_000_000)
        import_archive(store, io.BytesIO(archived(other, path)), "x.tar", TRUST, silent)
    assert whole(store) == {"large"}


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(cut=st.floats(0, 1, exclude_max=True))
def test_cut_off_anywhere_keeps_what_was_complete(
    cut: float, archive: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    size = int(len(archive) * cut)
    with LocalStore(tmp_path_factory.mktemp("cut")) as store:
        with pytest.raises(CacheError, match=r"x.tar: it is cut off in "):
            import_archive(store, io.BytesIO(archive[:size]), "x.tar", TRUST, silent)
        ends = []
        position = 0
        for header, data in members(archive):
            position += 512 + len(data)
            if header.name.startswith("nar/"):
                ends.append(position)
            position += -len(data) % 512
        complete = sum(end <= size for end in ends)
        assert len(whole(store)) == complete
        import_archive(store, io.BytesIO(archive), "x.tar", TRUST, silent)
        assert whole(store) == set(GRAPH)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(place=st.floats(0, 1, exclude_max=True), bit=st.integers(0, 7))
def test_a_flipped_bit_is_harmless_or_refused(
    place: float, bit: int, archive: bytes, tmp_path_factory: pytest.TempPathFactory
) -> None:
    data = bytearray(archive)
    data[int(len(data) * place)] ^= 1 << bit
    with LocalStore(tmp_path_factory.mktemp("flipped")) as store:
        try:
            import_archive(store, io.BytesIO(data), "x.tar", TRUST, silent)
        except PgbakeError as error:
            assert "Traceback" not in str(error)
            whole(store)
        else:
            assert whole(store) == set(GRAPH)


Parts = list[tuple[tarfile.TarInfo, bytes]]


def change(parts: Parts, number: int, **values: object) -> Parts:
    for key, value in values.items():
        setattr(parts[number][0], key, value)
    return parts


def bomb(parts: Parts) -> Parts:
    parts[4][0].size = 1 << 60
    return parts


def swapped_nars(parts: Parts) -> Parts:
    """Two NARs, each whole, under each other's names."""
    (a, first), (b, second) = parts[3], parts[5]
    a.size, b.size = len(second), len(first)
    parts[3], parts[5] = (a, second), (b, first)
    return parts


HOSTILE: dict[str, tuple[Callable[[Parts], Parts], str]] = {
    "nothing of ours": (lambda parts: parts[2:], "stands where nix-cache-info should"),
    "no index": (lambda parts: [parts[0], *parts[2:]], "stands where pgbake-index should"),
    "a path that climbs": (lambda parts: change(parts, 3, name="../../etc/passwd"), "'../../etc/passwd' stands where"),
    "an absolute path": (lambda parts: change(parts, 4, name="/etc/passwd"), "'/etc/passwd' stands where"),
    "a symbolic link": (lambda parts: change(parts, 3, type=tarfile.SYMTYPE, linkname="/etc"), "stands where the NAR"),
    "a hard link": (lambda parts: change(parts, 3, type=tarfile.LNKTYPE, linkname="/etc/passwd"), "stands where"),
    "a device": (lambda parts: change(parts, 2, type=tarfile.CHRTYPE), "stands where the next path should"),
    "an extended header": (lambda parts: change(parts, 2, type=tarfile.XHDTYPE), "stands where"),
    "a long name": (lambda parts: change(parts, 2, type=tarfile.GNUTYPE_LONGNAME), "stands where"),
    "a sparse file": (lambda parts: change(parts, 3, type=tarfile.GNUTYPE_SPARSE), "stands where"),
    "a path twice": (lambda parts: [*parts[:4], *parts[2:]], "stands where the narinfo of another path"),
    "a path less": (lambda parts: [*parts[:2], *parts[4:]], "stands before"),
    "the last one less": (lambda parts: parts[:-2], "it ends where the next path should follow"),
    "a NAR less": (lambda parts: [*parts[:3], *parts[4:]], "stands where the NAR of"),
    "wrong order": (lambda parts: [*parts[:2], *parts[4:6], *parts[2:4], *parts[6:]], "stands before"),
    "more behind the end": (lambda parts: [*parts, parts[0]], "something follows where its end should be"),
    "a narinfo of endless size": (bomb, "is larger than 2000000 bytes"),
    "NARs that are swapped": (swapped_nars, "the NAR of"),
    "a narinfo that the index does not tell": (
        lambda parts: [*parts[:2], (parts[2][0], parts[2][1].replace(b"zstd", b"none")), *parts[3:]],
        "is not what its index tells",
    ),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_archives_are_refused(name: str, archive: bytes, store: LocalStore) -> None:
    damage, message = HOSTILE[name]
    before = set(GRAPH)
    with pytest.raises(CacheError) as caught:
        import_archive(store, io.BytesIO(remade(damage(members(archive)))), "x.tar", TRUST, silent)
    assert message in str(caught.value)
    assert whole(store) <= before


def test_no_archive_is_said_to_be_none(store: LocalStore) -> None:
    for data in (b"", b"x", random.Random(1).randbytes(5000), b"\0" * 5000):
        with pytest.raises(CacheError):
            import_archive(store, io.BytesIO(data), "x.tar", TRUST, silent)
