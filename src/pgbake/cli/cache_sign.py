"""``pgbake cache sign``: another key for a whole cache."""

from __future__ import annotations

from pathlib import Path

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.cli.cache import chosen_cache, url_argument


@click.command(
    "sign",
    short_help="Sign all paths with another key.",
    epilog="""\b
Examples:
  pgbake cache sign --key new.key s3://bucket?region=eu-central-1
  pgbake cache sign --key new.key --trust cache.example.org-1:BASE64 file:///srv/cache
  pgbake cache sign --key new.key --remove cache.example.org-1 file:///srv/cache""",
)
@url_argument
@click.option(
    "--key", "files", type=click.Path(dir_okay=False, path_type=Path), multiple=True, metavar="FILE",
    help="Secret key to sign with; may be given several times [default: those in PGBAKE_SECRET_KEY].",
)  # fmt: skip
@click.option("--trust", "trusted", metavar="KEY", multiple=True, help="Sign only what this public key has signed.")
@click.option("--remove", metavar="NAME", multiple=True, help="Take the signatures of the key of that name away.")
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@json_option
@pass_app
def command(
    app: App,
    url: str | None,
    files: tuple[Path, ...],
    trusted: tuple[str, ...],
    remove: tuple[str, ...],
    dry_run: bool,
    as_json: bool,
) -> None:
    """Add the signature of a key to every path of a cache, and to the statements beside bundles. No NAR is read or
    written.

    To replace a key: sign with the new one; let those who trust the old one add the new one to their keys; then
    --remove the old one. Whoever could write to the cache could have put anything into it: with --trust only what
    the old key has signed, and what certifies itself, is signed.
    """
    from pgbake.cache.resign import sign_cache
    from pgbake.cli.caches import count
    from pgbake.errors import ManifestError
    from pgbake.formats.keys import PublicKey, TrustedKeys
    from pgbake.signing import secret_keys

    cache = chosen_cache(app, url)
    with app.reporting() as report:
        keys = secret_keys(files, report)
        if not keys and not remove:
            raise ManifestError("no key is named", hint="make one with `pgbake keygen NAME`, then sign with --key FILE")
        signers = TrustedKeys(tuple(map(PublicKey.parse, trusted))) if trusted else None
        done = sign_cache(cache, keys, report, remove=remove, trusted=signers, dry_run=dry_run)
    if as_json:
        app.say_json(
            {
                "keys": [key.name for key in keys],
                "removed": list(remove),
                "dry-run": dry_run,
                "changed": list(map(str, done.changed)),
                "unchanged": done.unchanged,
                "statements": done.statements,
                "passed-over": done.passed_over,
            }
        )
    else:
        for name, why in done.passed_over.items():
            app.say(f"not signed: {name}: {why}")
        what = [f"signed as {', '.join(key.name for key in keys)}"] if keys else []
        what += [f"without the signatures of {', '.join(remove)}"] if remove else []
        would = "would be " if dry_run else ""
        app.say(f"{len(done.changed)} paths {would}{' and '.join(what)}, {done.unchanged} were so already")
        if done.statements:
            app.say(f"{count(done.statements, 'statement')} {would}{' and '.join(what)}")
    if done.passed_over:
        click.get_current_context().exit(1)
