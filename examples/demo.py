"""Every task on every demo photo with the embedded model: pictures, JSON, a contact sheet and a page to look at.

    python examples/demo.py --output out/demo

Needs no network and no GPU. ``--photos`` and ``--model`` take other photos and other checkpoints.
"""

from __future__ import annotations

import argparse
import html
import json
import time
from pathlib import Path

from rich.console import Console
from rich.progress import track
from rich.table import Table

from florence2 import Answer, Florence2
from florence2.cli.common import expand
from florence2.cli.run import Wish, document_of
from florence2.drawing import contact_sheet

SHEET = ("<CAPTION>", "<OD>", "<CAPTION_TO_PHRASE_GROUNDING>", "<REGION_TO_SEGMENTATION>")
"""The tasks of the contact sheet, one column each."""

STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 80rem; margin: 2rem auto; padding: 0 1rem; color: #1c1c1e }
section { display: grid; grid-template-columns: repeat(auto-fill, minmax(18rem, 1fr)); gap: 1.5rem 1rem }
figure { margin: 0 } img { width: 100%; border-radius: 6px } figcaption { font-size: .85rem; overflow-wrap: anywhere }
code { color: #0072b2 } h2 { margin: 3rem 0 1rem }
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, default=Path("out/demo"), help="folder to write (default: out/demo)")
    parser.add_argument("--photos", default=str(Path(__file__).parent / "photos"), help="a folder, a file or a glob")
    parser.add_argument("--model", help="folder or hub id (default: the embedded model)")
    arguments = parser.parse_args()
    output: Path = arguments.output
    output.mkdir(parents=True, exist_ok=True)
    console = Console()

    started = time.perf_counter()
    model = Florence2.from_pretrained(arguments.model)
    console.print(f"{model!r}, loaded in {time.perf_counter() - started:.1f} s")

    every_task = Wish([], every=True, text=None, boxes=[], labels=None)
    table = Table("photo", "caption", "objects", "seconds", title="What the model sees")
    panels, sections = [], []
    for photo in track(expand([arguments.photos]), "every task on every photo", console=console, transient=True):
        begun = time.perf_counter()
        scene = model.encode(photo)  # once; all tasks read the same image tokens
        answers: dict[str, Answer] = every_task.answers(model, scene, {})
        seconds = time.perf_counter() - begun

        stem = Path(photo).stem
        figures = []
        for task, answer in answers.items():
            picture = answer.draw()
            name = f"{stem}.{task.strip('<>').lower()}.png"
            picture.save(output / name)
            figures.append(figure(name, task, answer))
            if task in SHEET:
                panels.append((f"{stem}: {task.strip('<>').lower()}", picture))
        document = document_of(Path(photo).name, scene, model.name, answers)
        text = json.dumps(document, indent=1, ensure_ascii=False)
        (output / f"{stem}.json").write_text(text + "\n", encoding="utf-8")
        sections.append(f"<h2>{html.escape(Path(photo).name)}</h2>\n<section>\n{''.join(figures)}</section>\n")
        objects = ", ".join(dict.fromkeys(getattr(answers["<OD>"], "labels", []))) or "none"
        table.add_row(stem, str(answers["<CAPTION>"]), objects, f"{seconds:.1f}")

    contact_sheet(panels, columns=len(SHEET)).save(output / "sheet.png")
    write_page(output / "index.html", model.name, sections)
    console.print(table)
    console.print(f"{len(sections)} photos, {time.perf_counter() - started:.0f} s in all. Look at:")
    for name in ("index.html", "sheet.png"):
        console.print(f"  {(output / name).resolve()}", soft_wrap=True)


def figure(name: str, task: str, answer: Answer) -> str:
    """One picture of the page with its task and what was answered."""
    said = html.escape(str(answer)).replace("\n", "<br>") or "(nothing)"
    link = f'<a href="{html.escape(name)}"><img loading="lazy" src="{html.escape(name)}" alt=""></a>'
    return f"<figure>{link}<figcaption><code>{html.escape(task)}</code> {said}</figcaption></figure>\n"


def write_page(path: Path, model: str, sections: list[str]) -> None:
    head = f'<!doctype html><html lang="en"><meta charset="utf-8"><title>florence2 demo</title><style>{STYLE}</style>'
    intro = (
        f"<h1>Every task, every photo</h1><p>Answers of {html.escape(model)}. Tasks that need a text or a box got the "
        "caption and the first detection of the same photo. The JSON files hold the same answers.</p>"
    )
    path.write_text(f"{head}\n{intro}\n{''.join(sections)}</html>\n", encoding="utf-8")


if __name__ == "__main__":
    main()
