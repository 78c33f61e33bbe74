"""Prompts of Microsoft's processor, refusals included, and their ids."""

from __future__ import annotations

import dataclasses

from florence2.errors import TaskError
from florence2.language import tasks
from florence2.language.tokenizer import Tokenizer
from tests.golden.microsoft import CARRIED, Case, disagreeing, read


def prompt_or_message(text: str) -> dict[str, str]:
    try:
        return {"prompt": tasks.microsoft_prompt(text)}
    except TaskError as error:
        return {"message": str(error)}


def agrees(case: Case) -> bool:
    return prompt_or_message(case["text"]).items() <= case.items()


def test_carried_cases():
    assert disagreeing(CARRIED["prompts"], agrees) == []


def test_275_cases(golden):
    values = read(golden, "microsoft_prompts")
    cases = [case for case in values["cases"] if "text" in case]
    batches = [case for case in values["cases"] if "batch" in case]
    assert len(values["cases"]) == 275
    assert disagreeing(cases, agrees) == []
    tokenizer = Tokenizer.load(golden / "tokenizer")
    for case in cases:
        if "prompt" in case:
            assert tokenizer.encode_prompt(case["prompt"]) == case["input_ids"]
    for case in batches:
        assert [tasks.microsoft_prompt(text) for text in case["batch"]] == case["prompts"]
        for prompt, ids, mask in zip(case["prompts"], case["input_ids"], case["attention_mask"], strict=True):
            assert tokenizer.encode_prompt(prompt) == ids[: sum(mask)]


def test_the_templates_are_microsofts(golden):
    values = read(golden, "microsoft_prompts")
    for name, template in {**values["without_input"], **values["with_input"]}.items():
        assert tasks.get(name).prompt == template
        assert (tasks.get(name).takes == "nothing") == (name in values["without_input"])


def test_planted_fault_one_full_stop_too_many(monkeypatch):
    changed = dict(tasks._tasks)
    task = changed["<REFERRING_EXPRESSION_SEGMENTATION>"]
    changed[task.name] = dataclasses.replace(task, prompt=task.prompt + ".")
    monkeypatch.setattr(tasks, "_tasks", changed)
    assert disagreeing(CARRIED["prompts"], agrees)
