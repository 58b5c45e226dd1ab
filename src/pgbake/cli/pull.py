"""``pgbake pull``: take the bundle, or any path, from binary caches."""

from __future__ import annotations

import time
from pathlib import Path

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.quantities import human_size


@click.command(
    "pull",
    short_help="Take the bundle, or any path, from binary caches.",
    epilog="""\b
Examples:
  pgbake pull                                   the bundle of the manifest
  pgbake pull --from https://cache.example.org
  pgbake pull --from s3://bucket?region=eu-central-1 /nix/store/DIGEST-NAME
  pgbake pull --unchecked                       a bundle whose checks have not passed
  pgbake pull --dry-run                         show what would travel""",
)
@click.argument("names", nargs=-1, metavar="[NAME|PATH]...")
@click.option("--from", "urls", multiple=True, metavar="URL", help="Cache to take from [default: the manifest's].")
@click.option("--out-link", type=click.Path(path_type=Path), help="Link to make [default: ./result, for the bundle].")
@click.option("--no-link", is_flag=True, help="Make no link: the result may be collected as garbage.")
@click.option("--no-check-sigs", is_flag=True, help="Take what nobody trusted has signed, too.")
@click.option("--unchecked", is_flag=True, help="Take a bundle, too, that no trusted key says has passed its checks.")
@click.option("--dry-run", is_flag=True, help="Show what would be taken, and take nothing.")
@json_option
@pass_app
def command(
    app: App,
    names: tuple[str, ...],
    urls: tuple[str, ...],
    out_link: Path | None,
    no_link: bool,
    no_check_sigs: bool,
    unchecked: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Bring the bundle of the manifest, its packages NAME, or store paths PATH from binary caches into the store,
    with all that they refer to. Nothing is built.

    Hashes and signatures are verified while the paths travel. A bundle must have a statement, signed by a key that
    you trust, that its checks have passed. A cache that fails, or gives something wrong, is
    named at the end, and the next one is asked.
    """
    from pgbake.cache.pull import pull
    from pgbake.cache.statements import is_bundle, take_statements
    from pgbake.cache.substituters import Substituters
    from pgbake.cli.caches import amount, count, name_paths, settings, substituters, tell_problems

    goals = name_paths(app, names)
    if no_check_sigs:
        app.note("warning: signatures are not checked: whoever can write to the cache decides what you run")
    if unchecked:
        app.note("warning: UNCHECKED: a bundle is taken whether or not its checks have passed")
    caches = substituters(app, urls, check_signatures=not no_check_sigs, unchecked=unchecked)
    caches = caches or Substituters((), lambda _info, _where: None)
    if dry_run:
        missing = [path for path in goals if path not in app.store.valid(goals)]
        offers = caches.closure(missing, app.store.valid)
        infos = [offer[0].info for offer in offers.values()]
        size = sum(info.file_size or info.nar_size for info in infos)
        if as_json:
            app.say_json({"pull": [str(info.path) for info in infos], "file-bytes": size})
        else:
            for path, (offer, *_) in sorted(offers.items()):
                app.say(f"{path}  {human_size(offer.info.file_size or offer.info.nar_size)}  {offer.cache.url}")
            app.say(f"To pull: {count(len(infos))}, {human_size(size)}")
        tell_problems(app, caches.problems)
        return
    begin = time.monotonic()
    with app.reporting() as report:
        result = pull(app.store, caches, goals, report)
        for path in filter(is_bundle, set(goals) & {path for path, _ in result.pulled}):
            take_statements(app.store, caches.caches, path, settings(app).trust)
    link = out_link or (app.directory / "result" if not names else None)
    if link is not None and not no_link:
        app.store.link_root(link, goals[0])
    if as_json:
        app.say_json(
            {
                "paths": [str(path) for path in goals],
                "pulled": [{"path": str(path), "from": url} for path, url in result.pulled],
                "nar-bytes": result.nar_size,
                "file-bytes": result.file_size,
                "problems": [str(problem) for problem in result.problems],
            }
        )
    else:
        for path in goals:
            app.say(str(path))
        if result.pulled:
            moved = amount(result.nar_size, result.file_size, time.monotonic() - begin)
            app.note(f"pulled {count(len(result.pulled))}, {moved}")
        else:
            app.note("nothing to pull: everything is in the store")
    tell_problems(app, result.problems)
