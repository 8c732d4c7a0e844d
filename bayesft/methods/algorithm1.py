"""Algorithm 1 of BayesFT as published: α and θ are optimised alternately, and the best trial's weights are the result.

A trial goes on from the weights of the last one, so later trials have trained longer.
"""

from bayesft.methods.bayesft import BayesFT
from bayesft.methods.method import Look


class Algorithm1(BayesFT):
    """The search of BayesFT with inherited weights and without a final training."""

    title = "BayesFT, Algorithm 1"
    look = Look("#7a2300", "--", "h")
    search = {"weights": "inherit"}
    final_training = False


METHOD = Algorithm1()
