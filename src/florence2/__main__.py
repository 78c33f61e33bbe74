"""``python -m florence2``: the command line."""

from florence2.cli import main

main()
