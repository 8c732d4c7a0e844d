"""Empirical risk minimisation: cross entropy on clean data, nothing else. The baseline of every figure.

A task's network is built without dropout, also where the literature ships it with some.
"""

from bayesft.methods.method import Look, Method


class Erm(Method):
    """Plain training."""

    title = "ERM"
    look = Look("#949494", "-", "o")
    detects = True


METHOD = Erm()
