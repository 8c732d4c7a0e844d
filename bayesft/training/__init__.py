"""Training: one loop for every method, the methods themselves, and what a training leaves behind.

Each method is a module with a function `train(task, ...)`, whose docstring cites its source and says where it
departs from it. To add a method, write such a module and name it in the stage that runs it. A method with numbers that
can be tuned also has a function `tunable(...)`, which declares them.
"""

from bayesft.training.checkpoint import Checkpoint
from bayesft.training.loop import Diverged, accuracy, fit
from bayesft.training.trained import Problem, Trained

__all__ = ["Checkpoint", "Diverged", "Problem", "Trained", "accuracy", "fit"]
