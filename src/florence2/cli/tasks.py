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

    table = Table("task", "takes", "gives", "what it is", box=None, pad_edge=False)
    for column in table.columns[:3]:
        column.no_wrap = True
    for task in TASKS.values():
        takes = {"nothing": "", "text": "--text", "boxes": "--box", "labels": "--labels"}[task.takes]
        name = "\n  ".join([escape(task.name), *map(escape, task.aliases)])
        table.add_row(name, takes, task.result.__name__, escape(task.summary))
    Console().print(table)
    typer.echo("\nThe indented names mean the same; what takes --labels takes --text too. Detections are boxes")
    typer.echo("with labels, Segments polygons, TextRegions words with quads, Text is a string.")
