from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import tarfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pgbake.errors import StoreError
from pgbake.image.oci import (
    Entry,
    Layer,
    LayerCache,
    LayerPlan,
    content_key,
    image_documents,
    store_entries,
    write_layer,
    write_layout,
)

PLATFORM = {"architecture": "amd64", "os": "linux"}


def layer_of(*entries: Entry) -> bytes:
    out = io.BytesIO()
    write_layer(entries, out)
    return out.getvalue()


def members(layer: bytes) -> list[tarfile.TarInfo]:
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        return tar.getmembers()


def test_a_layer_is_sorted_dated_and_owned_by_numbers() -> None:
    layer = layer_of(
        Entry("b", "link", 0o777, target="a/x"),
        Entry("a/x", "file", 0o644, 999, 999, b"text"),
        Entry("a", "directory", 0o1777, 5, 6),
    )
    found = [(m.name, m.type, oct(m.mode), m.uid, m.gid, m.uname, m.mtime, m.size, m.linkname) for m in members(layer)]
    assert found == [
        ("a", tarfile.DIRTYPE, "0o1777", 5, 6, "", 1, 0, ""),
        ("a/x", tarfile.REGTYPE, "0o644", 999, 999, "", 1, 4, ""),
        ("b", tarfile.SYMTYPE, "0o777", 0, 0, "", 1, 0, "a/x"),
    ]


def test_directories_on_the_way_are_added_once() -> None:
    layer = layer_of(Entry("nix/store/b", "file"), Entry("nix/store/a", "file"), Entry("nix/x", "file"))
    assert [member.name for member in members(layer)] == ["nix", "nix/store", "nix/store/a", "nix/store/b", "nix/x"]


def test_gzip_tells_neither_name_nor_time() -> None:
    header = layer_of(Entry("a", "file"))[:10]
    assert header[:4] == b"\x1f\x8b\x08\x00"  # no name
    assert header[4:8] == b"\0\0\0\0"  # no time


def test_hashes_and_sizes_are_those_of_the_bytes() -> None:
    out = io.BytesIO()
    digest, diff_id, size, unpacked = write_layer([Entry("a", "file", content=b"x" * 5000)], out)
    assert digest == hashlib.sha256(out.getvalue()).hexdigest()
    assert diff_id == hashlib.sha256(gzip.decompress(out.getvalue())).hexdigest()
    assert (size, unpacked) == (len(out.getvalue()), 5000)


@given(
    st.dictionaries(
        st.text("abcdé/.-_ ", min_size=1, max_size=200).filter(
            lambda name: all(part not in ("", ".", "..") for part in name.split("/"))
        ),
        st.binary(max_size=40),
        max_size=6,
    ),
    st.randoms(),
)
def test_any_names_come_back_and_their_order_does_not_matter(files: dict[str, bytes], random: object) -> None:
    # A name that is another's directory cannot be a file.
    names = [n for n in files if not any(other.startswith(f"{n}/") for other in files)]
    entries = [Entry(name, "file", content=files[name]) for name in names]
    layer = layer_of(*entries)
    random.shuffle(entries)  # type: ignore[attr-defined]
    assert layer_of(*entries) == layer
    with tarfile.open(fileobj=io.BytesIO(layer)) as tar:
        found = {m.name: tar.extractfile(m).read() for m in tar if m.isreg()}  # type: ignore[union-attr]
    assert found == {name: files[name] for name in names}


def test_a_store_path_has_the_permissions_of_a_store(tmp_path: Path) -> None:
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin/run").write_text("#!")
    (tmp_path / "bin/run").chmod(0o700)
    (tmp_path / "bin/data").write_text("x")
    (tmp_path / "bin/data").chmod(0o666)
    (tmp_path / "link").symlink_to("/nix/store/other")
    os.utime(tmp_path / "bin/data", (5, 5))
    found = {m.name: oct(m.mode) for m in members(layer_of(*store_entries(tmp_path, "name")))}
    assert found == {
        "nix": "0o755", "nix/store": "0o755", "nix/store/name": "0o555", "nix/store/name/bin": "0o555",
        "nix/store/name/bin/data": "0o444", "nix/store/name/bin/run": "0o555", "nix/store/name/link": "0o777",
    }  # fmt: skip


def plan(title: str, content: bytes) -> LayerPlan:
    return LayerPlan(content_key(title, content), title, lambda: [Entry(title, "file", content=content)])


def test_layers_are_made_once(tmp_path: Path) -> None:
    cache = LayerCache(tmp_path)
    first = cache.layers([plan("a", b"1"), plan("b", b"2")])
    assert [layer.made for layer in first] == [True, True]
    asked: list[str] = []
    second = cache.layers([plan("a", b"1"), plan("b", b"changed")], lambda plan: asked.append(plan.title))
    assert [layer.made for layer in second] == [False, True]
    assert asked == ["b"]
    assert second[0].digest == first[0].digest


def test_a_layer_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> list[Entry]:
        raise StoreError("no")

    with pytest.raises(StoreError):
        LayerCache(tmp_path).layers([LayerPlan("key", "x", broken)])
    assert list(tmp_path.iterdir()) == []


def image(tmp_path: Path, layers: list[Layer], name: str = "shop:1") -> tuple[Path, str, int]:
    configuration, manifest = image_documents(layers, {"architecture": "amd64", "os": "linux"}, {"a": "b"}, "1970")
    layout = tmp_path / "layout"
    written = write_layout(layout, name, layers, configuration, manifest, PLATFORM)
    return layout, written.digest, written.new


def test_a_layout_names_its_blobs_by_their_hashes(tmp_path: Path) -> None:
    layers = LayerCache(tmp_path / "cache").layers([plan("a", b"1"), plan("b", b"2")])
    layout, digest, new = image(tmp_path, layers)
    blobs = {blob.name: blob.read_bytes() for blob in (layout / "blobs/sha256").iterdir()}
    assert all(hashlib.sha256(content).hexdigest() == name for name, content in blobs.items())
    assert new == sum(map(len, blobs.values()))
    (entry,) = json.loads((layout / "index.json").read_bytes())["manifests"]
    assert entry["digest"] == digest
    assert entry["annotations"] == {"org.opencontainers.image.ref.name": "shop:1"}
    manifest = json.loads(blobs[digest.removeprefix("sha256:")])
    config = json.loads(blobs[manifest["config"]["digest"].removeprefix("sha256:")])
    tars = [gzip.decompress(blobs[one["digest"].removeprefix("sha256:")]) for one in manifest["layers"]]
    assert config["rootfs"]["diff_ids"] == [f"sha256:{hashlib.sha256(tar).hexdigest()}" for tar in tars]
    assert set(blobs) == {
        one["digest"].removeprefix("sha256:") for one in (entry, manifest["config"], *manifest["layers"])
    }


def test_only_what_is_new_is_written_and_what_nobody_names_goes(tmp_path: Path) -> None:
    cache = LayerCache(tmp_path / "cache")
    before = cache.layers([plan("a", b"1" * 100), plan("b", b"2")])
    image(tmp_path, before)
    after = cache.layers([plan("a", b"1" * 100), plan("b", b"3")])
    layout, digest, new = image(tmp_path, after)
    names = {blob.name for blob in (layout / "blobs/sha256").iterdir()}
    assert before[0].digest in names
    assert before[1].digest not in names
    assert digest.removeprefix("sha256:") in names
    documents = [b for b in names if b not in {layer.digest for layer in after}]
    assert new == after[1].size + sum((layout / "blobs/sha256" / name).stat().st_size for name in documents)
    assert image(tmp_path, after)[2] == 0


def test_images_of_other_names_stay(tmp_path: Path) -> None:
    cache = LayerCache(tmp_path / "cache")
    image(tmp_path, cache.layers([plan("a", b"1")]), "shop:1")
    layout, _, _ = image(tmp_path, cache.layers([plan("a", b"2")]), "shop:2")
    entries = json.loads((layout / "index.json").read_bytes())["manifests"]
    assert [entry["annotations"]["org.opencontainers.image.ref.name"] for entry in entries] == ["shop:1", "shop:2"]
    for entry in entries:
        assert (layout / "blobs/sha256" / entry["digest"].removeprefix("sha256:")).exists()


def test_a_damaged_layer_of_the_cache_is_refused_and_made_anew(tmp_path: Path) -> None:
    cache = LayerCache(tmp_path / "cache")
    (layer,) = cache.layers([plan("a", b"1" * 100)])
    content = bytearray(layer.file.read_bytes())
    content[-1] ^= 1
    layer.file.unlink()
    layer.file.write_bytes(content)
    with pytest.raises(StoreError, match="damaged in the cache"):
        image(tmp_path, cache.layers([plan("a", b"1" * 100)]))
    (again,) = cache.layers([plan("a", b"1" * 100)])
    assert again.made
    assert again.digest == layer.digest


def test_a_directory_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "layout").mkdir()
    (tmp_path / "layout/letter").write_text("dear")
    with pytest.raises(StoreError, match="no OCI layout"):
        image(tmp_path, LayerCache(tmp_path / "cache").layers([plan("a", b"1")]))
