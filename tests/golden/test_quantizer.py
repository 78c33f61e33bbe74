"""Bins and pixels of the reference, to the last bit of float32."""

from __future__ import annotations

from florence2.language import quantizer
from florence2.language.quantizer import dequantize, quantize
from tests.golden.microsoft import CARRIED, Case, disagreeing, read


def flat(points):
    return [v for point in points for v in (point if isinstance(point, list) else [point])]


def agrees(case: Case) -> bool:
    bins, size = flat(case["bins"]), case["size"]
    if "input" in case and quantize(flat(case["input"]), size) != bins:
        return False
    return dequantize(bins, size) == flat(case["dequantised"])


def test_carried_cases():
    assert disagreeing(CARRIED["quantise"], agrees) == []


def test_317_cases(golden):
    cases = read(golden, "microsoft_quantise")["cases"]
    assert len(cases) == 317
    assert disagreeing(cases, agrees) == []


def test_planted_fault_double_precision(monkeypatch):
    monkeypatch.setattr(quantizer, "_float32", lambda value: value)
    assert disagreeing(CARRIED["quantise"], agrees)


def test_planted_fault_x_and_y_exchanged():
    turned = [{**case, "size": case["size"][::-1]} for case in CARRIED["quantise"]]
    assert len(disagreeing(turned, agrees)) > 20
