"""``pgbake keygen``: a new signing key."""

from __future__ import annotations

from pathlib import Path

import click

from pgbake.cli.app import App, json_option, pass_app


@click.command(
    "keygen",
    short_help="Make a key to sign with.",
    epilog="""\b
Examples:
  pgbake keygen cache.example.org-1                       makes cache.example.org-1.key
  pgbake keygen ci-2 --out /etc/pgbake/ci-2.key
  pgbake keygen --public /etc/pgbake/ci-2.key             the public key of one that is there""",
)
@click.argument("name", required=False)
@click.option("--out", type=click.Path(dir_okay=False, path_type=Path), help="File of the key [default: NAME.key].")
@click.option(
    "--public", "existing", type=click.Path(dir_okay=False, path_type=Path), metavar="FILE",
    help="Make no key; show the public key of this file.",
)  # fmt: skip
@json_option
@pass_app
def command(app: App, name: str | None, out: Path | None, existing: Path | None, as_json: bool) -> None:
    """Make a secret key and print its public key, which goes into manifests.

    NAME is what whoever trusts the key knows it by: say whose it is, and end it with a number, so that its successor
    can have the next one. Nix can use the file as well.
    """
    from pgbake.formats.keys import SecretKey
    from pgbake.signing import read_secret_key, write_secret_key

    if (name is None) == (existing is None) or (existing is not None and out is not None):
        raise click.UsageError("Name the new key, or a file with --public.")
    if existing is not None:
        file = existing
        with app.reporting() as report:
            key = read_secret_key(file, report)
    else:
        assert name is not None
        key = SecretKey.generate(name)
        file = out or Path(f"{name.replace('/', '_')}.key")
        write_secret_key(file, key)
    if as_json:
        app.say_json({"name": key.name, "public": str(key.public), "file": str(file.absolute())})
        return
    app.say(str(key.public))
    if existing is None:
        app.note(f"the secret key is in {file}: keep it where nobody else can read it")
        app.note("whoever is to trust it adds this to the manifest, or to /etc/pgbake/config.toml:")
        app.note(f'\n[trust]\nkeys = ["{key.public}"]')
