"""Florence-2: one vision model, every task is a prompt in and text out.

    from florence2 import Florence2
    model = Florence2.from_pretrained()
    print(model.caption("photo.jpg").text)

Names are imported when they are first used, so that ``import florence2`` costs nothing and loads no PyTorch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

if TYPE_CHECKING:
    from florence2.batches import ErrorRecord as ErrorRecord
    from florence2.checkpoints.load import load as load
    from florence2.checkpoints.save import save as save
    from florence2.config import BASE as BASE
    from florence2.config import LARGE as LARGE
    from florence2.config import NANO as NANO
    from florence2.config import DecodingPolicy as DecodingPolicy
    from florence2.config import Florence2Config as Florence2Config
    from florence2.drawing import draw as draw
    from florence2.engine import Scene as Scene
    from florence2.errors import AnswerError as AnswerError
    from florence2.errors import BoxError as BoxError
    from florence2.errors import CheckpointError as CheckpointError
    from florence2.errors import ConfigError as ConfigError
    from florence2.errors import DataError as DataError
    from florence2.errors import Florence2Error as Florence2Error
    from florence2.errors import ImageError as ImageError
    from florence2.errors import MissingDependencyError as MissingDependencyError
    from florence2.errors import TaskError as TaskError
    from florence2.errors import TokenizerError as TokenizerError
    from florence2.language.tasks import Task as Task
    from florence2.language.tasks import register as register
    from florence2.pipeline import Florence2 as Florence2
    from florence2.results import Answer as Answer
    from florence2.results import Detections as Detections
    from florence2.results import Instance as Instance
    from florence2.results import Object as Object
    from florence2.results import Raw as Raw
    from florence2.results import Segments as Segments
    from florence2.results import Text as Text
    from florence2.results import TextRegion as TextRegion
    from florence2.results import TextRegions as TextRegions

_HOMES = {
    "pipeline": ["Florence2"],
    "engine": ["Scene"],
    "batches": ["ErrorRecord"],
    "results": ["Answer", "Text", "Detections", "Segments", "TextRegions", "Object", "Instance", "TextRegion", "Raw"],
    "errors": [
        *["Florence2Error", "ImageError", "TaskError", "BoxError", "ConfigError", "CheckpointError"],
        *["TokenizerError", "AnswerError", "DataError", "MissingDependencyError"],
    ],
    "language.tasks": ["Task", "register"],
    "checkpoints": ["load", "save"],
    "config": ["Florence2Config", "DecodingPolicy", "NANO", "BASE", "LARGE"],
    "drawing": ["draw"],
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *_HOME_OF]


def __getattr__(name: str) -> Any:
    if name not in _HOME_OF:
        raise AttributeError(f"module 'florence2' has no attribute {name!r}; it offers {', '.join(_HOME_OF)}")
    value = getattr(importlib.import_module(f"florence2.{_HOME_OF[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
