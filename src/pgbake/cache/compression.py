"""The compressions of NARs in binary caches: zstd is written; xz, bzip2, gzip and none are read as well."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, BinaryIO, cast

from pgbake.errors import FormatError

if TYPE_CHECKING:
    from zstandard import ZstdCompressionObj

#: What pgbake's caches are written with, and how hard it tries: between speed and size, the field's choice.
LEVEL = 3
#: Bytes of a NAR from which on several threads compress it. By size alone, so that the same NAR gives the same file.
_SEVERAL_THREADS = 32 << 20
_THREADS = 2
#: Bytes that each of them takes at a time: what they hold in memory is a few times that.
_JOB = 2 << 20
#: Largest window that a zstd frame may ask for; also what `zstd -d` allows.
_MAX_WINDOW = 1 << 27


def compressor(size: int, level: int = LEVEL) -> ZstdCompressionObj:
    """Return a zstd compressor for a NAR of ``size`` bytes; its output depends on the size, too."""
    import zstandard

    if size < _SEVERAL_THREADS:
        return zstandard.ZstdCompressor(level=level).compressobj()
    parameters = zstandard.ZstdCompressionParameters.from_level(level, threads=_THREADS, job_size=_JOB)
    return zstandard.ZstdCompressor(compression_params=parameters).compressobj()


@contextmanager
def decompressed(compression: str, source: BinaryIO) -> Iterator[BinaryIO]:
    """Give a stream of what is compressed in ``source``; it holds a bounded part of it in memory.

    Errors of its reads are translated by :func:`explain`.

    :param compression: one of :data:`pgbake.formats.narinfo.COMPRESSIONS`.
    """
    match compression:
        case "none":
            yield source
        case "zstd":
            import zstandard

            machine = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW)
            with machine.stream_reader(source, read_across_frames=True, closefd=False) as stream:
                yield cast(BinaryIO, stream)
        case "xz":
            import lzma

            with lzma.LZMAFile(source) as xz:
                yield cast(BinaryIO, xz)
        case "bzip2":
            import bz2

            with bz2.BZ2File(source) as bzip2:
                yield cast(BinaryIO, bzip2)
        case "gzip":
            import gzip

            with gzip.GzipFile(fileobj=source, mode="rb") as unzipped:
                yield cast(BinaryIO, unzipped)
        case _:
            raise FormatError(f"the compression {compression!r} is not known")


def is_damage(error: BaseException) -> bool:
    """Whether an error of a read means that the compressed data are damaged or cut off."""
    import lzma
    import zlib

    import zstandard

    return isinstance(error, zstandard.ZstdError | lzma.LZMAError | zlib.error | EOFError) or (
        isinstance(error, OSError) and error.errno is None  # bz2's and gzip's
    )
