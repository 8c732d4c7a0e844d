"""The progress bar of the front door: in a terminal, and in a notebook with or without ipywidgets."""

import warnings

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # without ipywidgets it is a line of text, which needs no warning
    from tqdm.auto import tqdm

__all__ = ["tqdm"]
