"""A report as one page of HTML that loads nothing: style and script stand in it, and its policy forbids all else.

Without its script the page shows everything; the script adds sorting, filtering and the switch between light and dark.
Equal facts give equal bytes.
"""

from __future__ import annotations

import base64
import datetime
import hashlib
from collections.abc import Iterable, Sequence
from importlib import resources

import msgspec

from pgbake.quantities import human_size
from pgbake.report.changes import Change, Changes, InterfaceChange, compare
from pgbake.report.facts import CheckFacts, Facts, Part, PathFacts, StepFacts, TestFacts
from pgbake.report.markup import Markup, element, join, text
from pgbake.report.record import SIDE_ID
from pgbake.report.treemap import Rectangle, squarify

_PARTS: dict[Part, str] = {
    "postgresql": "PostgreSQL",
    "extension": "Extensions",
    "runtime": "Runtime packages",
    "bundle": "Merge, locales, support",
    "other": "Other",
}
_ORIGINS = {"source": "source", "deb": "Debian package", "contrib": "contrib"}
#: Sides of the treemap to each other, on wide and on narrow screens.
_WIDE, _NARROW = Rectangle(0, 0, 230, 100), Rectangle(0, 0, 100, 140)
#: Builds with more seconds between them are drawn apart.
_PAUSE = 1800
#: Lines of an interface's difference that are shown of one extension.
_SHOWN_OBJECTS = 400
_SECTIONS = (
    ("changes", "Changes"),
    ("extensions", "Extensions"),
    ("runtime", "Runtime"),
    ("closure", "Closure"),
    ("builds", "Builds"),
    ("checks", "Checks"),
)


def render(facts: Facts) -> str:
    """Return the page."""
    changes = compare(facts.against.side, facts.side) if facts.against else None
    style = _asset("style.css") + _map_style(facts.closure)
    script = _asset("script.js")
    policy = (
        f"default-src 'none'; style-src '{_digest(style)}'; script-src '{_digest(script)}'; "
        "base-uri 'none'; form-action 'none'"
    )
    title = f"{facts.bundle.name} · PostgreSQL {facts.bundle.postgresql}"
    head = element(
        "head",
        element("meta", charset="utf-8"),
        element("meta", http_equiv="Content-Security-Policy", content=policy),
        element("meta", name="viewport", content="width=device-width, initial-scale=1"),
        element("meta", name="color-scheme", content="light dark"),
        element("meta", name="referrer", content="no-referrer"),
        element("title", title),
        element("style", Markup(style)),
    )
    main = element(
        "main",
        _summary(facts, changes),
        _changes(facts, changes),
        _extensions(facts),
        _runtime(facts),
        _closure(facts),
        _builds(facts),
        _checks(facts),
        id="main",
        tabindex="-1",
    )
    # The one thing in the page for programs: `pgbake report --against PAGE` reads it. "<" could end the element.
    side = msgspec.json.encode(facts.side, order="sorted").decode().replace("<", "\\u003c")
    body = element(
        "body",
        element("a", "Skip to the report", class_="skip", href="#main"),
        _header(facts),
        main,
        element(
            "footer",
            element("p", "Written by ", element("code", "pgbake report"), " of what the store holds. ",
                    "All times are UTC; all sizes are those of the contents (NAR)."),
        ),
        element("script", Markup(side), type="application/json", id=SIDE_ID),
        element("script", Markup(script)),
    )  # fmt: skip
    return f"<!doctype html>\n{element('html', head, body, lang='en')}\n"


def _asset(name: str) -> str:
    return (resources.files("pgbake") / "report" / name).read_text(encoding="utf-8")


def _digest(content: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()


# --- head and summary ------------------------------------------------------------------------------


def _header(facts: Facts) -> Markup:
    bundle = facts.bundle
    links = [element("li", element("a", title, href=f"#{name}")) for name, title in _SECTIONS]
    return element(
        "header",
        element(
            "div",
            element(
                "div",
                element("p", "Bundle report", class_="kicker"),
                element("h1", bundle.name),
                element("p", f"PostgreSQL {bundle.postgresql} on Debian {bundle.platform}, {bundle.system}",
                        class_="subtitle"),
            ),
            element("button", "Dark", type="button", id="theme", hidden=True),
            class_="top",
        ),
        element("nav", element("ul", *links), aria_label="Sections"),
    )  # fmt: skip


def _summary(facts: Facts, changes: Changes | None) -> Markup:
    bundle = facts.bundle
    cards = [
        _card("PostgreSQL", bundle.postgresql, f"Debian {bundle.platform}, {bundle.system}", "extensions"),
        _extension_card(facts),
        _size_card(facts),
        _checks_card(facts),
        _changes_card(changes),
    ]
    origin = "built on this machine" if bundle.built_here else "taken from a cache or an archive"
    rows: list[tuple[str, Markup | str]] = [
        ("Store path", element("code", bundle.path)),
        ("NAR hash", element("code", bundle.nar_hash)),
        ("In this store", f"since {_when(bundle.registered)} UTC, {origin}"),
        ("Signed by", ", ".join(bundle.signatures) or "nobody"),
        ("Statements", _statements(facts)),
        ("Preloaded", _codes(bundle.preload) if bundle.preload else "nothing"),
    ]
    if bundle.settings:
        rows.append(("Settings", _codes(f"{key} = {value}" for key, value in bundle.settings.items())))
    rows.append(("Locales", ", ".join(bundle.locales)))
    rows.append(("Collations", ", ".join(f"{name} {version}" for name, version in bundle.collations.items())))
    if bundle.kernel:
        rows.append(("Oldest kernel", f"Linux {bundle.kernel}"))
    return element(
        "section",
        element("h2", "At a glance", id="h-summary"),
        element("ul", *cards, class_="cards"),
        element("dl", *(element("div", element("dt", name), element("dd", value)) for name, value in rows)),
        aria_labelledby="h-summary",
        id="summary",
    )


def _card(label: str, value: Markup | str, note: Markup | str, section: str, class_: str | None = None) -> Markup:
    return element(
        "li",
        element(
            "a",
            element("span", label, class_="label"),
            element("span", value, class_="value"),
            element("span", note, class_="note"),
            href=f"#{section}",
        ),
        class_=class_,
    )


def _extension_card(facts: Facts) -> Markup:
    contrib = sum(item.origin == "contrib" for item in facts.extensions)
    debs = sum(item.origin == "deb" for item in facts.extensions)
    built = len(facts.extensions) - contrib - debs
    parts = [f"{built} built from source" if built else "", f"{debs} of Debian" if debs else "", f"{contrib} contrib"]
    return _card("Extensions", str(len(facts.extensions)), ", ".join(part for part in parts if part), "extensions")


def _size_card(facts: Facts) -> Markup:
    note: Markup | str = f"in {len(facts.closure)} store paths"
    over = facts.budget is not None and facts.size > facts.budget
    if facts.budget is not None:
        note = join(
            f"{_percent(facts.size, facts.budget)} of the budget of {human_size(facts.budget)}",
            _bar(0, min(1.0, facts.size / facts.budget), "meter"),
        )
    return _card("Closure", human_size(facts.size), note, "closure", "bad" if over else None)


def _checks_card(facts: Facts) -> Markup:
    passed = sum(check.state == "passed" for check in facts.checks)
    failed = sum(check.state == "failed" for check in facts.checks)
    open_ = len(facts.checks) - passed - failed
    if failed:
        value = f"{failed} failed"
    elif not passed:
        value = "not run"
    else:
        value = f"{passed} passed"
    parts = [f"{passed} passed" if failed else "", f"{open_} not run" if open_ and passed else ""]
    note = ", ".join(part for part in parts if part) or f"of {len(facts.checks)}"
    return _card("Checks", value, note, "checks", "bad" if failed else "good" if passed and not open_ else None)


def _changes_card(changes: Changes | None) -> Markup:
    if changes is None:
        return _card("Changes", "none known", "nothing to compare with", "changes")
    versions = changes.versions
    objects = sum(len(item.added) + len(item.removed) for item in changes.interface or ())
    note = f"{_signed_size(changes.after_size - changes.before_size)}"
    if changes.interface is not None:
        note += f", {_count(objects, 'SQL object')}"
    return _card("Changes", _count(len(versions), "version") if versions else "same versions", note, "changes")


def _statements(facts: Facts) -> str:
    if not facts.bundle.statements:
        return "none"
    return "; ".join(
        f"{item.kind}{f' {item.result}' if item.result else ''}, by {', '.join(item.signers) or 'nobody'}"
        for item in facts.bundle.statements
    )


# --- changes ---------------------------------------------------------------------------------------


def _changes(facts: Facts, changes: Changes | None) -> Markup:
    if facts.against is None or changes is None:
        body = element(
            "p", "No earlier bundle of this project is known. ", element("code", "pgbake report --against"),
            " compares with any bundle of the store, or with an earlier report.", class_="empty",
        )  # fmt: skip
        return _section("changes", "Changes", body)
    side = facts.against.side
    intro = element("p", f"Compared with {facts.against.why}: ", element("code", side.path), ".", class_="lead")
    difference = changes.after_size - changes.before_size
    size = element(
        "p", "The closure is ", element("strong", human_size(changes.after_size)), f", {_signed_size(difference)} ",
        f"({human_size(changes.before_size)} before).",
    )  # fmt: skip
    if side.path == facts.side.path:
        return _section("changes", "Changes", element("p", "That is this bundle itself.", class_="empty"))
    return _section(
        "changes",
        "Changes",
        intro,
        size,
        element("h3", "Versions"),
        _version_table(changes.versions)
        if changes.versions
        else element("p", "All versions are the same.", class_="empty"),
        _grown(changes),
        element("h3", "SQL interface"),
        _interface(facts, changes),
    )


def _version_table(versions: Sequence[tuple[str, Change]]) -> Markup:
    rows = [
        element(
            "tr",
            _row_header(change.name),
            _cell(kind),
            element("td", element("span", change.word, class_=f"badge {change.word}")),
            _cell(change.before or "–", class_="version"),
            _cell(change.after or "–", class_="version"),
        )
        for kind, change in versions
    ]
    return _table("Versions that changed", ["Name", "What", "Change", "Before", "Now"], rows, "Filter changes")


def _grown(changes: Changes) -> Markup | None:
    if not changes.grown:
        return None
    rows = [element("tr", _row_header(name), _number(_signed_size(size), size)) for name, size in changes.grown]
    table = _table("What grew and shrank", ["Package", "#Difference"], rows)
    return join(element("h3", "Size"), table if len(rows) <= 12 else _details(_count(len(rows), "package"), table))


def _interface(facts: Facts, changes: Changes) -> Markup:
    if changes.interface is None:
        whose = "this bundle" if facts.side.interface is None else "the bundle before"
        return element(
            "p", f"The interface of {whose} is not known here: its check ", element("code", "interface/all"),
            " has not passed in this store.", class_="empty",
        )  # fmt: skip
    count = sum(len(lines) for lines in (facts.side.interface or {}).values())
    if not changes.interface:
        return element("p", f"All {count} SQL objects are the same.", class_="empty")
    return join(*(_interface_change(change) for change in changes.interface))


def _interface_change(change: InterfaceChange) -> Markup:
    versions = (
        change.after or change.before or ""
        if change.before == change.after
        else f"{change.before or 'new'} → {change.after or 'gone'}"
    )
    summary = join(
        element("strong", change.extension), f" {versions} ",
        element("span", f"+{len(change.added)}", class_="plus"), " ",
        element("span", f"−{len(change.removed)}", class_="minus"),
    )  # fmt: skip
    lines = [element("li", element("del", line)) for line in change.removed]
    lines += [element("li", element("ins", line)) for line in change.added]
    more = len(lines) - _SHOWN_OBJECTS
    note = element("p", f"{more} more are left out here.", class_="empty") if more > 0 else None
    body = (
        element("ul", *lines[:_SHOWN_OBJECTS], class_="diff") if lines else element("p", "No object.", class_="empty")
    )
    return _details(summary, join(body, note), open_=len(lines) <= 40)


# --- contents --------------------------------------------------------------------------------------


def _extensions(facts: Facts) -> Markup:
    rows = []
    for item in facts.extensions:
        tags = [element("span", "trusted", class_="tag")] if item.trusted else []
        notes = f"needs {', '.join(item.requires)}" if item.requires else None
        rows.append(
            element(
                "tr",
                _row_header(item.name),
                _cell(item.version, class_="version"),
                element("td", item.summary, *tags, element("small", notes) if notes else None, class_="summary"),
                _cell(_ORIGINS.get(item.origin, item.origin)),
                _cell(item.licence),
                element("td", "preloaded" if item.preload else Markup('<span class="none">no</span>')),
                _number(human_size(item.size) if item.size is not None else "–", item.size or 0),
                data_kind=item.origin,
            )
        )
    headers = ["Name", "Version", "Summary", "Origin", "Licence", "Preload", "#Size"]
    own = [item for item in facts.packages if item.name != "postgresql"]
    kinds = _kinds(item.origin for item in facts.extensions)
    return _section(
        "extensions",
        "Extensions",
        element("p", "What CREATE EXTENSION finds. Contrib is part of PostgreSQL; the size of others is that of the "
                "package that brings them.", class_="lead"),
        _table("Extensions", headers, rows, "Filter extensions", kinds=kinds),
        element("h3", "Packages"),
        _table(
            "Packages and their sources",
            ["Package", "Version", "Licence", "Source", "#Size"],
            [
                element(
                    "tr",
                    _row_header(item.name),
                    _cell(item.version, class_="version"),
                    _cell(item.licence),
                    element("td", item.source, element("small", element("code", f"sha256 {item.sha256[:16]}…"))),
                    _number(human_size(item.size) if item.size is not None else "–", item.size or 0),
                )
                for item in (*(p for p in facts.packages if p.name == "postgresql"), *own)
            ],
        ),
    )  # fmt: skip


def _kinds(origins: Iterable[str]) -> list[tuple[str, str]]:
    found = set(origins)
    kinds = [(origin, words) for origin, words in _ORIGINS.items() if origin in found]
    return kinds if len(kinds) > 1 else []


def _runtime(facts: Facts) -> Markup:
    rows = [
        element(
            "tr",
            _row_header(item.name),
            _cell(item.version, class_="version"),
            _number(human_size(item.size) if item.size is not None else "–", item.size or 0),
            element("td", element("code", f"{item.sha256[:16]}…"), title=item.sha256),
        )
        for item in facts.runtime
    ]
    lead = element(
        "p", f"Debian {facts.bundle.platform}'s packages that the bundle brings along, so that it uses none of the "
        "machine's. Each has its licence in the bundle, as ", element("code", "share/doc/NAME/copyright"), ".",
        class_="lead",
    )  # fmt: skip
    return _section(
        "runtime", "Runtime packages", lead,
        _table("Runtime packages", ["Package", "Version", "#Size", "sha256 of the package"], rows, "Filter packages"),
    )  # fmt: skip


# --- closure ---------------------------------------------------------------------------------------


def _groups(closure: Sequence[PathFacts]) -> list[tuple[Part, list[tuple[int, PathFacts]]]]:
    """Return the closure's paths by parts, each with its number, the largest part first."""
    groups: list[tuple[Part, list[tuple[int, PathFacts]]]] = [
        (part, [(number, item) for number, item in enumerate(closure) if item.part == part]) for part in _PARTS
    ]
    return sorted((g for g in groups if g[1]), key=lambda group: -sum(item.size for _, item in group[1]))


def _places(closure: Sequence[PathFacts], whole: Rectangle) -> dict[int, Rectangle]:
    """Return where each path of the closure is drawn: its part of the bundle together."""
    groups = _groups(closure)
    areas = squarify([sum(item.size for _, item in group) for _, group in groups], whole)
    return {
        number: place
        for (_, group), area in zip(groups, areas, strict=True)
        for (number, _), place in zip(group, squarify([item.size for _, item in group], area), strict=True)
    }


def _map_style(closure: Sequence[PathFacts]) -> str:
    """Return the rules that place the treemap. They are part of the one style that the page's policy allows."""

    def rules(whole: Rectangle) -> str:
        return "".join(
            f".m{number}{{left:{place.x / whole.width:.4%};top:{place.y / whole.height:.4%};"
            f"width:{place.width / whole.width:.4%};height:{place.height / whole.height:.4%}}}"
            for number, place in sorted(_places(closure, whole).items())
        )

    return f"{rules(_WIDE)}@media (max-width:40rem){{{rules(_NARROW)}}}\n"


def _closure(facts: Facts) -> Markup:
    total = facts.size
    budget = ""
    if facts.budget is not None:
        left = facts.budget - total
        verdict = "are left" if left >= 0 else "too much"
        budget = f" The budget is {human_size(facts.budget)}: {human_size(abs(left))} {verdict}."
    groups = _groups(facts.closure)
    legend = [
        element(
            "li", element("span", class_=f"swatch part-{part}"), f"{_PARTS[part]} ",
            element("span", f"{human_size(sum(item.size for _, item in group))}", class_="soft"),
        )
        for part, group in groups
    ]  # fmt: skip
    cells = [
        element(
            "li",
            element(
                "a",
                element("span", element("b", _short(item.name)), element("i", human_size(item.size)), class_="clip"),
                href=f"#p{number}",
                aria_label=f"{_short(item.name)} {human_size(item.size)}, {_percent(item.size, total)}, {_PARTS[part]}",
                title=f"{item.name}, {human_size(item.size)}, {_percent(item.size, total)}",
            ),
            class_=f"m{number} part-{part}",
        )
        for part, group in groups
        for number, item in group
    ]
    rows = [
        element(
            "tr",
            element("th", item.name, element("small", element("code", item.path)), scope="row", data_sort=item.name),
            _cell(_PARTS[item.part]),
            _number(human_size(item.size), item.size),
            _number(_percent(item.size, total), item.size),
            _number(human_size(item.alone), item.alone),
            element("td", _brought_by(item), class_="by"),
            id=f"p{number}",
        )
        for number, item in enumerate(facts.closure)
    ]
    return _section(
        "closure",
        "Closure",
        element("p", f"All that the bundle needs: {human_size(total)} in {len(facts.closure)} store paths.{budget}",
                class_="lead"),
        element("p", element("a", "Skip the map", class_="skip inline", href="#closure-table"), class_="anchor"),
        element("ul", *legend, class_="legend", aria_label="Parts of the bundle"),
        element("ul", *cells, class_="map", aria_label="Map of the closure: areas are sizes; each leads to its row"),
        element("p", Markup("&nbsp;"), class_="soft status", id="map-status", aria_hidden="true"),
        element("h3", "The same as a table", id="closure-table", tabindex="-1"),
        element("p", "“Alone” is what would go if nothing referred to the path: itself, and what only it brings.",
                class_="lead"),
        _table("Paths of the closure", ["Path", "Part", "#Size", "#Share", "#Alone", "Brought by"], rows,
               "Filter paths"),
    )  # fmt: skip


def _short(name: str) -> str:
    """Return a path's name as the map has room for it: without its version, or PostgreSQL's."""
    words = name.split("-")
    if len(words) > 2 and words[0] == "postgresql" and words[1].isdigit():
        words = words[2:]
    for number, word in enumerate(words[1:], 1):
        if word[:1].isdigit() and words[0] != "postgresql":
            return "-".join(words[:number])
    return "-".join(words)


def _brought_by(item: PathFacts) -> str:
    names = [_short(name) for name in item.brought_by]
    more = f" and {len(names) - 4} more" if len(names) > 4 else ""
    return ", ".join(names[:4]) + more


# --- builds ----------------------------------------------------------------------------------------


def _builds(facts: Facts) -> Markup:
    lead = element(
        "p",
        "When each package came into this store. A build's begin is the birth of its log's file, where the file system "
        "tells it, and its end is the last write to that log; the store's database has the time of registration. "
        "What was taken from a cache or an archive was not built here, and has that time only.",
        class_="lead",
    )
    taken = sum(step.how == "taken" for step in facts.timeline)
    count = f"{len(facts.timeline) - taken} built on this machine, {taken} taken from a cache or an archive."
    if facts.absent:
        count += f" Not in this store, since nothing here needed them: {_count(facts.absent, 'package')}."
    spans = _spans(facts.timeline)
    charts = [_span(span, number, len(spans)) for number, span in enumerate(spans, 1)]
    return _section("builds", "Builds", lead, element("p", count), *charts)


def _spans(timeline: Sequence[StepFacts]) -> list[list[StepFacts]]:
    """Return the steps in groups between which nothing was done for long."""
    spans: list[list[StepFacts]] = []
    end = 0.0
    for step in sorted(timeline, key=lambda step: (_begin(step), step.name)):
        if not spans or _begin(step) - end > _PAUSE:
            spans.append([])
        spans[-1].append(step)
        end = max(end, _end(step))
    return spans


def _begin(step: StepFacts) -> float:
    return step.begun if step.begun is not None else _end(step)


def _end(step: StepFacts) -> float:
    return step.ended if step.ended is not None else float(step.registered)


def _span(steps: Sequence[StepFacts], number: int, of: int) -> Markup:
    first, last = min(map(_begin, steps)), max(map(_end, steps))
    length = max(last - first, 1.0)
    title = _when(first) + (f", {_duration(last - first)}" if last - first >= 1 else "")
    rows = []
    for step in steps:
        start, stop = (_begin(step) - first) / length, (_end(step) - first) / length
        known = step.begun is not None
        took = _duration(step.ended - step.begun) if step.ended is not None and step.begun is not None else "–"
        bar = _bar(start, stop, f"span {step.how}") if known else _mark(stop, step.how)
        rows.append(
            element(
                "tr",
                _row_header(step.name),
                element("td", element("span", "built here" if step.how == "built" else "from a cache",
                                      class_=f"badge {step.how}")),
                _cell(_clock(step.begun) if step.begun is not None else "not known"),
                _cell(_clock(_end(step))),
                _number(took, int((step.ended or 0) - (step.begun or 0)) if known else 0),
                element("td", bar, class_="chart"),
            )
        )  # fmt: skip
    word = f"Builds, {number} of {of}" if of > 1 else "Builds"
    headers = ["Package", "How", "Begun", "Done", "#Took", "Chart"]
    return join(element("h3", title), _table(f"{word}: {title}", headers, rows, plain=True))


def _bar(start: float, stop: float, class_: str) -> Markup:
    """Draw a bar from one part of the width to another. SVG, since the page's policy forbids style attributes."""
    width = max(stop - start, 0.006)
    start = min(start, 1 - width)
    rect = element("rect", x=f"{start * 1000:.1f}", y=0, width=f"{width * 1000:.1f}", height=10, rx=3)
    whole = element("rect", class_="track", x=0, y=0, width=1000, height=10)
    return element(
        "svg", whole, rect, class_=f"bar {class_}", viewBox="0 0 1000 10", preserveAspectRatio="none",
        aria_hidden="true", focusable="false",
    )  # fmt: skip


def _mark(at: float, how: str) -> Markup:
    return _bar(at - 0.004, at + 0.004, f"mark {how}")


# --- checks ----------------------------------------------------------------------------------------


def _checks(facts: Facts) -> Markup:
    if not facts.checks:
        return _section("checks", "Checks", element("p", "This bundle has no checks.", class_="empty"))
    groups = (
        ("failed", "Failed", [check for check in facts.checks if check.state == "failed"]),
        ("passed", "Passed", [check for check in facts.checks if check.state == "passed"]),
        ("open", "Not run", [check for check in facts.checks if check.state == "open"]),
    )
    lead = element(
        "p",
        "What the store knows of each check of exactly this bundle. What has passed is kept, and not run again; "
        "seconds and logs are those of the last run on this machine.",
        class_="lead",
    )
    parts: list[Markup] = [lead]
    for state, title, checks in groups:
        if not checks:
            continue
        parts.append(element("h3", f"{title} ({len(checks)})"))
        if state == "open":
            items = [element("li", element("code", check.name)) for check in checks]
            parts.append(element("ul", *items, class_="plain"))
        else:
            parts += [_check(check) for check in checks]
    return _section("checks", "Checks", *parts)


def _check(check: CheckFacts) -> Markup:
    counts = {word: sum(test.outcome == word for test in check.tests) for word in ("failed", "skipped", "passed")}
    words = ", ".join(f"{count} {word}" for word, count in counts.items() if count)
    summary = join(
        element("span", check.state, class_=f"badge {check.state}"), " ",
        element("strong", check.name), " ",
        element("span", words or "no results", class_="soft"), " ",
        element("span", f"{check.seconds:.1f} s" if check.seconds is not None else "", class_="soft time"),
    )  # fmt: skip
    table = (
        _table(
            f"Tests of {check.name}", ["Test", "Outcome", "#Time"], [_test(test) for test in check.tests], plain=True
        )
        if check.tests
        else element("p", "It ended without any result; its log tells more.", class_="empty")
    )
    return _details(summary, join(table, _log(check)), open_=check.state == "failed")


def _test(test: TestFacts) -> Markup:
    detail = _details("Detail", _pre(test.detail, f"Detail of {test.test}")) if test.detail else None
    return element(
        "tr",
        element("th", test.test, element("small", test.reason) if test.reason else None, detail, scope="row"),
        element("td", element("span", test.outcome, class_=f"badge {test.outcome}")),
        _number(f"{test.seconds:.2f} s" if test.seconds is not None else "–", 0),
    )


def _log(check: CheckFacts) -> Markup:
    if not check.log:
        return element("p", "There is no log of its run on this machine.", class_="empty")
    lines = check.log.count("\n") + 1
    note = (
        element(
            "p", f"The log is long: {check.left_out} lines from its middle are left out. The whole: ",
            element("code", f"pgbake log 'check {check.name}'"), class_="empty",
        )
        if check.left_out
        else None
    )  # fmt: skip
    return _details(f"Log, {_count(lines, 'line')}", join(note, _pre(check.log, f"Log of {check.name}")))


# --- pieces ----------------------------------------------------------------------------------------


def _section(name: str, title: str, *children: Markup | None) -> Markup:
    return element(
        "section", element("h2", title, id=f"h-{name}"), *children, id=name, aria_labelledby=f"h-{name}", tabindex="-1"
    )


def _table(
    caption: str,
    headers: Sequence[str],
    rows: Sequence[Markup],
    filter_label: str | None = None,
    kinds: Sequence[tuple[str, str]] = (),
    plain: bool = False,
) -> Markup:
    """Return a table in a place that scrolls by itself, also by the keyboard.

    :param headers: ``#`` in front marks a column of numbers.
    :param filter_label: gives it a field that filters its rows, once the script runs.
    :param kinds: values of ``data-kind`` to choose from, with their words.
    :param plain: it is not to be sorted.
    """
    cells = [
        element("th", header.removeprefix("#"), scope="col", class_="number" if header.startswith("#") else None)
        for header in headers
    ]
    table = element(
        "table",
        element("caption", caption, class_="hidden"),
        element("thead", element("tr", *cells)),
        element("tbody", *rows),
        class_=None if plain else "sortable",
        data_filter=filter_label,
        data_kinds=";".join(f"{kind}={words}" for kind, words in kinds) or None,
    )
    return element("div", table, class_="scroll", role="group", aria_label=caption, tabindex="0")


def _row_header(name: str) -> Markup:
    return element("th", name, scope="row")


def _cell(value: str, class_: str | None = None) -> Markup:
    return element("td", value, class_=class_)


def _number(value: str, sort: int) -> Markup:
    return element("td", value, class_="number", data_sort=sort)


def _details(summary: Markup | str, body: Markup, open_: bool = False) -> Markup:
    return element("details", element("summary", summary), body, open=open_)


def _pre(content: str, label: str) -> Markup:
    return element("pre", content, tabindex="0", role="group", aria_label=label)


def _codes(words: Iterable[str]) -> Markup:
    codes = [element("code", word) for word in words]
    return Markup(str(text(", ")).join(codes))


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"


def _percent(part: int, whole: int) -> str:
    value = 100 * part / whole if whole else 0.0
    if 0 < value < 0.05:
        return "< 0.1 %"
    return f"{value:.0f} %" if value >= 9.95 else f"{value:.1f} %"


def _signed_size(difference: int) -> str:
    if not difference:
        return "no change in size"
    return f"{human_size(abs(difference))} {'more' if difference > 0 else 'less'}"


def _moment(seconds: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC)


def _when(seconds: float) -> str:
    return f"{_moment(seconds):%Y-%m-%d %H:%M}"


def _clock(seconds: float) -> str:
    return f"{_moment(seconds):%H:%M:%S}"


def _duration(seconds: float) -> str:
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
