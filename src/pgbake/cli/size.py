"""``pgbake size``: what the bundle weighs, and who brings it."""

from __future__ import annotations

import click

from pgbake.cli.app import App, json_option, pass_app
from pgbake.cli.quantities import SIZE
from pgbake.errors import PgbakeError
from pgbake.quantities import human_size


@click.command(
    "size",
    short_help="Show what the bundle weighs, and who brings it.",
    epilog="""\b
Examples:
  pgbake size
  pgbake size --top 10
  pgbake size --max 200MB          fail where the closure is larger, as a budget in CI""",
)
@click.option("--top", type=click.IntRange(1), help="Show only the largest N paths.")
@click.option("--max", "maximum", type=SIZE, help="Fail if the closure is larger: 200MB, 1.5GB.")
@json_option
@pass_app
def command(app: App, top: int | None, maximum: int | None, as_json: bool) -> None:
    """Show the size of the bundle's closure: each store path that the bundle needs, and why it is there.

    Sizes are those of the NAR: what the path holds, not what blocks it takes. "alone" is what would go if
    nothing referred to the path: its own size and that of all that only it brings.

    Without --max, the budget is `max_closure` of the manifest, which is shown; only --max makes this command fail.
    """
    from pgbake.cli.goals import require_built
    from pgbake.store.closure import closure_sizes

    bundle = require_built(app)
    sizes = closure_sizes(app.store, bundle.path)
    total = sum(item.size for item in sizes)
    budget = maximum or app.project.manifest.closure_budget
    if as_json:
        app.say_json(
            {
                "path": str(bundle.path),
                "closure": total,
                "budget": budget,
                "paths": [
                    {
                        "path": str(item.path),
                        "size": item.size,
                        "alone": item.alone,
                        "brought-by": [str(path) for path in item.brought_by],
                    }
                    for item in sizes
                ],
            }
        )
    else:
        of = f" of {human_size(budget)}" if budget else ""
        app.say(f"{human_size(total)}{of} in {len(sizes)} paths: {bundle.path}")
        app.say(f"{'size':>9}  {'alone':>9}  path, and who brings it")
        for item in sizes[:top]:
            brought = ", ".join(path.name for path in item.brought_by[:3])
            more = f" and {len(item.brought_by) - 3} more" if len(item.brought_by) > 3 else ""
            by = f"  <- {brought}{more}" if brought else ""
            app.say(f"{human_size(item.size):>9}  {human_size(item.alone):>9}  {item.path.name}{by}")
    if maximum is not None and total > maximum:
        raise PgbakeError(
            f"the closure is {human_size(total)}, more than {human_size(maximum)}",
            hint="the list above names the largest paths; `pgbake why NAME` shows who needs one",
        )
