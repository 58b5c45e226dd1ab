"""The page of a served cache: its bundles, and what to write where to use them. It loads nothing from elsewhere."""

from __future__ import annotations

import datetime
import re
from html import escape

from pgbake.cache.inventory import Bundle, Inventory, bundles
from pgbake.cache.roots import is_bundle_name
from pgbake.formats.storepath import StorePath

_STYLE = """
:root { color-scheme: light dark; --ink: #1d2733; --soft: #5d6b7a; --line: #dfe4ea; --back: #fff; --field: #f4f6f8;
  --accent: #336791; --bad: #b3261e; }
@media (prefers-color-scheme: dark) { :root { --ink: #e3e8ee; --soft: #97a4b2; --line: #303b47; --back: #14191f;
  --field: #1c232b; --accent: #7fb0d8; --bad: #f2847c; } }
* { box-sizing: border-box }
body { margin: 0; background: var(--back); color: var(--ink);
  font: 16px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", sans-serif }
main { max-width: 60rem; margin: 0 auto; padding: 2.5rem 1.25rem 4rem }
h1 { font-size: 1.6rem; margin: 0 0 .2rem; letter-spacing: -.01em }
h2 { font-size: 1.1rem; margin: 2.4rem 0 .6rem }
p { margin: .4rem 0 } .soft { color: var(--soft) } .bad { color: var(--bad) }
code, pre { font: .86rem/1.5 ui-monospace, "SFMono-Regular", Menlo, Consolas, monospace }
pre { background: var(--field); border: 1px solid var(--line); border-radius: 6px; padding: .8rem 1rem;
  overflow-x: auto }
.scroll { overflow-x: auto } table { border-collapse: collapse; width: 100% }
th { text-align: left; font-weight: 600; font-size: .85rem; color: var(--soft) }
th, td { padding: .55rem .9rem .55rem 0; border-bottom: 1px solid var(--line); vertical-align: top }
.number { text-align: right; white-space: nowrap; font-variant-numeric: tabular-nums }
td .path { display: block; color: var(--soft); font-size: .78rem; overflow-wrap: anywhere }
td:first-child { min-width: 17rem } .name { font-weight: 600 } .nowrap, th { white-space: nowrap }
"""

_POSTGRESQL = re.compile(r"(.+)-postgresql-([0-9.]+)")


def render(found: Inventory, url: str, now: float) -> str:
    """Return the page.

    :param url: of the cache, for the lines to copy.
    :param now: Unix seconds.
    """
    listed = bundles(found)
    listed = [bundle for bundle in listed if is_bundle_name(bundle.path.name)] + [
        bundle for bundle in listed if not is_bundle_name(bundle.path.name)
    ]
    signers = sorted({signature.name for info in found.infos.values() for signature in info.signatures})
    size = sum(found.nars.values())
    rows = "\n".join(_row(found, bundle, now) for bundle in listed)
    table = (
        '<div class="scroll"><table><thead><tr><th>Bundle</th><th>PostgreSQL</th><th>System</th>'
        '<th class="number">To fetch</th><th class="number">Unpacked</th><th>Pushed</th><th>Signed by</th></tr></thead>'
        f"<tbody>\n{rows}\n</tbody></table></div>"
        if listed
        else '<p class="soft">There is none yet: <code>pgbake push</code> brings one.</p>'
    )
    title = "pgbake · binary cache"
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>{_STYLE}</style></head><body><main>
<h1>Binary cache</h1>
<p class="soft">{len(found.infos)} store paths, {_size(size)}. Any Nix can use it, and so can pgbake.</p>
<h2>Bundles</h2>
{table}
<h2>In a manifest</h2>
<p>Add this to <code>pgbake.toml</code>, then run <code>pgbake pull</code> or <code>pgbake up</code>.</p>
<pre>{_manifest(url, signers)}</pre>
<h2>With Nix</h2>
<p>Stock Nix takes a bundle as any other store path.</p>
<pre>{_nix(url, signers, listed)}</pre>
<p class="soft">{_key_note(signers)}</p>
</main></body></html>
"""


def _row(found: Inventory, bundle: Bundle, now: float) -> str:
    members, missing = found.closure([bundle.path])
    info = found.infos.get(bundle.path)
    match = _POSTGRESQL.fullmatch(bundle.path.name)
    name, version = (match[1], match[2]) if match else (bundle.path.name, "")
    signers = ", ".join(signature.name for signature in info.signatures) if info else ""
    signed = escape(signers) or ("content-addressed" if info and info.certifies_itself else "nobody")
    if missing:
        signed += f'<br><span class="bad">{len(missing)} paths are missing</span>'
    sizes = [
        sum(found.infos[path].file_size or 0 for path in members),
        sum(found.infos[path].nar_size for path in members),
    ]
    numbers = "".join(f'<td class="number">{_size(size)}</td>' for size in sizes)
    build = ' <span class="soft">with all that builds it</span>' if "build" in bundle.what else ""
    return (
        f'<tr><td><span class="name">{escape(name)}</span>{build}'
        f'<code class="path">{escape(str(bundle.path))}</code></td>'
        f"<td>{escape(version)}</td><td class='nowrap'>{escape(bundle.system or '')}</td>{numbers}"
        f"<td class='nowrap'>{_when(bundle.pushed, now)}</td><td>{signed}</td></tr>"
    )


def _manifest(url: str, signers: list[str]) -> str:
    keys = ", ".join(f'"{name}:..."' for name in signers)
    trust = f"\n[trust]\nkeys = [{keys}]\n" if signers else ""
    return escape(f'[[cache]]\nurl = "{url}"\n{trust}', quote=False)


def _nix(url: str, signers: list[str], listed: list[Bundle]) -> str:
    path = str(listed[0].path if listed else StorePath("0" * 32, "NAME-postgresql-VERSION"))
    keys = " ".join(f"{name}:..." for name in signers)
    trusted = f" \\\n    --option trusted-public-keys '{keys}'" if signers else ""
    return escape(f"nix-store -r {path} \\\n    --option extra-substituters {url}{trusted}", quote=False)


def _key_note(signers: list[str]) -> str:
    if not signers:
        return "Nothing here is signed: whoever takes it has to trust the server and the way to it."
    names = ", ".join(f"<code>{escape(name)}</code>" for name in signers)
    return (
        f"The dots stand for the public key of {names}. Ask its owner for it: a key that the cache itself told would "
        "prove nothing. <code>pgbake keygen --public FILE</code> shows it to whoever has the secret one."
    )


def _size(size: int) -> str:
    value = float(size)
    for unit in ("B", "kB", "MB"):
        if value < 999.5:
            return f"{value:.0f}&nbsp;{unit}"
        value /= 1000
    return f"{value:.1f}&nbsp;GB"


def _when(modified: float | None, now: float) -> str:
    if modified is None:
        return ""
    date = datetime.datetime.fromtimestamp(modified, datetime.UTC)
    days = int((now - modified) // 86_400)
    ago = "today" if days < 1 else "yesterday" if days < 2 else f"{days} days ago"
    return f'<time datetime="{date.isoformat(timespec="seconds")}" title="{date:%Y-%m-%d %H:%M} UTC">{ago}</time>'
