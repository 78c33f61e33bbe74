"""Later."""


def score() -> None: ...
