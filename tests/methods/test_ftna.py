"""FTNA: the codes, their assignment to classes, training on codewords."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from bayesft.data import Split
from bayesft.methods import load
from bayesft.methods.ftna import assign_codewords, codewords, confusion_matrix
from bayesft.training import Trained, accuracy
from tests.problems import patterns, tiny, train


def distances(words: np.ndarray) -> np.ndarray:
    """Hamming distance of each pair of rows, the diagonal left out."""
    table = (words[:, None] != words[None]).sum(2)
    return table[~np.eye(len(words), dtype=bool)]


@pytest.mark.parametrize(
    "classes, bits, distance", [(2, 15, 7), (10, 15, 7), (32, 15, 7), (33, 31, 15), (43, 31, 15), (64, 31, 15)]
)
def test_codes_have_the_length_and_distance_that_they_promise(classes, bits, distance):
    words = codewords(classes)
    assert words.dtype == np.uint8 and set(np.unique(words)) == {0, 1}
    assert words.shape[1] == bits and len(words) >= classes
    assert distances(words).min() == distance
    assert len(np.unique(words, axis=0)) == len(words)


def test_codes_are_linear():
    for classes in (10, 43):
        words = {tuple(word) for word in codewords(classes)}
        some = list(words)[:9]
        assert all(tuple(np.bitwise_xor(a, b)) in words for a in some for b in some)


def test_too_many_classes_are_refused():
    with pytest.raises(ValueError, match="65 classes: the longest code has 64 words"):
        codewords(65)
    with pytest.raises(ValueError):
        assign_codewords(np.zeros((65, 65)), seed=0)


def assert_rows_are_distinct_words(codebook: np.ndarray, classes: int) -> None:
    words = {tuple(word) for word in codewords(classes)}
    rows = [tuple(row) for row in codebook]
    assert len(rows) == classes and len(set(rows)) == classes and set(rows) <= words


@settings(max_examples=15, deadline=None)
@given(st.integers(2, 10), st.integers(0, 2**31))
def test_every_class_gets_a_word_of_its_own(classes, seed):
    confusions = np.random.default_rng(seed).integers(0, 30, (classes, classes))
    before = confusions.copy()
    codebook = assign_codewords(confusions, seed, restarts=1)
    assert_rows_are_distinct_words(codebook, classes)
    assert np.array_equal(codebook, assign_codewords(confusions, seed, restarts=1))
    assert np.array_equal(confusions, before)


@pytest.mark.parametrize("classes, distance", [(10, 7), (43, 15)])
def test_strongly_confused_classes_are_farther_apart_than_the_code_guarantees(classes, distance):
    confusions = np.diag(np.full(classes, 1000))  # right answers must not count
    confusions[2, 5] = confusions[7, 1] = 200
    codebook = assign_codewords(confusions, seed=0, restarts=2)
    assert_rows_are_distinct_words(codebook, classes)
    assert (codebook[2] != codebook[5]).sum() > distance
    assert (codebook[7] != codebook[1]).sum() > distance


def test_assignment_beats_random_ones():
    random = np.random.default_rng(1)
    confusions = random.integers(0, 3, (10, 10)) * random.integers(0, 40, (10, 10))
    np.fill_diagonal(confusions, 0)

    def spread(codebook):
        return (confusions * (codebook[:, None] != codebook[None]).sum(2)).sum()

    words = codewords(10)
    by_chance = [spread(words[random.permutation(len(words))[:10]]) for _ in range(200)]
    assert spread(assign_codewords(confusions, seed=0)) > max(by_chance)


def test_confusion_matrix_counts_classes_by_rows_and_predictions_by_columns():
    identity = Trained(
        {"network": "mlp", "inputs": 3, "hidden": [], "outputs": 3},
        [{"1.weight": torch.eye(3), "1.bias": torch.zeros(3)}],
    )
    predictions = torch.tensor([0, 0, 1, 2, 2, 2, 1])
    labels = torch.tensor([0, 1, 1, 1, 2, 0, 1])
    data = Split(torch.eye(3)[predictions], labels)
    assert confusion_matrix(identity, data, 3).tolist() == [[1, 0, 1], [1, 2, 1], [0, 0, 1]]


def test_confusion_matrix_reads_the_codebook_of_its_network():
    code = torch.tensor([[0, 0, 1], [1, 1, 0]], dtype=torch.uint8)
    coded = Trained(
        {"network": "mlp", "inputs": 3, "hidden": [], "outputs": 3},
        [{"1.weight": torch.eye(3), "1.bias": torch.zeros(3)}],
        code,
    )
    data = Split(torch.tensor([[-1.0, -1.0, 1.0], [1.0, 1.0, -1.0]]), torch.tensor([1, 1]))
    assert confusion_matrix(coded, data, 2).tolist() == [[0, 0], [1, 1]]


def test_training_learns_codewords():
    problem = tiny(epochs=25)
    trained = train(load("ftna"), problem)
    assert trained.codebook.shape == (4, 15)
    assert_rows_are_distinct_words(trained.codebook.numpy(), 4)
    assert trained.specification == {**problem.specification, "outputs": 15}
    assert trained.about == {"epochs": 25, "bits": 15}
    (network,) = trained.networks()
    assert accuracy(network, problem.validation, trained.decode) >= 0.95
    # The outputs are bits of the codeword of the class, not just nearest to it by luck.
    with torch.inference_mode():
        bits = network(problem.validation.images) > 0
    assert (bits == trained.codebook[problem.validation.labels].bool()).float().mean() >= 0.95


def test_codebook_follows_the_confusions_on_validation_images():
    # The identity as network: on validation images it takes class 0 for class 3, on training images it is right.
    identity = Trained(
        {"network": "mlp", "inputs": 4, "hidden": [], "outputs": 4},
        [{"1.weight": torch.eye(4), "1.bias": torch.zeros(4)}],
    )
    problem = tiny(
        specification=identity.specification,
        train=Split(torch.eye(4), torch.arange(4)),
        validation=Split(torch.eye(4)[torch.tensor([3, 1, 2, 3] * 50)], torch.arange(200) % 4),
    )
    codebook = load("ftna").train(problem, {}, {"erm": identity})["ftna"].codebook
    apart = (codebook[:, None] != codebook[None]).sum(2)
    assert apart[0, 3] == 15  # the farthest that two words can be


def test_training_works_for_43_classes():
    problem = tiny(
        classes=43,
        specification={"network": "mlp", "inputs": 64, "hidden": [48], "outputs": 43},
        train=patterns(172, classes=43, side=8),
        validation=patterns(86, classes=43, part=1, side=8),
        epochs=30,
    )
    trained = train(load("ftna"), problem)
    assert trained.codebook.shape == (43, 31)
    assert len(torch.unique(trained.codebook, dim=0)) == 43
    assert accuracy(trained.networks()[0], problem.validation, trained.decode) >= 0.9
