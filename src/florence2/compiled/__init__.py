"""The model behind ``torch.compile``: all of it with recorded graphs, or a CPU's steps of few rows as one kernel."""

from florence2.compiled.kernel import StepKernel
from florence2.compiled.marks import failures, no_coincidences
from florence2.compiled.model import CompiledModel

__all__ = ["CompiledModel", "StepKernel", "failures", "no_coincidences"]
