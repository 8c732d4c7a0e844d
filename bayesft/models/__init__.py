"""The networks of the study, and dropout that fits onto any network."""

from bayesft.models.dropout import Site, dropout, find_sites
from bayesft.models.networks import NETWORKS, build

__all__ = ["NETWORKS", "Site", "build", "dropout", "find_sites"]
