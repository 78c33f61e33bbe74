"""One HTML file that shows an evaluation: tables, plots, pictures; nothing in it is loaded from elsewhere.

    write(outcomes, Header(model=..., details=..., command=...), path)

The bytes of the file depend on the arguments and the photos alone, so two runs can be compared by ``cmp``.
"""

from florence2.evaluation.report.page import Header, write

__all__ = ["Header", "write"]
