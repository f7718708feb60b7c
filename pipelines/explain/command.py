"""`queryloop explain`: one user's story on the terminal, as JSON, as one HTML page."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from pipelines.json_output import JsonOption, print_json
from pipelines.night_options import NightOption, WarehouseOption


def explain(
    warehouse: WarehouseOption,
    user: Annotated[str, typer.Option(help="the user's id, or its name in the imported log")],
    date: NightOption = None,
    html: Annotated[Path | None, typer.Option(help="HTML page to write")] = None,
    json: JsonOption = False,
) -> None:
    """Say why a user sees what they see: interests, rewards, chances, draws, feed.

    Example: queryloop explain --warehouse W --user 17 --html user.html
    """
    from pipelines.explain.story import story_of  # what a completion of options can do without
    from pipelines.explain.terminal import show_story
    from pipelines.store.warehouse import Warehouse
    from pipelines.summary import wide_console

    story = story_of(Warehouse.open(warehouse), user, date)
    if json:
        print_json(story)
    else:
        show_story(wide_console(), story)
    if html is not None:
        from pipelines.explain.page import story_page  # drawing takes half a second to import
        from pipelines.pages.report import render_report
        from pipelines.progress import told

        with told() as note:
            note("draw the page")
            html.write_text(render_report(story_page(story, warehouse)), encoding="utf-8")
        typer.echo(f"wrote {html}", err=json)
