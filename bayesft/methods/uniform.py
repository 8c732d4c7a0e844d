"""Control: the same dropout rate at every site, without a search.

The paper does not have this control, so its gain can't be told from that of dropout as such.
"""

from collections.abc import Mapping
from typing import Annotated, Any

from pydantic import Field

from bayesft.methods.method import Hyperparameter, Look, Method
from bayesft.training import Problem

Rate = Annotated[float, Field(ge=0, lt=1)]


class Uniform(Method):
    """Dropout of one rate."""

    title = "uniform dropout"
    look = Look("#56b4e9", "-.", "P")

    class Settings(Method.Settings):
        """rate: the dropout rate of every site."""

        rate: Rate = 0.5

    def hyperparameters(self, problem: Problem) -> tuple[Hyperparameter, ...]:
        """The one rate, between the problem's bounds."""
        return (Hyperparameter("rate", *problem.bounds),)

    def rates(self, problem: Problem, values: Mapping[str, Any]) -> tuple[float, ...]:
        """The same rate at every site."""
        return (values["rate"],) * len(problem.sites)


METHOD = Uniform()
