"""The way to every data set by its name, and the contract of the modules behind them."""

import inspect

import numpy as np
import pytest

from bayesft.data import DATA_SETS, Images, load_images
from bayesft.data.images import PARTS, as_split


@pytest.mark.parametrize(("name", "source"), [("mnits", "embedded"), ("mnist", "offical"), ("", "")])
def test_unknown_names_and_sources_are_refused_and_the_known_named(tmp_path, name, source):
    with pytest.raises(ValueError) as error:
        load_images(name, source, tmp_path)
    for part in (repr(name), repr(source), "embedded", "official", *DATA_SETS):
        assert part in str(error.value)


@pytest.mark.parametrize("name", DATA_SETS)
def test_every_data_set_follows_the_contract(name):
    module = DATA_SETS[name]
    assert list(inspect.signature(module.official).parameters) == ["folder", "mirror"]
    assert not inspect.signature(module.embedded).parameters


@pytest.mark.parametrize("name", DATA_SETS)
def test_load_images_passes_on_and_names_the_source(name, tmp_path, monkeypatch):
    asked = []
    part = as_split(np.zeros((1, 1, 1), np.uint8), [0])
    images = Images(dict.fromkeys(PARTS, part), 1, {"name": "one"})
    monkeypatch.setattr(DATA_SETS[name], "embedded", lambda: images)
    monkeypatch.setattr(DATA_SETS[name], "official", lambda *given: asked.append(given) or images)
    assert load_images(name, "embedded", tmp_path).about == {"name": "one", "source": "embedded"}
    assert asked == []
    assert load_images(name, "official", str(tmp_path), "mirror").about == {"name": "one", "source": "official"}
    assert asked == [(tmp_path, "mirror")]
