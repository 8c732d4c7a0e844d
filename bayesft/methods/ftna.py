"""FTNA, a fault-tolerant network architecture (Liu et al., DAC 2019): an error-correcting code in place of softmax.

The last layer has L sigmoid outputs, trained to the codeword of the class; the prediction is the nearest codeword.
The codewords come from a BCH code of large distance, and classes that a trained ERM network confuses get codewords
far apart. Departures from the authors of BayesFT: the confusions are counted on *validation* data (theirs come from
the test data), and the code is long enough (their 7 bits hold at most 16 words, too few for 43 classes). Left out of
the paper of 2019: the collaborative logistic classifier that it trains beside the code, and its variable-length,
decode-free scheme. So this is its code alone.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from bayesft.data import Split
from bayesft.methods.method import Look, Method
from bayesft.seeds import derive_seed
from bayesft.training import Problem, Trained, fit

# Binary BCH codes (Lin and Costello, Error Control Coding, appendix B): bits, information bits, generator polynomial
# (octal), minimum distance.
BCH_CODES = ((15, 5, 0o2467, 7), (31, 6, 0o313365047, 15))


def codewords(classes: int) -> np.ndarray:
    """All words of the shortest code that has one for every class: (words, L) of 0 and 1, uint8.

    L = 15 with distance 7 for up to 32 classes, L = 31 with distance 15 for up to 64.

    Raises:
        ValueError: There are more classes.
    """
    for bits, information, generator, _ in BCH_CODES:
        if classes <= 2**information:
            words = np.zeros((2**information, bits), np.uint8)
            for message in range(2**information):
                product = 0  # message(x) · generator(x) over GF(2)
                for power in range(information):
                    if message >> power & 1:
                        product ^= generator << power
                words[message] = [product >> bit & 1 for bit in range(bits)]
            return words
    raise ValueError(f"{classes} classes: the longest code has {2 ** BCH_CODES[-1][1]} words")


def assign_codewords(confusions: np.ndarray, seed: int, restarts: int = 8) -> np.ndarray:
    """A codebook that puts confused classes far apart.

    It maximises Σ confusions · distance by exchanging one word at a time, from several random starts.

    Args:
        confusions: Counts (C, C): row = class, column = prediction.
        seed: The seed of the starts.
        restarts: The number of starts.

    Returns:
        The codebook, (C, L) of 0 and 1, uint8.

    Raises:
        ValueError: There are more classes than words.
    """
    classes = len(confusions)
    words = codewords(classes)
    weight = confusions + confusions.T + 1.0  # the 1 keeps classes apart that were never confused
    np.fill_diagonal(weight, 0)
    signs = 2.0 * words - 1
    distance = (words.shape[1] - signs @ signs.T) / 2  # (words, words)
    random = np.random.default_rng(seed)
    best, best_value = words[:classes], -np.inf
    for _ in range(restarts):
        chosen = random.permutation(len(words))  # the first C are in use, in the order of the classes
        value, improved = _spread(distance, weight, chosen, classes), True
        while improved:
            improved = False
            for i in range(classes):
                for j in range(i + 1, len(words)):
                    chosen[[i, j]] = chosen[[j, i]]
                    exchanged = _spread(distance, weight, chosen, classes)
                    if exchanged > value + 1e-9:
                        value, improved = exchanged, True
                    else:
                        chosen[[i, j]] = chosen[[j, i]]
        if value > best_value:
            best, best_value = words[chosen[:classes]].copy(), value
    return best


def _spread(distance: np.ndarray, weight: np.ndarray, chosen: np.ndarray, classes: int) -> float:
    used = chosen[:classes]
    return float((weight * distance[np.ix_(used, used)]).sum())


def confusion_matrix(trained: Trained, data: Split, classes: int) -> np.ndarray:
    """How often a trained network, without drift, takes one class for another.

    Args:
        trained: The network.
        data: The images and labels.
        classes: C, the number of classes.

    Returns:
        Counts (C, C): row = class, column = prediction.
    """
    network = trained.networks(data.labels.device)[0]
    with torch.inference_mode():
        predictions = torch.cat([trained.decode(network(x)) for x in data.images.split(512)])
    return torch.bincount(data.labels * classes + predictions, minlength=classes**2).view(classes, -1).cpu().numpy()


class Ftna(Method):
    """Training on codewords."""

    title = "FTNA"
    look = Look("#de8f05", "--", "s")
    needs = ("erm",)

    def train(self, problem: Problem, values: Mapping[str, Any], given: Mapping[str, Trained]) -> dict[str, Trained]:
        """Train with the recipe on codewords, which the confusions of ERM's network assign.

        Args:
            problem, values: As for `Method.train`.
            given: The trained network of "erm".

        Returns:
            The trained network, with its codebook, under the method's name.

        Raises:
            Diverged: The loss or its gradient is no longer finite.
        """
        confusions = confusion_matrix(given["erm"], problem.validation, problem.classes)
        codebook = torch.from_numpy(assign_codewords(confusions, derive_seed(problem.seed, "codebook")))
        bits = codebook.shape[1]
        targets = codebook.float().to(problem.train.labels.device)

        def loss(outputs: Tensor, labels: Tensor) -> Tensor:
            return F.binary_cross_entropy_with_logits(outputs, targets[labels])

        model = fit(
            problem.fresh(outputs=bits),
            problem.train,
            problem.recipe,
            seed=problem.seed,
            label=problem.label(self.name),
            loss=loss,
            checkpoint=problem.checkpoint,
        )
        specification = {**problem.specification, "outputs": bits}
        trained = Trained.of(model, specification, epochs=problem.recipe.epochs, bits=bits)
        return {self.name: Trained(specification, trained.members, codebook, trained.about)}


METHOD = Ftna()
