"""The language that tasks are spoken in: tokens, bins, grammars, prompts and answers. No tensors beyond ids."""
