"""OCI image layouts, written with nothing of a container engine.

An image is layers, each a compressed tar, and two JSON documents that name them by their hash
(OCI image specification 1.0)::

    DIR/oci-layout                      {"imageLayoutVersion": "1.0.0"}
    DIR/index.json                      the images of the layout, each by its name
    DIR/blobs/sha256/DIGEST             a manifest, a configuration, or a layer

Equal content gives equal bytes: entries are sorted, dated alike, and owned by numbers; only what a tar's header has no
room for is in records of POSIX (pax). gzip, since every engine and registry reads it; its header tells neither name nor
time. Layers are made once and kept by what is in them::

    CACHE/layers/KEY/layer.tar.gz       KEY stands for the content, before anything is read
    CACHE/layers/KEY/layer.json         its hashes and sizes
"""

from __future__ import annotations

import hashlib
import io
import os
import shutil
import stat
import tarfile
import tempfile
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, Literal

import msgspec

from pgbake.errors import StoreError, host_error
from pgbake.files import write_whole
from pgbake.store.local import remove_tree
from pgbake.store.locks import directory_lock

INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
REF_NAME = "org.opencontainers.image.ref.name"

#: Changes with every change of the bytes that equal entries give.
_FORMAT = 1
#: What all files are dated, as in the store.
_MTIME = 1
#: More gains little: level 9 takes three times as long for a hundredth.
_LEVEL = 6
_CHUNK = 1 << 20
#: Seconds after which a layer that nobody asked for is removed from the cache.
_KEEP = 30 * 86400


@dataclass(frozen=True, slots=True)
class Entry:
    """One member of a layer.

    :param path: without a leading slash.
    :param content: of a file: its bytes, or a file that has them.
    :param target: of a link: what it says.
    """

    path: str
    kind: Literal["directory", "file", "link"]
    mode: int = 0o755
    owner: int = 0
    group: int = 0
    content: bytes | Path = b""
    target: str = ""


@dataclass(frozen=True)
class LayerPlan:
    """A layer that is to be.

    :param key: stands for the content: where it is equal, the bytes are.
    :param entries: gives the members; asked only when the layer is made.
    :param title: for the image's history and the user's eyes.
    """

    key: str
    title: str
    entries: Callable[[], Iterable[Entry]]


class _Facts(msgspec.Struct, frozen=True):
    """The file ``layer.json``.

    :param digest: sha256 of the compressed layer, in hexadecimal.
    :param diff_id: sha256 of the tar.
    :param size: of the compressed layer, in bytes.
    :param unpacked: bytes of all its files.
    """

    digest: str
    diff_id: str
    size: int
    unpacked: int


@dataclass(frozen=True, slots=True)
class Layer:
    """A layer that is made.

    :param file: where it lies compressed.
    :param made: whether it had to be made: it was not in the cache.
    """

    title: str
    digest: str
    diff_id: str
    size: int
    unpacked: int
    file: Path
    made: bool


def store_entries(physical: Path, base: str) -> Iterator[Entry]:
    """Yield the members for a store path, with the permissions that stores have.

    :param base: its own name: the members are below ``nix/store/NAME``.
    """
    top = f"nix/store/{base}"
    pending = [(top, physical)]
    while pending:
        path, place = pending.pop()
        mode = place.lstat().st_mode
        if stat.S_ISLNK(mode):
            yield Entry(path, "link", 0o777, target=str(place.readlink()))
        elif stat.S_ISDIR(mode):
            yield Entry(path, "directory", 0o555)
            pending += [(f"{path}/{name}", place / name) for name in os.listdir(place)]  # noqa: PTH208 - names are wanted
        else:
            yield Entry(path, "file", 0o555 if mode & 0o100 else 0o444, content=place)


class _Squeezer(io.RawIOBase):
    """Takes a tar, and writes it compressed; knows the hashes of both."""

    def __init__(self, out: BinaryIO) -> None:
        super().__init__()
        self._out = out
        self._gzip = zlib.compressobj(_LEVEL, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
        self.plain = hashlib.sha256()
        self.squeezed = hashlib.sha256()
        self.size = 0

    def writable(self) -> bool:
        return True

    def write(self, data: Any) -> int:
        self.plain.update(data)
        self._put(self._gzip.compress(data))
        return len(data)

    def end(self) -> None:
        """Write what is left."""
        self._put(self._gzip.flush())

    def _put(self, data: bytes) -> None:
        self.squeezed.update(data)
        self.size += len(data)
        self._out.write(data)


def write_layer(entries: Iterable[Entry], out: BinaryIO) -> tuple[str, str, int, int]:
    """Write a layer; return the sha256 of what is written and of the tar, its size, and the bytes of its files.

    Directories on the way to a member are added: root's, 0755.
    """
    squeezer = _Squeezer(out)
    unpacked = 0
    there: set[str] = set()
    members = sorted(entries, key=lambda entry: entry.path.split("/"))
    own = {entry.path for entry in members}
    with tarfile.open(fileobj=squeezer, mode="w|", format=tarfile.PAX_FORMAT, bufsize=_CHUNK) as tar:
        for entry in members:
            parts = entry.path.split("/")
            for number in range(1, len(parts)):
                above = "/".join(parts[:number])
                if above not in there and above not in own:
                    there.add(above)
                    tar.addfile(_header(Entry(above, "directory")))
            there.add(entry.path)
            header = _header(entry)
            if entry.kind != "file":
                tar.addfile(header)
            elif isinstance(entry.content, bytes):
                header.size = len(entry.content)
                tar.addfile(header, io.BytesIO(entry.content))
            else:
                with entry.content.open("rb") as file:
                    header.size = os.fstat(file.fileno()).st_size
                    tar.addfile(header, file)
            unpacked += header.size
    squeezer.end()
    return squeezer.squeezed.hexdigest(), squeezer.plain.hexdigest(), squeezer.size, unpacked


def _header(entry: Entry) -> tarfile.TarInfo:
    header = tarfile.TarInfo(entry.path)
    header.type = {"directory": tarfile.DIRTYPE, "file": tarfile.REGTYPE, "link": tarfile.SYMTYPE}[entry.kind]
    header.mode, header.uid, header.gid, header.mtime = entry.mode, entry.owner, entry.group, _MTIME
    header.linkname = entry.target
    return header


def content_key(*words: object) -> str:
    """Return a key for the content that words tell."""
    return hashlib.sha256(msgspec.json.encode([_FORMAT, _LEVEL, *map(str, words)])).hexdigest()


@dataclass(frozen=True)
class LayerCache:
    """Layers that were made before.

    :param directory: ``CACHE/layers``.
    """

    directory: Path

    def layers(self, plans: Sequence[LayerPlan], tell: Callable[[LayerPlan], None] = lambda _plan: None) -> list[Layer]:
        """Return all layers, making those that are not here, as many at once as there are cores.

        :param tell: called, from any thread, before a layer is made.
        :raises HostError: the disk is full, or the cache cannot be written.
        """
        try:
            self.directory.mkdir(parents=True, exist_ok=True)
            self._forget()
            with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
                return list(pool.map(lambda plan: self._layer(plan, tell), plans))
        except OSError as error:
            raise host_error(error, f"cannot write layers in {self.directory}") from error

    def lookup(self, plan: LayerPlan) -> Layer | None:
        """Return a layer that is here, or None."""
        place = self.directory / plan.key
        try:
            facts = msgspec.json.decode((place / "layer.json").read_bytes(), type=_Facts)
            file = place / "layer.tar.gz"
            if file.stat().st_size != facts.size:
                return None
        except (OSError, msgspec.MsgspecError):
            return None
        return Layer(plan.title, facts.digest, facts.diff_id, facts.size, facts.unpacked, file, made=False)

    def _layer(self, plan: LayerPlan, tell: Callable[[LayerPlan], None]) -> Layer:
        if (known := self.lookup(plan)) is not None:
            os.utime(known.file.parent)
            return known
        tell(plan)
        work = Path(tempfile.mkdtemp(prefix=".", suffix=".new", dir=self.directory))
        try:
            with (work / "layer.tar.gz").open("wb") as out:
                facts = _Facts(*write_layer(plan.entries(), out))
            (work / "layer.tar.gz").chmod(0o444)
            # Not flushed: what a power cut damages is found by its hash when it is used.
            (work / "layer.json").write_bytes(msgspec.json.encode(facts))
            place = self.directory / plan.key
            with suppress(FileNotFoundError):
                remove_tree(place)  # a damaged one
            try:
                work.rename(place)
            except OSError:  # another process has made the same meanwhile
                if self.lookup(plan) is None:
                    raise
        finally:
            shutil.rmtree(work, ignore_errors=True)
        file = place / "layer.tar.gz"
        return Layer(plan.title, facts.digest, facts.diff_id, facts.size, facts.unpacked, file, made=True)

    def _forget(self) -> None:
        """Remove what nobody asked for in a month, and what killed processes left yesterday."""
        now = time.time()
        for place in self.directory.iterdir():
            with suppress(OSError):
                limit = 86400 if place.name.startswith(".") else _KEEP
                if now - place.stat().st_mtime > limit:
                    remove_tree(place)


@dataclass(frozen=True, slots=True)
class Written:
    """An image in a layout.

    :param digest: of its manifest, ``sha256:...``: what registries call the image.
    :param new: bytes that were not in the layout before.
    """

    digest: str
    new: int


def document(value: Any) -> bytes:
    """Return a JSON document, the same bytes for the same value."""
    return msgspec.json.encode(value, order="sorted")


def image_documents(
    layers: Sequence[Layer], config: Mapping[str, Any], annotations: Mapping[str, str], created: str
) -> tuple[bytes, bytes]:
    """Return an image's configuration and its manifest.

    :param config: without ``rootfs`` and ``history``, which follow from the layers.
    :param created: RFC 3339.
    """
    whole = {
        **config,
        "created": created,
        "rootfs": {"type": "layers", "diff_ids": [f"sha256:{layer.diff_id}" for layer in layers]},
        "history": [{"created": created, "created_by": "pgbake", "comment": layer.title} for layer in layers],
    }
    configuration = document(whole)
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPE,
        "config": _descriptor(CONFIG_TYPE, configuration),
        "layers": [
            {"mediaType": LAYER_TYPE, "digest": f"sha256:{layer.digest}", "size": layer.size} for layer in layers
        ],
        "annotations": dict(annotations),
    }
    return configuration, document(manifest)


def _descriptor(kind: str, content: bytes) -> dict[str, Any]:
    return {"mediaType": kind, "digest": f"sha256:{hashlib.sha256(content).hexdigest()}", "size": len(content)}


def write_layout(
    directory: Path,
    name: str,
    layers: Sequence[Layer],
    configuration: bytes,
    manifest: bytes,
    platform: Mapping[str, str],
) -> Written:
    """Put an image into a layout, which is made where there is none; an image of the same name is replaced.

    Blobs that no image of the layout names any more are removed. The index is written last: a reader sees the old image
    or the new one.

    :param name: for ``org.opencontainers.image.ref.name``: ``shop:15.18``.
    :param platform: ``architecture`` and ``os``.
    :raises StoreError: the directory holds something else.
    :raises HostError: the disk is full, or it cannot be written.
    """
    try:
        if directory.exists() and any(directory.iterdir()) and not (directory / "oci-layout").exists():
            raise StoreError(f"{directory} is no OCI layout, and not empty", hint="name another directory")
        blobs = directory / "blobs/sha256"
        blobs.mkdir(parents=True, exist_ok=True)
        with directory_lock(directory):
            _put_document(directory / "oci-layout", b'{"imageLayoutVersion": "1.0.0"}')
            new = sum(_put_layer(blobs, layer) for layer in layers)
            for content in (configuration, manifest):
                new += _put(blobs, content)
            index = _read_index(directory)
            entry = {
                **_descriptor(MANIFEST_TYPE, manifest),
                "annotations": {REF_NAME: name},
                "platform": dict(platform),
            }
            others = [one for one in index if one.get("annotations", {}).get(REF_NAME) != name]
            value = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [*others, entry]}
            _put_document(directory / "index.json", document(value))
            _sweep(blobs, [entry["digest"] for entry in value["manifests"]])  # type: ignore[attr-defined]
    except OSError as error:
        raise host_error(error, f"cannot write {directory}") from error
    return Written(entry["digest"], new)


def _read_index(directory: Path) -> list[dict[str, Any]]:
    try:
        return list(msgspec.json.decode((directory / "index.json").read_bytes())["manifests"])
    except FileNotFoundError:
        return []
    except (msgspec.MsgspecError, KeyError, TypeError) as error:
        raise StoreError(f"{directory}/index.json is damaged: {error}", hint="name another directory") from error


def _put_layer(blobs: Path, layer: Layer) -> int:
    """Bring a layer into a layout, by a hard link where that is possible; return its size where it is new."""
    place = blobs / layer.digest
    if place.exists() and place.stat().st_size == layer.size:
        return 0
    if not layer.made:
        with layer.file.open("rb") as file:
            found = hashlib.file_digest(file, "sha256").hexdigest()
        if found != layer.digest:
            layer.file.unlink()
            raise StoreError(
                f"the layer of {layer.title} is damaged in the cache, and was removed from there",
                hint="run the same command again",
            )
    place.unlink(missing_ok=True)
    try:
        os.link(layer.file, place)
    except OSError:  # another file system, or one that knows no links
        temporary = place.with_name(f".{place.name}.new")
        shutil.copyfile(layer.file, temporary)
        temporary.rename(place)
    # On disk before the index names it.
    with place.open("rb") as file:
        os.fsync(file.fileno())
    return layer.size


def _put(blobs: Path, content: bytes) -> int:
    return _put_document(blobs / hashlib.sha256(content).hexdigest(), content, 0o444)


def _put_document(file: Path, content: bytes, mode: int = 0o644) -> int:
    """Write a document where another one, or none, is; return its size where that was so."""
    with suppress(OSError):
        if file.read_bytes() == content:
            return 0
    write_whole(file, content, mode)
    return len(content)


def _sweep(blobs: Path, digests: Iterable[str]) -> None:
    """Remove blobs that no manifest names. A manifest that cannot be understood names all."""
    used = set()
    for digest in digests:
        name = digest.removeprefix("sha256:")
        used.add(name)
        try:
            manifest = msgspec.json.decode((blobs / name).read_bytes())
            used |= {one["digest"].removeprefix("sha256:") for one in (manifest["config"], *manifest["layers"])}
        except (OSError, msgspec.MsgspecError, KeyError, TypeError):
            return
    for blob in blobs.iterdir():
        if blob.name not in used:
            blob.unlink()
