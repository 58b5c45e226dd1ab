"""``pgbake remove``: extensions out of the manifest."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from pgbake.cli.app import App, json_option, pass_app

if TYPE_CHECKING:
    from pgbake.project import Project


@click.command(
    "remove",
    short_help="Remove extensions from the manifest.",
    epilog="""\b
Examples:
  pgbake remove hll
  pgbake remove my_extension --recipe""",
)
@click.argument("names", nargs=-1, required=True, metavar="NAME...")
@click.option("--recipe", "with_recipe", is_flag=True, help="Delete the recipe of your own as well.")
@click.option("--dry-run", is_flag=True, help="Show what would be removed, and change nothing.")
@click.option("--no-lock", is_flag=True, help="Leave the lock as it is.")
@json_option
@pass_app
def command(app: App, names: tuple[str, ...], with_recipe: bool, dry_run: bool, no_lock: bool, as_json: bool) -> None:
    """Remove extensions, and what [extension.NAME] says of them, from the manifest; then drop their pins.

    Databases that use an extension need it dropped there first. A recipe of your own stays unless --recipe is
    given; a directory with sources always does.
    """
    from pgbake.cli.locking import make_lock, tell_lock
    from pgbake.edit import remove_extensions
    from pgbake.errors import ManifestError
    from pgbake.files import write_whole
    from pgbake.project import Project

    project = app.project
    for name in names:
        if name not in project.manifest.extensions:
            raise ManifestError(
                f'{project.manifest_file} does not list "{name}"',
                hint=f"it lists {', '.join(project.manifest.extensions) or 'no extension'}",
            )
    required = _required_by(app, project, names)
    before = project.manifest_file.read_bytes()
    text = remove_extensions(before.decode("utf-8-sig"), names)
    own = [project.directory / "recipes" / f"{name}.toml" for name in names]
    recipes = [file for file in own if file.is_file()]
    if not dry_run:
        mode = project.manifest_file.stat().st_mode & 0o777
        write_whole(project.manifest_file, text.encode(), mode)
    changed = Project(project.directory)
    locked = None
    if not dry_run:
        try:
            if not no_lock and project.lock_file.exists():
                locked = make_lock(app, changed)
        except BaseException:
            write_whole(project.manifest_file, before, mode)
            raise
        for file in recipes if with_recipe else ():
            file.unlink()
    if as_json:
        app.say_json(
            {
                "removed": names,
                "required-by": required,
                "recipes": [str(file) for file in recipes] if with_recipe else [],
                **(locked.as_json() if locked else {"moved": [], "written": False}),
            }
        )
        return
    for name, others in required.items():
        app.note(f"warning: {', '.join(others)} require{'s' if len(others) == 1 else ''} {name}, which is removed")
    would = "would be removed from" if dry_run else "removed from"
    app.say(f"{would} {project.manifest_file.name}: {', '.join(names)}")
    for file in recipes:
        if with_recipe:
            app.say(f"{'would delete' if dry_run else 'deleted'} {file}")
        else:
            app.say(f"{file} stays; --recipe deletes it")
    if locked:
        tell_lock(app, changed, locked)


def _required_by(app: App, project: Project, names: tuple[str, ...]) -> dict[str, list[str]]:
    """Return which of the extensions that stay require one that goes, as far as the built bundle or the lock tells."""
    from pgbake.bundle.receipt import read_receipt
    from pgbake.errors import PgbakeError
    from pgbake.formats.system import host_system
    from pgbake.recipes.choice import choices, deb_names

    stay = {name for name in project.manifest.extensions if name not in names}
    found: dict[str, set[str]] = {}
    try:
        chosen = choices(project.manifest, project.catalogue)
    except PgbakeError:
        return {}
    by_key = {choice.key: choice for choice in chosen}
    packages = {package: choice for choice in chosen if choice.deb for package in deb_names(choice.deb)}
    try:
        for part in project.lock.systems.values():
            for package, pin in part.debs.items():
                for needed in pin.depends:
                    if package in packages and needed in packages:
                        for name in packages[needed].extensions:
                            found.setdefault(name, set()).update(packages[package].extensions)
        bundle = project.bundle(host_system())
        if app.store.valid([bundle.path]):
            extensions = read_receipt(app.store.physical(bundle.path)).extensions
            owners = {item.name: by_key[item.package] for item in extensions if item.package in by_key}
            for item in extensions:
                for needed in item.requires:
                    if item.package in by_key and needed in owners and owners[needed] is not by_key[item.package]:
                        for name in owners[needed].extensions:
                            found.setdefault(name, set()).update(by_key[item.package].extensions)
    except PgbakeError:
        pass  # what is not locked or not built tells nothing
    return {name: sorted(found[name] & stay) for name in names if found.get(name, set()) & stay}
