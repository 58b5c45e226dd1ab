"""``pgbake plan``: what a build would fetch and build, and why."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pgbake.cli.app import App, json_option, pass_app, system_option
from pgbake.quantities import human_size

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pgbake.build.plan import Plan
    from pgbake.bundle.merge import Bundle
    from pgbake.formats.narinfo import NarInfo
    from pgbake.formats.storepath import StorePath


@click.command(
    "plan",
    short_help="Show what a build would fetch and build, and why.",
    epilog="""\b
Examples:
  pgbake plan
  pgbake plan pgvector
  pgbake plan --system aarch64-linux --json""",
)
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--no-substitute", is_flag=True, help="Ask no binary cache.")
@system_option
@json_option
@pass_app
def command(app: App, names: tuple[str, ...], no_substitute: bool, system: str | None, as_json: bool) -> None:
    """Show what building the bundle, or the packages NAME, would do. Nothing is fetched or changed."""
    from pgbake.cli.goals import choose

    bundle = app.project.bundle(app.project.system(system))
    wanted = [goal.path for goal in choose(bundle, names).values()]
    show_plan_of(app, bundle, wanted, as_json, substitute=not no_substitute)


def show_plan_of(app: App, bundle: Bundle, goals: Sequence[StorePath], as_json: bool, *, substitute: bool) -> None:
    """Print what building derivations of a bundle would do."""
    from pgbake.build.plan import make_plan
    from pgbake.cli.caches import substituters, tell_problems, tell_refusals

    caches = substituters(app) if substitute else None
    show_plan(app, make_plan(bundle.graph, goals, app.store, caches), as_json)
    if caches is not None:
        tell_refusals(app, caches)
        tell_problems(app, caches.problems)


def show_plan(app: App, plan: Plan, as_json: bool) -> None:
    """Print a plan."""
    from pgbake.build.plan import why

    downloads = _downloads(plan)
    if as_json:
        app.say_json(
            {
                "pull": [
                    {"path": str(path), "cache": offers[0].cache.url, "bytes": _travels(offers[0].info)}
                    for path, offers in plan.substitutes.items()
                ],
                "fetch": [
                    {
                        "kind": item.kind, "name": item.name, "path": str(item.path), "files": len(item.pins),
                        "bytes": sum(pin.size for name, pin in item.pins.items() if pin.sha256 in downloads),
                    }
                    for item in plan.inputs
                ],
                "build": [
                    {"name": d.name, "derivation": str(d.path), "why": why(d, app.store),
                     "outputs": {name: output.path for name, output in d.outputs.items()}}
                    for d in plan.builds
                ],
                "reuse": [{"name": d.name, "derivation": str(d.path)} for d in plan.reused],
            }
        )  # fmt: skip
        return
    if plan.empty:
        app.say("Nothing to do: everything is in the store.")
        return
    if plan.substitutes:
        by_cache: dict[str, list[int]] = {}
        for offers in plan.substitutes.values():
            by_cache.setdefault(offers[0].cache.url, []).append(_travels(offers[0].info))
        for url, sizes in by_cache.items():
            app.say(f"To pull: {len(sizes)} paths, {human_size(sum(sizes))}, from {url}")
    if plan.inputs:
        total = sum(downloads.values())
        had = "" if downloads else " (all downloaded before)"
        app.say(f"To fetch: {len(downloads)} files, {human_size(total)}{had}, for")
        roots = [item for item in plan.inputs if item.kind == "root"]
        for item in roots:
            app.say(f"  build root {item.name}: {len(item.pins)} packages")
        for kind, title in (("source", "sources"), ("runtime", "runtime packages")):
            names = sorted(item.name for item in plan.inputs if item.kind == kind and not item.is_crate)
            if names:
                app.say(f"  {len(names)} {title}: {', '.join(names)}")
        if crates := sum(item.is_crate for item in plan.inputs):
            app.say(f"  {crates} crates")
    if plan.builds:
        app.say(f"To build: {len(plan.builds)}")
    width = max((len(derivation.name) for derivation in plan.builds), default=0)
    for derivation in plan.builds:
        app.say(f"  {derivation.name:{width}}  {why(derivation, app.store)}")
    if plan.reused:
        app.say(f"Reused: {len(plan.reused)}: {', '.join(derivation.name for derivation in plan.reused)}")


def _travels(info: NarInfo) -> int:
    return info.file_size or info.nar_size


def _downloads(plan: Plan) -> dict[str, int]:
    """Return size by sha256 of the files that are neither in the store nor downloaded before."""
    from pgbake.places import cache_dir

    pins = {pin.sha256: pin for item in plan.inputs for pin in item.pins.values()}
    downloads = cache_dir() / "downloads"
    return {key: pin.size for key, pin in pins.items() if not (downloads / f"{key}-{pin.filename}").exists()}
