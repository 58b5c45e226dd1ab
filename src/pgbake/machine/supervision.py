"""Services without systemd: what s6 runs in a container, one directory below ``/etc/s6`` for each.

A directory has the files that s6-supervise(1) reads, and one of ours, ``health``, that ends well where the service
works. The container copies them to ``/run/s6``, where s6 keeps its state.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from pgbake.machine.definition import UNITS, Part, Rendered, fill, filled, template
from pgbake.machine.services import Chosen

#: Where the directories of the services lie.
SUPERVISED = "/etc/s6"


def supervised(rendered: Rendered, services: Iterable[Chosen]) -> Rendered:
    """Return what a machine has in a container: its services as s6 runs them, and nothing of systemd's.

    :param services: those that it has, each with a way to run it.
    """
    systemd = UNITS.rpartition("/")[0]
    kept = tuple(part for part in rendered.parts if not part.path.startswith(f"{systemd}/"))
    own = tuple(part for each in services for part in _parts(each))
    return replace(rendered, parts=(*kept, *own), units=())


def _parts(chosen: Chosen) -> Iterator[Part]:
    place = f"{SUPERVISED}/{chosen.name}"
    values = chosen.values
    for name, line in (("run", chosen.service.run or ""), ("health", _health(chosen))):
        text = filled(
            template(f"container/{name}"), {**values, "about": chosen.service.about, name: fill(line, values)}
        )
        yield Part("file", f"{place}/{name}", 0o755, content=text.encode())


def _health(chosen: Chosen) -> str:
    """Return how one sees that a service works: where nothing is said, that it runs."""
    if chosen.binary is not None and chosen.binary.health is None:
        return f'[ "$(s6-svstat -o up /run/s6/{chosen.name})" = true ]'
    return chosen.service.health
