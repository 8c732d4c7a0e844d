"""What a method is given and leaves behind: networks by seed, files, decoding."""

import math
import re

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file

from bayesft.drift import monte_carlo
from bayesft.methods.ftna import codewords
from bayesft.tensors import save_tensors
from bayesft.training import Trained
from bayesft.training.trained import accuracy_score, decode_codewords, neg_loss_score
from tests.problems import tiny

SPECIFICATION = {"network": "mlp", "inputs": 5, "hidden": [4], "outputs": 3}


def member(seed: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    shapes = {"1.weight": (4, 5), "1.bias": (4,), "3.weight": (3, 4), "3.bias": (3,)}
    return {name: torch.randn(shape, generator=generator) for name, shape in shapes.items()}


@pytest.mark.parametrize("codebook", [None, torch.tensor([[0, 1, 1], [1, 0, 1], [1, 1, 0]], dtype=torch.uint8)])
def test_file_gives_back_what_was_saved(tmp_path, codebook):
    about = {"epochs": 3, "rates": {"2": 0.25}, "trials": [{"number": 0, "rates": [0.1, 0.2]}]}
    saved = Trained(SPECIFICATION, [member(seed) for seed in range(12)], codebook, about)
    saved.save(tmp_path / "folder" / "net.safetensors")
    loaded = Trained.load(tmp_path / "folder" / "net.safetensors")
    assert loaded.specification == SPECIFICATION and loaded.about == about
    assert len(loaded.members) == 12  # in their order, though "10" sorts before "2"
    for before, after in zip(saved.members, loaded.members, strict=True):
        assert before.keys() == after.keys()
        assert all(torch.equal(before[name], after[name]) for name in before)
    if codebook is None:
        assert loaded.codebook is None
    else:
        assert loaded.codebook.dtype == torch.uint8 and torch.equal(loaded.codebook, codebook)


def test_same_content_gives_the_same_bytes(tmp_path):
    def content(reverse):
        turn = (lambda d: dict(reversed(d.items()))) if reverse else dict
        about = {"epochs": 3, "rates": {"b": 0.1, "a": 0.2}}  # their order is the network's, and is kept
        members = [turn({name: tensor.clone() for name, tensor in member(seed).items()}) for seed in (0, 1)]
        return Trained(SPECIFICATION, members, torch.eye(3, dtype=torch.uint8), about)

    content(False).save(tmp_path / "a")
    content(True).save(tmp_path / "b")
    Trained.load(tmp_path / "a").save(tmp_path / "c")
    first = (tmp_path / "a").read_bytes()
    assert first == (tmp_path / "b").read_bytes() == (tmp_path / "c").read_bytes()
    assert list(Trained.load(tmp_path / "c").about["rates"]) == ["b", "a"]
    Trained(SPECIFICATION, [member(0), member(2)], torch.eye(3, dtype=torch.uint8), {}).save(tmp_path / "d")
    assert first != (tmp_path / "d").read_bytes()


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_weight_that_is_not_finite_is_refused_by_name(tmp_path, value):
    weights = member(0)
    weights["3.weight"][1, 2] = value
    Trained(SPECIFICATION, [member(1), weights]).save(tmp_path / "net.safetensors")
    with pytest.raises(
        ValueError, match=re.escape(f"{tmp_path / 'net.safetensors'} is damaged (1/3.weight is not finite")
    ):
        Trained.load(tmp_path / "net.safetensors")


@pytest.mark.parametrize("damage", ["cut", "empty", "text", "bytes flipped", "no description", "folder"])
def test_a_damaged_file_is_named_with_what_to_do(tmp_path, damage):
    path = tmp_path / "net.safetensors"
    Trained(SPECIFICATION, [member(0)]).save(path)
    whole = path.read_bytes()
    if damage == "cut":
        path.write_bytes(whole[:-7])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "text":
        path.write_text("not a network")
    elif damage == "bytes flipped":
        path.write_bytes(bytes(byte ^ 0xFF for byte in whole[:64]) + whole[64:])
    elif damage == "no description":
        save_file({"0/1.weight": torch.zeros(2)}, path)
    else:
        path.unlink()
        path.mkdir()
    with pytest.raises(ValueError, match=f"{re.escape(str(path))} is damaged "):
        Trained.load(path)


@pytest.mark.parametrize("about", [None, [], {"specification": SPECIFICATION}, "text"])
def test_a_file_of_something_else_is_refused_by_name(tmp_path, about):
    path = tmp_path / "net.safetensors"
    save_tensors(path, {"0/1.weight": torch.zeros(2)}, about)
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))} is damaged \(it holds no trained network"):
        Trained.load(path)
    save_tensors(path, {"images": torch.zeros(2)}, {"specification": SPECIFICATION, "about": {}})
    with pytest.raises(ValueError, match=rf"{re.escape(str(path))} is damaged \(it holds no trained network"):
        Trained.load(path)


def test_a_missing_file_is_named_with_what_to_do(tmp_path):
    with pytest.raises(ValueError, match=f"{re.escape(str(tmp_path / 'net.safetensors'))} is missing"):
        Trained.load(tmp_path / "net.safetensors")


def test_weights_kept_are_those_of_the_moment():
    model = tiny().fresh()
    trained = Trained.of(model, tiny().specification, epochs=1)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.no_grad():
        for p in model.parameters():
            p.add_(1)
    assert all(torch.equal(trained.members[0][name], before[name]) for name in before)
    assert trained.about == {"epochs": 1}


def test_networks_are_one_a_member_ready_for_evaluation():
    members = [member(0), member(1)]
    x = torch.randn(6, 5, generator=torch.Generator().manual_seed(0))
    networks = Trained(SPECIFICATION, members).networks()
    assert len(networks) == 2
    for network, weights in zip(networks, members, strict=True):
        assert not network.training
        hidden = (x @ weights["1.weight"].T + weights["1.bias"]).clamp_min(0)
        torch.testing.assert_close(network(x), hidden @ weights["3.weight"].T + weights["3.bias"])


def test_without_a_codebook_the_largest_output_is_the_prediction():
    outputs = torch.tensor([[-3.0, -1.0, -2.0], [0.0, 0.5, 9.0], [2.0, 1.0, 1.5]])
    assert Trained(SPECIFICATION, []).decode(outputs).tolist() == [1, 2, 0]


def test_with_a_codebook_the_nearest_codeword_is_the_prediction():
    code = torch.tensor([[0, 0, 0], [1, 1, 1]], dtype=torch.uint8)
    outputs = torch.tensor([[0.1, 0.2, -9.0], [-0.1, 0.2, -0.1]])
    assert Trained(SPECIFICATION, [], code).decode(outputs).tolist() == [1, 0]


def by_hand(logits: torch.Tensor, code: torch.Tensor) -> list[int]:
    """One image, one class, one bit at a time."""
    answers = []
    for z in logits.tolist():
        ranks = []
        for c, word in enumerate(code.tolist()):
            distance = sum((value > 0) != (bit == 1) for value, bit in zip(z, word, strict=True))
            # log σ(z) where the bit is 1, log σ(−z) where it is 0
            log_likelihood = sum(
                -math.log1p(math.exp(-v)) if bit else -math.log1p(math.exp(v)) for v, bit in zip(z, word, strict=True)
            )
            ranks.append((distance, -log_likelihood, c))
        answers.append(min(ranks)[2])
    return answers


@settings(max_examples=60, deadline=None)
@given(st.sampled_from([10, 43]), st.integers(0, 2**31), st.sampled_from([0.2, 1.0, 4.0]), st.booleans())
def test_decoding_is_what_it_is_by_hand(classes, seed, scale, near_a_word):
    generator = torch.Generator().manual_seed(seed)
    words = torch.from_numpy(codewords(classes))
    code = words[torch.randperm(len(words), generator=generator)[:classes]]
    assert code.shape == (classes, 15 if classes == 10 else 31)
    logits = scale * torch.randn(8, code.shape[1], generator=generator, dtype=torch.float64)
    if near_a_word:
        signs = 2.0 * code[torch.randint(classes, (8,), generator=generator)] - 1
        logits = logits + 0.7 * scale * signs
    assert decode_codewords(logits, code).tolist() == by_hand(logits, code)


def test_ties_go_to_the_larger_summed_log_likelihood():
    code = torch.tensor([[0, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.uint8)
    # Two bits say 0 and two say 1: each word is at distance 2, and the surer pair of bits decides.
    logits = torch.tensor([[-3.0, -2.0, 1.0, 1.0], [-1.0, -1.0, 2.0, 3.0]])
    assert decode_codewords(logits, code).tolist() == [0, 1]
    assert decode_codewords(logits, code.flip(0)).tolist() == [1, 0]


def test_nearer_word_wins_over_a_likelier_one():
    code = torch.tensor([[0, 0, 0, 0], [1, 1, 1, 1]], dtype=torch.uint8)
    logits = torch.tensor([[0.1, 0.1, 0.1, -9.0]])  # distance 3 and 1; log-likelihood says the first
    assert decode_codewords(logits, code).tolist() == [1]


def test_fresh_networks_depend_on_the_seed_alone():
    torch.manual_seed(1)
    state = torch.get_rng_state()
    first = tiny(seed=4).fresh().state_dict()
    assert torch.equal(torch.get_rng_state(), state)
    torch.manual_seed(2)
    again = tiny(seed=4, task="another", train=tiny().validation).fresh().state_dict()
    other = tiny(seed=5).fresh().state_dict()
    for name in first:
        assert torch.equal(first[name], again[name])
        assert not torch.equal(first[name], other[name])


def test_fresh_network_with_other_outputs_shares_the_other_layers():
    usual, wider = tiny().fresh().state_dict(), tiny().fresh(outputs=15).state_dict()
    names = list(usual)
    assert [tuple(wider[name].shape) for name in names[-2:]] == [(15, 8), (15,)]
    assert all(torch.equal(usual[name], wider[name]) for name in names[:-2])


def test_label_names_task_method_and_seed():
    assert tiny(task="lenet-mnist", seed=7).label("awp") == "lenet-mnist awp seed 7"


@pytest.mark.parametrize("parameters", ["all", "weights"])
@pytest.mark.parametrize("objective, score", [("accuracy", accuracy_score), ("neg_loss", neg_loss_score)])
def test_scores_are_those_of_drifted_copies_on_validation_images(parameters, objective, score):
    problem = tiny(parameters=parameters)
    model, draws, key = problem.fresh(), range(3), ("key",)
    found = problem.scores(model, (0.0, 0.5, 1.0), draws, key, objective)
    assert found.shape == (3, 3)
    for i, sigma in enumerate((0.0, 0.5, 1.0)):
        expected = monte_carlo(model, *problem.validation, score, problem.fault, sigma, draws, key, parameters)
        torch.testing.assert_close(found[i], expected)


def test_a_problem_holds_no_test_images():
    problem = tiny()
    parts = {name for name, value in vars(problem).items() if isinstance(value, tuple) and hasattr(value, "images")}
    assert parts == {"train", "validation"}
