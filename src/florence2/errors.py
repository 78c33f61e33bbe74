"""One family of exceptions. Each message names what was found, what was expected and what to do.

All of them derive from :class:`Florence2Error`, so ``except Florence2Error`` catches every mistake that
this library can explain. Where a built-in exception says the same (a wrong value, a missing file), the child
derives from it as well, so code written against the built-in keeps working.
"""

from __future__ import annotations


class Florence2Error(Exception):
    """Base of every error that the library raises on purpose."""

    def to_dict(self) -> dict[str, str]:
        """``{"type": ..., "message": ...}``: how an error is written in JSON, everywhere."""
        return {"type": type(self).__name__, "message": str(self)}


class ImageError(Florence2Error, ValueError):
    """The photo cannot be read: not an image, cut off, empty, too large."""


class TaskError(Florence2Error, ValueError):
    """The task is unknown, or its text, boxes or labels are missing or do not belong to it."""


class BoxError(TaskError):
    """A box is inverted, empty, outside the photo, not finite or not four numbers."""


class AnswerError(Florence2Error, ValueError):
    """A stored answer misses a field or has an unknown one, or its labels do not fit the categories asked for."""


class DataError(Florence2Error, ValueError):
    """Training data cannot be read or written: a broken file, an unknown format, an entry without what it needs."""


class ConfigError(Florence2Error, ValueError):
    """A configuration contradicts itself or names a field that does not exist."""


class CheckpointError(Florence2Error, ValueError):
    """A checkpoint misses a file or a tensor, has one too many, or one of the wrong shape."""


class TokenizerError(Florence2Error, ValueError):
    """The tokenizer files are missing, or do not carry the tokens that Florence-2 needs."""


class MissingDependencyError(Florence2Error, ImportError):
    """An optional library is needed; the message holds the command that installs it."""
