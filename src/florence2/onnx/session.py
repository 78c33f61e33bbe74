"""One ONNX file in onnxruntime: named tensors in, named tensors out, its names checked when it is loaded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from florence2.errors import CheckpointError, ConfigError
from florence2.onnx.libraries import library

TYPES = {
    "tensor(float)": torch.float32,
    "tensor(float16)": torch.float16,
    "tensor(int64)": torch.int64,
    "tensor(int32)": torch.int32,
    "tensor(bool)": torch.bool,
}
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}
"""Kind of device → what onnxruntime calls its part for it."""


class Session:
    """``needs``: inputs that the graph must have. ``gives``: outputs that it must have. ``takes``: all inputs that can
    be given to it; one beyond them could not be filled.

    Raises CheckpointError where the file is missing or broken, or has other names.
    """

    def __init__(
        self, path: Path, device: str, needs: Iterable[str], gives: Iterable[str], takes: Iterable[str] = ()
    ) -> None:
        self.path = path
        self._session = _open(path, device)
        self.inputs = {value.name: TYPES.get(value.type) for value in self._session.get_inputs()}
        self.shapes = {value.name: value.shape for value in self._session.get_inputs()}
        self.outputs = [value.name for value in self._session.get_outputs()]
        needs, gives = list(needs), list(gives)
        _check_names(path, "inputs", list(self.inputs), needs, {*needs, *takes})
        _check_names(path, "outputs", self.outputs, gives, None)
        if strange := [name for name, dtype in self.inputs.items() if dtype is None]:
            raise CheckpointError(
                f"{path}: the input {strange[0]} is of a type that no Florence-2 takes; export it again"
            )

    @property
    def metadata(self) -> dict[str, str]:
        found: dict[str, str] = self._session.get_modelmeta().custom_metadata_map
        return found

    def run(self, given: Mapping[str, Tensor], wanted: list[str]) -> list[Tensor]:
        """The ``wanted`` outputs, in their order, on the CPU; floating point as float32. ``given`` may hold more than
        the graph takes."""
        feeds = {
            name: given[name].to("cpu", dtype).contiguous().numpy()
            for name, dtype in self.inputs.items()
            if dtype is not None
        }
        try:
            values = self._session.run(wanted, feeds)
        except Exception as error:  # onnxruntime has a class of its own per kind of failure
            raise CheckpointError(
                f"{self.path} failed ({_first_line(error)}); its sizes may not be those of config.json: take both from "
                "one export"
            ) from error
        found = (torch.from_numpy(value) for value in values)
        return [tensor.float() if tensor.is_floating_point() else tensor for tensor in found]


def _open(path: Path, device: str) -> Any:
    ort = library("onnxruntime")
    provider, present = PROVIDERS[device], ort.get_available_providers()
    if provider not in present:
        raise ConfigError(
            f"device {device!r} was asked for, and this onnxruntime has {', '.join(present)}, not {provider}; use cpu, "
            "or install onnxruntime-gpu in its place"
        )
    options = ort.SessionOptions()
    options.intra_op_num_threads = torch.get_num_threads()
    options.log_severity_level = 3  # errors: the rest is about how it optimises
    # int8 products that cannot overflow on processors without VNNI; the others do not have the problem.
    options.add_session_config_entry("session.x64quantprecision", "1")
    try:
        return ort.InferenceSession(str(path), options, providers=[provider])
    except Exception as error:  # onnxruntime has a class of its own per kind of failure
        raise CheckpointError(
            f"{path} cannot be opened by onnxruntime {ort.__version__} ({_first_line(error)}); copy the file "
            "again, with the .onnx_data beside it where there is one, or export the model again"
        ) from error


def _check_names(path: Path, what: str, found: list[str], needed: list[str], known: set[str] | None) -> None:
    missing = [name for name in needed if name not in found]
    unknown = [] if known is None else [name for name in found if name not in known]
    if missing or unknown:
        wrong = [f"no {name}" for name in missing[:1]] + [f"an unknown {name}" for name in unknown[:1]]
        raise CheckpointError(
            f"{path} has {' and '.join(wrong)} among its {what}: found {_some(found)}; expected {_some(needed)}. It is "
            "no part of a Florence-2 export as optimum and transformers.js name them, or of another size than "
            "config.json says; export the model again (florence2 export)"
        )


def _first_line(error: Exception) -> str:
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def _some(names: list[str], most: int = 5) -> str:
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")
