"""``diff``, for pg_regress where no diffutils are: ``diff [-U3] EXPECTED ACTUAL``.

The user's own tests run in a place without a compiler, so that whoever takes bundles from a cache fetches none.
"""

from __future__ import annotations

import difflib
import sys
from collections.abc import Sequence
from pathlib import Path


def main(args: Sequence[str]) -> int:
    """Print how two files differ; return 0 where they do not, 1 where they do, 2 where one cannot be read."""
    files = [arg for arg in args if not arg.startswith("-")]
    try:
        texts = [Path(file).read_bytes().decode("utf-8", "surrogateescape") for file in files]
    except OSError as error:
        print(f"diff: {error}", file=sys.stderr)
        return 2
    if texts[0] == texts[1]:
        return 0
    old, new = ([f"{line}\n" for line in text.split("\n")] for text in texts)
    for lines in (old, new):
        last = lines.pop()
        if last != "\n":
            lines.append(f"{last}\\ No newline at end of file\n")
    changes = "".join(difflib.unified_diff(old, new, files[0], files[1], n=3))
    sys.stdout.buffer.write(changes.encode("utf-8", "surrogateescape"))
    return 1


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
