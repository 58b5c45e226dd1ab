"""What must hold of a bundle's closure once it is built."""

from __future__ import annotations

import re

from pgbake.bundle.merge import Bundle
from pgbake.errors import BuildError
from pgbake.formats.storepath import StorePath
from pgbake.store.closure import closure_sizes, shortest_way
from pgbake.store.local import LocalStore

#: Names of paths that only builds need, whoever made them.
_COMPILERS = re.compile(r"(gcc|g\+\+|cpp|clang|llvm|rustc|cargo|binutils)-\d.*|(rustc|cargo|clang|gcc|g\+\+)-.*")
#: These belong to the runtime all the same: gcc's own libraries have their licences there.
_RUNTIME = re.compile(r"gcc-\d+-base-.*")


def check_references(store: LocalStore, bundle: Bundle) -> None:
    """Check that a bundle refers to no build root, compiler, or output with headers, by whatever way.

    A closure that does so drags in hundreds of megabytes that no server needs.

    :raises BuildError: it does; the way is named.
    """
    kinds = {"root": "the build root", "source": "the source"}
    forbidden = {
        path: f"{kinds[item.kind]} {item.name}" for path, item in bundle.graph.inputs.items() if item.kind in kinds
    }
    for derivation in bundle.graph.derivations.values():
        if "dev" in derivation.output_paths:
            forbidden[derivation.output_paths["dev"]] = f"headers, the output dev of {derivation.name}"
    for path in store.closure([bundle.path]):
        what = forbidden.get(path)
        if what is None and is_compiler(path):
            what = "a compiler"
        if what is not None:
            raise forbidden_reference(store, bundle.path, path, what)


def is_compiler(path: StorePath) -> bool:
    """Whether a path's name is that of a compiler, or of what comes with one."""
    return bool(_COMPILERS.fullmatch(path.name)) and not _RUNTIME.fullmatch(path.name)


def forbidden_reference(store: LocalStore, top: StorePath, path: StorePath, what: str) -> BuildError:
    """Return the error for a path of a closure that no server needs."""
    way = shortest_way(store, top, path)
    last = way[-2] if len(way) > 1 else top
    return BuildError(
        f"the bundle refers to {what}: {path.name}, by way of {last.name}",
        hint=f"`pgbake why {path.name}` shows the way; {last.name} must not name that path: see `prepare` and `make` "
        "in its recipe",
        detail=" -> ".join(step.name for step in way),
    )


def check_budget(store: LocalStore, bundle: Bundle, budget: int | None) -> None:
    """Check that a bundle's closure is not larger than a manifest allows.

    :param budget: bytes; None means any size.
    :raises BuildError: it is; the largest paths are named.
    """
    if budget is None:
        return
    total = sum(info.nar_size for info in store.closure([bundle.path]).values())
    if total <= budget:
        return
    largest = closure_sizes(store, bundle.path)[:5]
    raise BuildError(
        f"the closure of the bundle has {_megabytes(total)}, more than the {_megabytes(budget)} of `max_closure`; the "
        f"largest: {', '.join(f'{item.path.name} {_megabytes(item.size)}' for item in largest)}",
        hint="`pgbake size` tells who brings what; remove something, or raise `max_closure` in the manifest",
    )


def _megabytes(size: int) -> str:
    return f"{size / 1e6:.1f} MB"
