"""``florence2 run``: the contract of its options, its JSON, its files and its exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from florence2 import Answer, Florence2
from florence2.language.tasks import TASKS
from tests.cli.conftest import Run, documents


def test_json_has_the_promised_shape(call: Run, photos: Path, tiny_folder: Path) -> None:
    result = call("run", "photos/a.png", "--task", "caption", "-t", "<OD>", "--model", tiny_folder, "--json")
    assert result.exit_code == 0
    (document,) = documents(result)
    assert list(document) == ["image", "width", "height", "model", "results"]
    assert (document["image"], document["width"], document["height"]) == ("photos/a.png", 90, 60)
    assert document["model"] == "tiny"
    assert list(document["results"]) == ["<CAPTION>", "<OD>"]
    with Florence2.from_pretrained(tiny_folder) as model:
        for task, values in document["results"].items():
            assert "raw" not in values
            assert Answer.from_dict(values) == model.run("photos/a.png", task)


def test_raw_holds_the_ids_of_the_decoder(call: Run, photos: Path, tiny_folder: Path) -> None:
    result = call("run", "photos/a.png", "--task", "od", "--model", tiny_folder, "--json", "--raw")
    raw = documents(result)[0]["results"]["<OD>"]["raw"]
    assert raw["token_ids"][:2] == [2, 0]
    assert isinstance(raw["text"], str)
    with Florence2.from_pretrained(tiny_folder) as model:
        assert raw["text"] == model.tokenizer.decode(raw["token_ids"])


def test_all_runs_every_task(call: Run, photos: Path, tiny_folder: Path) -> None:
    result = call("run", "photos/a.png", "--all", "--model", tiny_folder, "--json", "--beams", 1)
    assert result.exit_code == 0, result.stderr
    (document,) = documents(result)
    assert list(document["results"]) == list(TASKS)


def test_all_takes_what_is_given(call: Run, photos: Path, tiny_folder: Path) -> None:
    arguments = ["--model", tiny_folder, "--json", "--raw", "--beams", 1, "--text", "a dog", "--box", "5,5,40,40"]
    (everything,) = documents(call("run", "photos/a.png", "--all", *arguments))
    with Florence2.from_pretrained(tiny_folder) as model:
        ground = model.ground("photos/a.png", "a dog", num_beams=1, raw=True).raw
        named = model.classify("photos/a.png", (5, 5, 40, 40), num_beams=1, raw=True).raw
    assert ground is not None
    assert named is not None
    results = everything["results"]
    assert results["<CAPTION_TO_PHRASE_GROUNDING>"]["raw"]["token_ids"] == list(ground.token_ids)
    assert results["<REGION_TO_CATEGORY>"]["raw"]["token_ids"] == list(named.token_ids)


def test_without_tasks_captions_and_objects(call: Run, photos: Path, tiny_folder: Path) -> None:
    (document,) = documents(call("run", "photos/a.png", "--model", tiny_folder, "--json"))
    assert list(document["results"]) == ["<CAPTION>", "<OD>"]
    result = call("run", "photos/a.png", "--labels", "dog, red car", "--model", tiny_folder, "--json")
    (document,) = documents(result)
    assert list(document["results"]) == ["<OPEN_VOCABULARY_DETECTION>"]
    assert {o["label"] for o in document["results"]["<OPEN_VOCABULARY_DETECTION>"]["objects"]} <= {"dog", "red car"}


def test_several_boxes_give_a_list(call: Run, photos: Path, tiny_folder: Path) -> None:
    arguments = ["run", "photos/a.png", "-t", "classify", "--model", tiny_folder, "--json", "--box", "5,5,40,40"]
    one = documents(call(*arguments))[0]["results"]["<REGION_TO_CATEGORY>"]
    two = documents(call(*arguments, "--box", "0,0,90,60"))[0]["results"]["<REGION_TO_CATEGORY>"]
    assert isinstance(one, dict)
    assert [type(answer) for answer in two] == [dict, dict]


def test_files_folders_and_globs_each_photo_once(call: Run, photos: Path, tiny_folder: Path) -> None:
    arguments = ["-t", "caption", "--model", tiny_folder, "--json", "--max-new-tokens", 4]
    result = call("run", "photos/b.jpg", "photos", "photos/**/*.png", *arguments)
    assert result.exit_code == 0
    found = [Path(document["image"]).as_posix() for document in documents(result)]
    assert found == ["photos/b.jpg", "photos/a.png", "photos/deep/c.png"]


def test_a_broken_photo_costs_nobody_else(call: Run, photos: Path, tiny_folder: Path) -> None:
    (photos / "broken.jpg").write_bytes((photos / "b.jpg").read_bytes()[:200])
    result = call("run", "photos", "gone.png", "-t", "caption", "--model", tiny_folder, "--json", "-o", "out")
    assert result.exit_code == 1
    by_name = {Path(document["image"]).name: document for document in documents(result)}
    assert set(by_name) == {"a.png", "b.jpg", "broken.jpg", "c.png", "gone.png"}
    for name in ("broken.jpg", "gone.png"):
        assert list(by_name[name]) == ["image", "error"]
        assert by_name[name]["error"]["type"] == "ImageError"
        assert by_name[name]["error"]["message"]
    assert "results" in by_name["b.jpg"]
    assert json.loads(Path("out/broken.json").read_text()) == by_name["broken.jpg"]
    assert "2 of 5" in result.stderr


def test_output_folder_holds_pictures_and_json(call: Run, photos: Path, tiny_folder: Path) -> None:
    (photos / "deep" / "a.png").write_bytes((photos / "deep" / "c.png").read_bytes())
    arguments = ["-t", "caption", "-t", "od", "-t", "classify", "--box", "5,5,40,40", "--box", "0,0,50,50"]
    result = call("run", "photos", *arguments, "--model", tiny_folder, "--beams", 1, "--json", "-o", "out/new")
    assert result.exit_code == 0, result.stderr
    names = {path.name for path in Path("out/new").iterdir()}
    answers = {"caption.png", "od.png", "region_to_category.1.png", "region_to_category.2.png", "json"}
    stems = {"a", "b", "c", "a-2"}  # two photos are called a
    assert names == {f"{stem}.{answer}" for stem in stems for answer in answers}
    stored = [json.loads(Path(f"out/new/{stem}.json").read_text()) for stem in ("a", "b", "a-2", "c")]
    assert stored == documents(result)
    with Image.open("out/new/a.od.png") as drawn:
        assert min(drawn.size) > 0


def test_people_get_lines(call: Run, photos: Path, tiny_folder: Path) -> None:
    result = call("run", "photos/a.png", "photos/gone.png", "--model", tiny_folder)
    assert result.exit_code == 1
    assert "photos/a.png\n" in result.stdout
    assert "<CAPTION>" in result.stdout
    assert "photos/gone.png does not exist" in result.stdout


def test_options_reach_the_model(call: Run, photos: Path, tiny_folder: Path) -> None:
    def ids(*options: object) -> list[int]:
        result = call("run", "photos/a.png", "-t", "od", "--model", tiny_folder, "--json", "--raw", *options)
        assert result.exit_code == 0, result.stderr
        ids: list[int] = documents(result)[0]["results"]["<OD>"]["raw"]["token_ids"]
        return ids

    plain = ids()
    assert len(ids("--max-new-tokens", 7)) <= 8 < len(plain)
    assert ids("--reference") != plain
    assert ids("--beams", 3) != plain
    assert ids("--device", "cpu", "--dtype", "float32") == plain
    result = call("run", "photos/a.png", "-t", "od", "--model", tiny_folder, "--json", "--min-score", 1)
    assert documents(result)[0]["results"]["<OD>"]["objects"] == []


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["photos/a.png", "--task", "detekt"], "did you mean"),
        (["photos/a.png", "--task", "ground"], "needs a text"),
        (["photos/a.png", "--task", "classify"], "needs a box"),
        (["photos/a.png", "--task", "caption", "--text", "a dog"], "takes --text"),
        (["photos/a.png", "--task", "caption", "--box", "1,2,3,4"], "takes --box"),
        (["photos/a.png", "--task", "classify", "--box", "1,2,3"], "found 3 numbers"),
        (["photos/a.png", "--task", "classify", "--box", "a,b,c,d"], "four numbers"),
        (["photos/a.png", "--task", "classify", "--box", "9,9,3,3"], "inverted"),
        (["photos/a.png", "--task", "classify", "--box", "nan,9,30,30"], "NaN"),
        (["photos/a.png", "--task", "caption", "--labels", "a,b"], "--labels goes with"),
        (["photos/a.png", "--labels", ","], "labels is empty"),
        (["photos/a.png", "--all", "--task", "od"], "leave --task out"),
        (["photos/*.gif"], "no file matches"),
        (["empty"], "holds no photos"),
        (["photos/a.png", "--model", "no/such/model/here"], "no file or folder"),
        (["photos/a.png", "--device", "abacus"], "abacus"),
        (["photos/a.png", "--dtype", "int3"], "int3"),
    ],
)
def test_mistakes_end_in_one_paragraph(
    call: Run, photos: Path, tiny_folder: Path, arguments: list[str], says: str
) -> None:
    Path("empty").mkdir()
    model = [] if "--model" in arguments else ["--model", tiny_folder]
    result = call("run", *arguments, *model)
    assert result.exit_code == 2
    assert result.stdout == ""
    assert says in result.stderr
    assert result.stderr.startswith("florence2: ")
    assert "Traceback" not in result.stderr


def test_a_box_outside_one_photo_is_that_photos_error(call: Run, photos: Path, tiny_folder: Path) -> None:
    result = call("run", "photos", "-t", "classify", "--box", "0,0,85,50", "--model", tiny_folder, "--json")
    assert result.exit_code == 1
    errors = [document.get("error") for document in documents(result)]
    assert [error and error["type"] for error in errors] == [None, "BoxError", None]
    assert "60 x 80" in errors[1]["message"]
