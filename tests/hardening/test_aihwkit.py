"""A hardened network on aihwkit's analog tiles, under its noise of PCM and ReRAM."""

from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path

import pytest

pytest.importorskip("aihwkit")
FILE = Path(__file__).parents[2] / "docs" / "make_aihwkit.py"


@pytest.mark.slow
def test_the_gain_carries_over_to_the_noise_of_another_library():
    spec = spec_from_file_location("make_aihwkit", FILE)
    page = module_from_spec(spec)
    spec.loader.exec_module(page)
    both, (x, y) = page.networks(seed=0)
    for noise, seconds in page.noises().values():
        scores = [page.accuracy(network, x, y, noise, seconds, draws=8) for network in both.values()]
        assert scores[1] > scores[0] + 0.01
    clean = page.noises()["PCM × 3, after a year"][0]
    clean.prog_noise_scale = clean.read_noise_scale = clean.drift_scale = 0.0
    right = (both["given"](x).argmax(1) == y).float().mean().item()
    assert page.accuracy(both["given"], x, y, clean, 20.0, draws=1) == pytest.approx(right, abs=0.005)
