"""What the commands for installed machines do alike: which machine, which bundle, and telling what was done."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pgbake.cli.app import App
from pgbake.formats.storepath import StorePath

if TYPE_CHECKING:
    from pgbake.events import Sink
    from pgbake.install.installation import Done, Installation
    from pgbake.install.profiles import Generation
    from pgbake.machine.apply import Plan, Way

from_option = click.option(
    "--from", "urls", multiple=True, metavar="URL", help="Cache to take from [default: the known ones]."
)
root_option = click.option(
    "--root", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
    help="Tree of a machine to work on, instead of this machine.",
)  # fmt: skip
major_option = click.option("--major", type=int, metavar="N", help="PostgreSQL's major version, where several are.")
restart_option = click.option("--restart", is_flag=True, help="Restart servers where the new bundle needs it.")
timeout_option = click.option(
    "--timeout", type=click.IntRange(1), default=60, show_default=True, metavar="SECONDS",
    help="How long a server may take to come up.",
)  # fmt: skip
adopt_option = click.option("--adopt", is_flag=True, help="Use configuration and data that are there already.")
divert_option = click.option("--divert", is_flag=True, help="Move what is in the way aside, until uninstall.")


def on_machine(app: App, root: Path | None) -> App:
    """Return the same for the store of a machine: ``/``, or the tree's.

    :raises PgbakeError: this is not root, or Nix owns that store.
    """
    from pgbake.install import host

    place = (root or Path("/")).absolute()
    host.require_root(place)
    host.require_no_nix(place)
    return dataclasses.replace(app, store_option=place)


def installation(machine: App, report: Sink) -> Installation:
    """Return what is installed on a machine."""
    from pgbake.install.installation import Installation

    return Installation(machine.store, report)


def way_of(adopt: bool, divert: bool) -> Way:
    """Return what is done with files in the way."""
    if adopt and divert:
        raise click.UsageError("--adopt and --divert exclude each other")
    return "adopt" if adopt else "divert" if divert else "refuse"


def provide_bundle(
    app: App, machine: App, bundle: StorePath, urls: Sequence[str], *, unchecked: bool, dry_run: bool
) -> str:
    """Bring a bundle into the machine's store; return how it stands with its checks.

    :raises PgbakeError: it is to be had nowhere, nobody trusted has signed it, or its checks have not passed.
    """
    if (checks := _installed(machine, bundle)) is not None:
        return checks
    from pgbake.cli.gate import require_checked

    own = app.store if app.store_root != machine.store_root and (app.store_root / "nix/store").exists() else None
    if machine.store.hold([bundle]):
        source = app if own is not None and own.valid([bundle]) else machine
        return require_checked(source, bundle, "installed", unchecked=unchecked).word
    if own is not None and own.valid([bundle]) and not urls:
        gate = require_checked(app, bundle, "installed", unchecked=unchecked)
        if not dry_run:
            take_bundle(app, machine, bundle, [f"local?root={app.store_root}"], unchecked=True)
            _bring_statements(app, machine, bundle)
        return gate.word
    if dry_run:
        return "unchecked"
    take_bundle(app, machine, bundle, urls, unchecked=unchecked)
    return require_checked(machine, bundle, "installed", unchecked=unchecked).word


def _installed(machine: App, bundle: StorePath) -> str | None:
    """Return who said that the checks have passed of a bundle that is installed now; None of any other."""
    from pgbake.install.profiles import Profiles

    profiles = Profiles(machine.store)
    if not machine.store.hold([bundle]):
        return None
    currents = [profiles.current(major) for major in profiles.majors()]
    return next((each.origin.checks for each in currents if each is not None and each.bundle == bundle), None)


def meant_bundle(
    app: App, machine: App, name: str | None, urls: Sequence[str], *, only_cached: bool, dry_run: bool
) -> StorePath:
    """Return the bundle that is meant, which is built where it is a project's; it need not be in the machine's store.

    :param name: a path, a link to one, or the name of a bundle in the caches; None: the project's.
    :raises PgbakeError: there is none, or it is for another kind of machine.
    """
    from pgbake.errors import ManifestError

    if name is not None and "/" in name:
        from pgbake.cli.verify import chosen_paths

        return (chosen_paths(app, [name]) or [])[0]
    if name is None:
        if not app.has_project:
            raise ManifestError(
                "no bundle is named, and there is no pgbake.toml here",
                hint="name one, as NAME --from CACHE; or go to a project's directory",
            )
        from pgbake.formats.system import host_system

        if only_cached or dry_run:
            return app.project.bundle(host_system()).path
        from pgbake.cli.goals import built_bundle

        return built_bundle(app).path
    return _newest(app, machine, name, urls)


def _newest(app: App, machine: App, name: str, urls: Sequence[str]) -> StorePath:
    """Return the newest bundle of a name in the caches, made for this kind of machine."""
    from pgbake.cache.inventory import bundles, take_inventory
    from pgbake.cli.caches import check_there, open_cache, settings
    from pgbake.errors import ManifestError
    from pgbake.install.host import system_of

    system = system_of(machine.store_root).name
    asked = list(urls) or [setting.url for setting in settings(app).caches if "://" in setting.url]
    seen: list[str] = []
    others: list[str] = []
    for url in asked:
        check_there(url)
        with app.reporting() as report:
            found = bundles(take_inventory(open_cache(url), report))
        for bundle in found:
            group = bundle.path.name.rpartition("-postgresql-")[0]
            if name in (group, bundle.group, bundle.path.name):
                if bundle.system in (None, system):
                    return bundle.path
                others.append(str(bundle.system))
            seen.append(bundle.path.name)
    if others:
        raise ManifestError(
            f"{name} is there for {', '.join(sorted(set(others)))} only, and this machine is {system}",
            hint=f"build and push it for {system}",
        )
    where = ", ".join(asked) or "any cache: none is known"
    known = ", ".join(sorted(set(seen))[:5])
    raise ManifestError(
        f'there is no bundle "{name}" in {where}', hint=f"there: {known}" if known else "name a cache with --from"
    )


def take_bundle(app: App, machine: App, bundle: StorePath, urls: Sequence[str], *, unchecked: bool) -> None:
    """Take a bundle from caches into a machine's store, with the statements about it.

    :param urls: of the caches; none: the known ones.
    :raises CacheError: no cache is known, or none has it.
    """
    from pgbake.cache.pull import pull
    from pgbake.cache.statements import take_statements
    from pgbake.cli.caches import settings, substituters, tell_problems
    from pgbake.errors import CacheError
    from pgbake.install.host import require_writable

    caches = substituters(machine, urls, unchecked=unchecked)
    if caches is None:
        raise CacheError(f"{bundle} is not here, and no cache is known", hint="name one with --from")
    offers = caches.closure([bundle], machine.store.hold)
    require_writable(machine.store_root, sum(offer[0].info.nar_size for offer in offers.values()))
    with machine.reporting() as report:
        done = pull(machine.store, caches, [bundle], report)
        take_statements(machine.store, caches.caches, bundle, settings(machine).trust)
    tell_problems(app, done.problems)


def _bring_statements(app: App, machine: App, bundle: StorePath) -> None:
    from pgbake.store.statements import keep_statement, kept_statements

    for statement in kept_statements(app.store, bundle).values():
        keep_statement(machine.store, statement)


# --- telling -------------------------------------------------------------------------------------


def describe_generation(generation: Generation | None) -> dict[str, Any] | None:
    """Return a generation as it is answered to programs."""
    if generation is None:
        return None
    return {
        "major": generation.major,
        "number": generation.number,
        "bundle": str(generation.bundle),
        "server": generation.server,
        "current": generation.current,
        "made": round(generation.made),
        "name": generation.origin.name,
        "caches": list(generation.origin.caches),
        "checks": generation.origin.checks,
    }


def describe_plan(plan: Plan) -> list[dict[str, str]]:
    """Return the changes of a machine as they are answered to programs."""
    made = [("group", name) for name in plan.groups] + [("user", name) for name in plan.users]
    return [{"verb": "make", "what": kind, "path": name} for kind, name in made] + [
        {"verb": change.verb, "what": change.part.kind if change.part else "path", "path": change.path}
        for change in plan.changes
    ]


def answer(app: App, done: Done, as_json: bool, dry_run: bool, tell: Callable[[], None]) -> None:
    """Tell what was done, or is to be done."""
    if as_json:
        app.say_json(
            {
                "dry-run": dry_run,
                "major": done.major,
                "before": describe_generation(done.before),
                "now": describe_generation(done.now),
                "changes": describe_plan(done.plan),
                "restart-reasons": list(done.reasons),
                "live": done.live,
                "restarted": [
                    {"cluster": cluster.label, "downtime": round(seconds, 3)} for cluster, seconds in done.restarted
                ],
                "started": [cluster.label for cluster in done.started],
            }
        )
        return
    if dry_run:
        show_plan(app, done.plan)
        for reason in done.reasons:
            app.say(f"restart needed: {reason}")
        return
    tell()
    tell_servers(app, done)


def show_plan(app: App, plan: Plan) -> None:
    """Print what would change, file by file."""
    lines = describe_plan(plan)
    for line in lines:
        app.say(f"{line['verb']:8} {line['what']:10} {line['path']}")
    if not lines:
        app.say("no file changes")


def tell_servers(app: App, done: Done) -> None:
    """Say what became of the servers."""
    for cluster in done.started:
        app.say(f"started: {cluster.label} on port {cluster.port}")
    for cluster, seconds in done.restarted:
        app.say(f"restarted: {cluster.label}, {seconds:.2f} s without an answer")
    if done.live and not done.restarted:
        app.say("live: servers that run have it already")
    elif done.reasons and not done.restarted:
        app.say("RESTART NEEDED: servers that run keep what they have until then, because of")
        for reason in done.reasons:
            app.say(f"  {reason}")
        app.say("restart them: systemctl restart postgresql; or let the command do it next time: --restart")
