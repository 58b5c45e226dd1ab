"""``pgbake sign``: signatures for paths of the local store."""

from __future__ import annotations

from pathlib import Path

import click

from pgbake.cli.app import App, json_option, pass_app


@click.command(
    "sign",
    short_help="Sign the bundle, or other paths of the store.",
    epilog="""\b
Examples:
  pgbake sign --key cache.example.org-1.key               the bundle, and all that it needs
  pgbake sign --key FILE /nix/store/DIGEST-NAME
  PGBAKE_SECRET_KEY="$KEY" pgbake sign                    as in CI""",
)
@click.argument("names", nargs=-1, metavar="[NAME|PATH]...")
@click.option(
    "--key", "files", type=click.Path(dir_okay=False, path_type=Path), multiple=True, metavar="FILE",
    help="Sign with this secret key; may be given several times [default: those in PGBAKE_SECRET_KEY].",
)  # fmt: skip
@click.option("--dry-run", is_flag=True, help="Only show what would be signed.")
@json_option
@pass_app
def command(app: App, names: tuple[str, ...], files: tuple[Path, ...], dry_run: bool, as_json: bool) -> None:
    """Sign the bundle of the manifest, its packages NAME, or store paths PATH, and all that they refer to.

    The signatures are kept in the store's database, where Nix has them too, and go along with each push. `pgbake push
    --key` signs only what it sends.
    """
    from pgbake.cli.caches import count, name_paths
    from pgbake.errors import ManifestError
    from pgbake.signing import secret_keys, sign_paths, signatures_of

    app.require_own_store()
    with app.reporting() as report:
        keys = secret_keys(files, report)
    if not keys:
        raise ManifestError("no key is named", hint="make one with `pgbake keygen NAME`, then sign with --key FILE")
    infos = app.store.closure(name_paths(app, names))
    if dry_run:
        gained = {
            path: sum(str(signature) not in info.signatures for signature in signatures_of(info, keys))
            for path, info in infos.items()
        }
    else:
        gained = sign_paths(app.store, infos.values(), keys)
    if as_json:
        app.say_json(
            {
                "keys": [key.name for key in keys],
                "signed": [str(path) for path, count in gained.items() if count],
                "present": [str(path) for path, count in gained.items() if not count],
            }
        )
        return
    new = sum(1 for count in gained.values() if count)
    done = "would sign" if dry_run else "signed"
    app.say(f"{done} {new} of {count(len(gained))} as {', '.join(key.name for key in keys)}")
