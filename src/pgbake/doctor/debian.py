"""Whether Debian's packages can be had: the mirrors that are known, and whether they answer."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from email.utils import parsedate_to_datetime
from pathlib import Path
from urllib.parse import unquote

from pgbake.doctor.finding import Finding, few, ok, problem, warning
from pgbake.errors import PgbakeError
from pgbake.inputs.mirrors import Mirrors

#: Seconds that mirrors have to answer, all together. Finding an address alone can take much longer.
_PATIENCE = 1.5
#: Seconds by which this machine's clock may differ from a mirror's.
_SKEW = 300

#: What a mirror said: its status, and its clock's difference to ours in seconds where it told the time.
_Answer = tuple[bool, str, float | None]


def examine_mirrors(mirrors: Callable[[], Mirrors], suite: str, offline: bool = False) -> Iterator[Finding]:
    """Ask for the mirrors that would be fetched from and, unless ``offline``, whether each has the suite.

    A mirror that does not answer is a warning only: what was fetched before is not asked for again.
    """
    try:
        known = mirrors()
    except PgbakeError as error:
        yield problem("mirrors", error.message, error.hint)
        return
    asked = {base: f"{base}/dists/{suite}/InRelease" for base in known.debian}
    asked |= {base: f"{base}/dists/{suite}-security/InRelease" for base in known.security}
    if offline:
        yield ok("mirrors", f"{few(list(asked), 5)} (not asked)")
        return
    answers = _ask(asked)
    skews = [answer[2] for answer in answers.values() if answer[2] is not None]
    for base in asked:
        good, status, _ = answers.get(base, (False, f"no answer within {_PATIENCE} s", None))
        if good:
            yield ok(base, f"has {suite}")
        else:
            yield warning(
                base,
                f"{suite}: {status}",
                "check network and proxy (http_proxy), or name another in the manifest: "
                '[platform] mirrors = ["http://HOST/debian"]',
            )
    if skews and min(map(abs, skews)) > _SKEW:
        behind = min(skews, key=abs)
        yield warning(
            "clock",
            f"is {abs(behind) / 60:.0f} minutes {'behind' if behind > 0 else 'ahead of'} the mirrors'; signed indexes "
            "are then not valid yet, or not any more",
            "set it: as root: timedatectl set-ntp true",
        )


def _ask(asked: dict[str, str]) -> dict[str, _Answer]:
    """Ask every mirror at once; return what came in time."""
    answers: dict[str, _Answer] = {}

    def ask(base: str, url: str) -> None:
        answers[base] = _file(url) if url.startswith("file:") else _head(url)

    threads = [threading.Thread(target=ask, args=item, daemon=True) for item in asked.items()]
    deadline = time.monotonic() + _PATIENCE
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(max(0.0, deadline - time.monotonic()))
    return dict(answers)


def _file(url: str) -> _Answer:
    path = Path(unquote(url.removeprefix("file://"))).parent
    return path.is_dir(), f"there is no {path}", None


def _head(url: str) -> _Answer:
    import requests

    from pgbake.inputs.fetch import innermost

    try:
        response = requests.head(url, timeout=_PATIENCE, allow_redirects=True)
    except requests.RequestException as error:
        return False, innermost(error), None
    skew = None
    with suppress(KeyError, ValueError):
        skew = parsedate_to_datetime(response.headers["Date"]).timestamp() - time.time()
    return response.ok, f"{response.status_code} {response.reason}".strip(), skew
