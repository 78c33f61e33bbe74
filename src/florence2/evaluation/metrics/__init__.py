"""The field's metrics as plain functions over plain values, one file per family; numpy, never PyTorch.

Every function gives what the field's reference implementation gives, which its docstring names. The order of the
inputs never changes a figure: sums are exact (``math.fsum``) and ties are broken by content.
"""
