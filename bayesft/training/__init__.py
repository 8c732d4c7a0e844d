"""Training: one loop for every method, what a method is given, and what a training leaves behind."""

from bayesft.training.checkpoint import Checkpoint
from bayesft.training.loop import Diverged, Gradient, Loss, accuracy, fit, plain_gradient
from bayesft.training.trained import Problem, Trained

__all__ = ["Checkpoint", "Diverged", "Gradient", "Loss", "Problem", "Trained", "accuracy", "fit", "plain_gradient"]
