"""``pgbake cache serve``: a directory as a binary cache over HTTP."""

from __future__ import annotations

from pathlib import Path

import click

from pgbake.cli.app import App, json_option, pass_app


@click.command(
    "serve",
    short_help="Serve a directory as a cache over HTTP.",
    epilog="""\b
Examples:
  pgbake cache serve /srv/cache
  pgbake cache serve /srv/cache --port 0 --json     as a script starts it
  pgbake cache serve /srv/cache --bind 0.0.0.0      for other machines, too""",
)
@click.argument("directory", type=click.Path(path_type=Path), metavar="DIR")
@click.option("--port", type=click.IntRange(0, 65_535), default=8080, show_default=True, help="0 chooses a free one.")
@click.option("--bind", default="127.0.0.1", show_default=True, metavar="ADDRESS", help="Address to listen on.")
@json_option
@pass_app
def command(app: App, directory: Path, port: int, bind: str, as_json: bool) -> None:
    """Serve a directory that `pgbake push --to file:///DIR` filled, to pgbake and to any Nix, until Ctrl-C.

    At / stands a page that lists the bundles. With -v before the command, a line for each request is printed.
    """
    import signal

    from pgbake.cache.serve import Server

    def log(client: str, line: str, status: int, size: int) -> None:
        app.note(f"{client} {status} {size} {click.unstyle(line)!r}")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with Server(directory, bind, port, log if app.verbose else None) as server:
        signal.signal(signal.SIGTERM, stop)
        if as_json:
            app.say_json({"url": server.url, "directory": str(server.directory)})
        else:
            app.say(f"serving {server.directory} at {server.url}; Ctrl-C ends it")
        try:
            server.serve_forever()
        except KeyboardInterrupt:
            app.note("stopped")
