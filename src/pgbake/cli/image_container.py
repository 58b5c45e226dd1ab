"""``pgbake image container``: a container image of the bundle."""

from __future__ import annotations

import os
import re
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.cli.imaging import unchecked_option
from pgbake.cli.installing import from_option
from pgbake.errors import ManifestError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pgbake.formats.storepath import StorePath
    from pgbake.image.aio import AllInOne
    from pgbake.image.container import Container
    from pgbake.image.extension import ExtensionImage
    from pgbake.image.oci import Layer, LayerPlan
    from pgbake.inputs.pins import Pin

    Image = Container | ExtensionImage | AllInOne

#: NAME[:TAG] with registry and directories, as container engines take it.
_REFERENCE = re.compile(
    r"(?:[a-zA-Z0-9.-]+(?::[0-9]+)?/)?[a-z0-9]+(?:[._/-]+[a-z0-9]+)*(?::[A-Za-z0-9_][A-Za-z0-9_.-]{0,127})?"
)


@click.command(
    "container",
    short_help="Make a container image of the bundle, or push it to a registry.",
    epilog="""\b
Examples:
  pgbake image container                                       the manifest's bundle, into ./image
  podman pull oci:image:shop:15.18                             and from there into an engine
  pgbake image container shop --from https://cache.example.org
  pgbake image container --push registry.example.org/shop:15   through skopeo
  pgbake image container --aio                                 with the services of the manifest
  pgbake image container --dry-run                             the layers, and which are new""",
)
@click.argument("bundle", required=False, metavar="[BUNDLE|NAME]")
@from_option
@click.option(
    "--output", type=click.Path(file_okay=False, path_type=Path), metavar="DIR",
    help="OCI layout to write the image into [default: image].",
)  # fmt: skip
@click.option("--tag", metavar="NAME:TAG", help="What the image is called [default: the bundle's name and version].")
@click.option("--push", metavar="REGISTRY/NAME:TAG", help="Push the image to a registry; needs skopeo.")
@click.option("--insecure", is_flag=True, help="Push without TLS, or to a registry whose certificate nobody knows.")
@click.option(
    "--format", "form", type=click.Choice(["oci", "docker"]), default="oci", show_default=True,
    help="Form in which the image is pushed: Podman reads health checks in Docker's only.",
)  # fmt: skip
@click.option("--extension", metavar="NAME", help="Make an image of one extension, for CloudNativePG's image volumes.")
@click.option("--aio", is_flag=True, help="All in one: with the manifest's services, run by s6. Root makes it.")
@click.option("--only-cached", is_flag=True, help="Build nothing.")
@unchecked_option
@click.option("--dry-run", is_flag=True, help="Show the layers and which would be made, and write nothing.")
@json_option
@pass_app
def command(
    app: App,
    bundle: str | None,
    urls: tuple[str, ...],
    output: Path | None,
    tag: str | None,
    push: str | None,
    insecure: bool,
    form: str,
    extension: str | None,
    aio: bool,
    only_cached: bool,
    unchecked: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Make an image of a bundle that container engines run: its closure, a shell and small tools, the conventional
    paths, and an entrypoint that keeps the conventions of the official postgres image.

    BUNDLE is a store path or a link to one, NAME the name of a bundle in the caches; without either it is the bundle of
    the manifest. No container engine is needed. Each larger package is a layer of its own, so that a changed extension
    is one changed layer; equal bundles give equal images, dated 1970 or by SOURCE_DATE_EPOCH. With --push and without
    --output the image goes to the registry only; who is logged in there is skopeo's to know (`skopeo login`).
    """
    from pgbake.image.container import Container
    from pgbake.image.extension import ExtensionImage
    from pgbake.image.oci import LayerCache
    from pgbake.places import cache_dir

    if aio and extension is not None:
        raise click.UsageError("--aio and --extension exclude each other")
    for reference in (tag, push):
        _require_reference(reference)
    if push is not None:
        _require_skopeo()
    begin = time.monotonic()
    path = _bundle(app, bundle, urls, only_cached=only_cached, unchecked=unchecked, dry_run=dry_run)
    whole = Container.of(app.store, path, _epoch())
    container: Image = whole
    if aio:
        container = _all_in_one(app, whole, urls, unchecked=unchecked, dry_run=dry_run)
    elif extension is not None:
        container = ExtensionImage.of(whole, extension)
    name = tag or container.default_name
    cache = LayerCache(cache_dir() / "layers")
    with tempfile.TemporaryDirectory(prefix="pgbake-image-") as scratch:
        plans = container.layers(lambda pins: _fetch(app, pins), Path(scratch))
        if dry_run:
            _tell_plan(app, name, plans, cache.lookup, as_json)
            return
        layers = _make(app, cache, plans)
        is_kept = output is not None or push is None
        place = (output or Path("image")).absolute() if is_kept else Path(scratch, "layout")
        digest, new = _write(container, name, layers, place)
        pushed = None
        if push is not None:
            _push(app, place, name, push, insecure, form)
            pushed = push
    answer = _answer(container, name, digest, layers, place if is_kept else None, pushed, new)
    if as_json:
        app.say_json(answer)
        return
    made = [layer for layer in layers if layer.made]
    if answer["directory"] is not None:
        app.say(f"{answer['directory']}: {name}")
    if pushed is not None:
        app.say(f"pushed: {pushed}")
    app.say(digest)
    if isinstance(container, ExtensionImage):
        app.note(f"for a Cluster of CloudNativePG:\n{container.stanza(push or name)}")
    app.note(_summary(layers, made, time.monotonic() - begin))


def _bundle(
    app: App, name: str | None, urls: Sequence[str], *, only_cached: bool, unchecked: bool, dry_run: bool
) -> StorePath:
    """Return the bundle that is meant, in the store, and passed by the gate.

    :raises PgbakeError: it is to be had nowhere, or its checks have not passed.
    """
    from pgbake.cli.gate import require_checked
    from pgbake.cli.installing import meant_bundle, take_bundle
    from pgbake.errors import StoreError

    path = meant_bundle(app, app, name, urls, only_cached=only_cached, dry_run=dry_run)
    if not app.store.hold([path]):
        if dry_run:
            raise StoreError(
                f"{path} is not here, so its layers are not known", hint="run it without --dry-run, or `pgbake pull`"
            )
        take_bundle(app, app, path, urls, unchecked=unchecked)
    if not dry_run:
        require_checked(app, path, "put into an image", unchecked=unchecked)
    return path


def _all_in_one(app: App, container: Container, urls: tuple[str, ...], *, unchecked: bool, dry_run: bool) -> AllInOne:
    """Return the image with all services, after making both stages of it if need be.

    :raises PgbakeError: a stage cannot be made; in a dry run, it is not made yet.
    """
    from pgbake.cli.imaging import Making, workshop
    from pgbake.errors import StoreError
    from pgbake.image.aio import AllInOne

    making = Making(app, container.bundle, urls, unchecked=unchecked, profile="container")
    if dry_run:
        told = making.stage1.record
        stage2 = making.stage2(told) if told is not None else None
        if told is None or stage2 is None or stage2.record is None:
            stage = "stage 1" if told is None else "stage 2"
            raise StoreError(
                f"{stage} of it is not made yet, so its layers are not known", hint="run it without --dry-run"
            )
        return AllInOne(container, stage2, told, workshop(app, making.lock))
    _, told = making.make_stage1()
    stage2, tools = making.make_stage2()
    return AllInOne(container, stage2, told, tools)


def _require_reference(text: str | None) -> None:
    if text is not None and not _REFERENCE.fullmatch(text):
        raise ManifestError(
            f'"{text}" is no name of an image',
            hint="write it in small letters: shop:15, registry.example.org/db/shop:15",
        )


def _require_skopeo() -> None:
    """Refuse before anything is made.

    :raises HostError: skopeo is not installed.
    """
    import shutil

    from pgbake.run import missing_program

    if shutil.which("skopeo") is None:
        raise missing_program("skopeo")


def _epoch() -> int:
    text = os.environ.get("SOURCE_DATE_EPOCH", "1")
    if not text.isdigit():
        raise ManifestError(f"SOURCE_DATE_EPOCH is {text!r}, and no number of seconds", hint="unset it")
    return int(text)


def _fetch(app: App, pins: Mapping[str, Pin]) -> Mapping[str, Path]:
    from pgbake.image.container import base
    from pgbake.inputs.fetch import fetch
    from pgbake.inputs.mirrors import host_mirrors
    from pgbake.places import cache_dir

    if app.has_project and app.project.manifest.platform.mirrors:
        mirrors = app.project.mirrors
    else:
        mirrors = host_mirrors(base().suite, cache_dir())
    with app.reporting() as report:
        return fetch(pins, mirrors, cache_dir() / "downloads", report)


def _make(app: App, cache: Any, plans: Sequence[LayerPlan]) -> list[Layer]:
    lacking = [plan for plan in plans if cache.lookup(plan) is None]
    if lacking:
        app.note(f"making {len(lacking)} of {len(plans)} layers")
    layers: list[Layer] = cache.layers(plans)
    return layers


def _write(container: Image, name: str, layers: Sequence[Layer], place: Path) -> tuple[str, int]:
    from pgbake.image.oci import image_documents, write_layout

    configuration, manifest = image_documents(layers, container.config, container.annotations, container.created_text)
    platform = {"architecture": container.system.debian, "os": "linux"}
    written = write_layout(place, name, layers, configuration, manifest, platform)
    return written.digest, written.new


def _push(app: App, place: Path, name: str, target: str, insecure: bool, form: str) -> None:
    """Push an image of a layout; what the registry has already is not sent.

    :raises CommandError: the registry refuses; skopeo's words are the detail.
    """
    from pgbake.run import run

    options = ["--format", "oci" if form == "oci" else "v2s2", *(["--dest-tls-verify=false"] if insecure else [])]
    app.note(f"pushing to {target}")
    run(
        ["skopeo", "--insecure-policy", "copy", *options, f"oci:{place}:{name}", f"docker://{target}"],
        sandbox="host",
        hint="a registry that wants to know who you are: skopeo login REGISTRY; one without TLS: --insecure",
    )


def _answer(
    container: Image,
    name: str,
    digest: str,
    layers: Sequence[Layer],
    place: Path | None,
    pushed: str | None,
    new: int,
) -> dict[str, Any]:
    return {
        "bundle": container.annotations["pgbake.bundle"],
        "name": name,
        "digest": digest,
        "directory": str(place) if place is not None else None,
        "pushed": pushed,
        "size": sum(layer.size for layer in layers),
        "unpacked": sum(layer.unpacked for layer in layers),
        "written": new,
        "layers": [
            {
                "title": layer.title,
                "digest": f"sha256:{layer.digest}",
                "size": layer.size,
                "unpacked": layer.unpacked,
                "made": layer.made,
            }
            for layer in layers
        ],
    }


def _tell_plan(app: App, name: str, plans: Sequence[LayerPlan], lookup: Any, as_json: bool) -> None:
    known = [(plan, lookup(plan)) for plan in plans]
    if as_json:
        app.say_json(
            {
                "dry-run": True,
                "name": name,
                "layers": [
                    {"title": plan.title, "digest": f"sha256:{layer.digest}" if layer else None, "made": layer is None}
                    for plan, layer in known
                ],
            }
        )
        return
    for plan, layer in known:
        app.say(f"{'make' if layer is None else 'keep'}  {plan.title}")
    app.note(f"would make {sum(layer is None for _, layer in known)} of {len(known)} layers of {name}")


def _summary(layers: Sequence[Layer], made: Sequence[Layer], seconds: float) -> str:
    from pgbake.quantities import human_size

    total, unpacked = sum(layer.size for layer in layers), sum(layer.unpacked for layer in layers)
    weight = f"{human_size(total)}, unpacked {human_size(unpacked)}"
    return f"{len(layers)} layers, {weight}; made {len(made)} in {seconds:.1f} s"
