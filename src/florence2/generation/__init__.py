"""Decoding: greedy, beams and sampling, under the grammar of a task."""

from florence2.generation.policy import policy_for
from florence2.generation.rows import Generated
from florence2.generation.search import generate

__all__ = ["generate", "Generated", "policy_for"]
