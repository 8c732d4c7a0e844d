"""Random search of BayesFT's rates: the control of the same budget. The paper does not have it."""

from bayesft.methods.bayesft import BayesFT
from bayesft.methods.method import Look


class RandomSearch(BayesFT):
    """BayesFT's search with random proposals in place of the surrogate's."""

    title = "random search"
    look = Look("#0173b2", ":", "X")
    search = {"strategy": "random"}
    detects = False


METHOD = RandomSearch()
