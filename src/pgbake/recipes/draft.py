"""Drafting a recipe from what was seen of the sources."""

from __future__ import annotations

import json

from pgbake.recipes.survey import UNKNOWN_LICENCE, Survey


def draft(survey: Survey, *, url: str | None = None, path: str | None = None) -> str:
    """Return the text of a recipe for sources at a URL or in a directory.

    :param url: of the tarball; where it names the version, other versions can be had by the manifest's ``version``.
    :param path: of the directory, relative to that of the recipe, or absolute.
    """
    lines = ["# Drafted by `pgbake add` from what the sources say; nothing of them was run. Assumed:"]
    lines += [f"# - {sentence}" for sentence in survey.assumed]
    lines += [
        f"name = {_text(survey.name)}",
        f"summary = {_text(survey.summary)}",
        f"licence = {_text(survey.licence)}" + ("  # not known" if survey.licence == UNKNOWN_LICENCE else ""),
    ]
    if survey.homepage:
        lines.append(f"homepage = {_text(survey.homepage)}")
    lines.append(f"builder = {_text(survey.builder)}")
    if url is not None:
        template = url.replace(survey.version, "{version}") if len(survey.version) > 1 else url
        lines.append(f"source = {{ url = {_text(template)}, version = {_text(survey.version)} }}")
    else:
        lines.append(f"source = {{ path = {_text(path or '')}, version = {_text(survey.version)} }}")
    if survey.directory:
        lines.append(f"directory = {_text(survey.directory)}")
    if survey.packages:
        lines.append(f"build = [{', '.join(map(_text, survey.packages))}]")
    if survey.preload:
        lines.append(f"preload = [{', '.join(map(_text, survey.preload))}]")
    return "\n".join(lines) + "\n"


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")  # a basic string of TOML is one of JSON's
