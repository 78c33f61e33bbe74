"""``florence2 tasks``: the table of tasks."""

from __future__ import annotations

import typer


def tasks() -> None:
    """List the tasks, what they take and what they give.

    A task is called by its token or by any of its names: --task '<OD>', --task OD and --task detect are the same.
    """
    from rich.console import Console
    from rich.markup import escape
    from rich.table import Table

    from florence2.language.tasks import TASKS

    table = Table(box=None, pad_edge=False)
    for heading in ("task", "names", "takes", "gives", "what it is"):
        table.add_column(heading, overflow="fold")
    for task in TASKS.values():
        names = ", ".join(dict.fromkeys((*task.aliases, task.name.strip("<>").lower())))
        takes = {"nothing": "", "text": "--text", "boxes": "--box", "labels": "--labels or --text"}[task.takes]
        table.add_row(escape(task.name), escape(names), takes, task.result.__name__, escape(task.summary))
    Console().print(table)
    typer.echo("\nText: a string. Detections: boxes with labels. Segments: polygons. TextRegions: words with quads.")
