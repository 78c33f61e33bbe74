"""How long everything takes: stages and whole calls of a model, beside a peer and beside the limit of the machine.

    stages.py    what is timed of ours          peer.py      the same work in transformers' native port
    cold.py      a process from its start       limits.py    what the machine could do at best
    timing.py    taking turns, medians          tables.py    for people, for Markdown, for programs
    drift.py     what rounding costs in accuracy              random_weights.py    models of a true size

A figure is a median of rounds in which the sides take turns, so that noise of the machine meets both. Nothing is
imported here: a fresh process is timed from its start.
"""
