"""The methods of the study, one file each.

To add a method, write a file here with a subclass of `Method` and `METHOD = YourMethod()`. The file's name is the
method's name. A line of params.yaml makes it a row of the report.
"""

from importlib import import_module
from pathlib import Path

from bayesft.methods.method import Hyperparameter, Look, Method

__all__ = ["Hyperparameter", "Look", "Method", "load", "names"]


def names() -> list[str]:
    """The names of all methods."""
    return sorted(file.stem for file in Path(__file__).parent.glob("*.py") if file.stem not in ("__init__", "method"))


def load(name: str) -> Method:
    """The method called `name`. Only its own file is imported.

    Raises:
        ValueError: There is no such method.
    """
    if name not in names():
        raise ValueError(f"method = {name!r}: must be one of {', '.join(names())}")
    return import_module(f"bayesft.methods.{name}").METHOD
