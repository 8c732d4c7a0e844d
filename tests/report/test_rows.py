"""Rows as data: titles and looks come from the methods, and no row hides another one."""

import numpy as np
import pytest
from matplotlib.colors import to_rgb

from bayesft.methods import names
from bayesft.report.details import details
from bayesft.report.results import TaskResults
from bayesft.report.rows import rows_of
from tests.report.shown import PLAIN

PROTAN = [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
DEUTAN = [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]


def described(method: str, tuned: bool = False, network: dict | None = None) -> dict:
    return {"method": method, "tuned": tuned, "network": network or {}}


def test_titles_say_what_differs():
    rows = rows_of({
        "awp": described("awp"),
        "awp-tuned": described("awp", tuned=True),
        "wide": described("awp", network={"width": 2}),
        "bare": described("erm", network=PLAIN),
    })  # fmt: skip
    assert [row.title for row in rows.values()] == [
        "AWP (weights only)", "AWP (weights only), tuned", "AWP (weights only) width 2", "ERM without BN",
    ]  # fmt: skip
    assert rows["awp-tuned"].look == rows["awp"].look


def test_a_method_that_searches_by_itself_is_not_tuned_by_a_change_of_its_search():
    rows = rows_of({"bayesft": described("bayesft"), "inherited": described("bayesft", tuned=True)})
    assert not rows["inherited"].tuned and rows["inherited"].title == "BayesFT [inherited]"


def test_two_rows_of_one_method_are_both_shown():
    rows = rows_of({"awp": described("awp"), "strong": described("awp"), "stronger": described("awp")})
    assert [row.title for row in rows.values()] == [
        "AWP (weights only)", "AWP (weights only) [strong]", "AWP (weights only) [stronger]",
    ]  # fmt: skip
    assert len({row.look for row in rows.values()}) == 3
    measured = {name: {"accuracy": [[0.9, 0.9], [0.5, 0.5]], "about": {"epochs": 1}} for name in rows}
    data = {"name": "digits", "source": "embedded", "classes": 10,
            "images_used": {"train": 1, "validation": 1, "test": 1}}  # fmt: skip
    result = TaskResults.gather({0: {"sigmas": [0.0, 0.6], "data": data, "rows": measured}}, rows)
    text = details("t", "scale: quick", {"mlp-mnist": result}, {})
    for row in rows.values():
        assert text.count(f"| {row.title} |") >= 2  # the table of accuracies, and of epochs
        assert row.name in [*result.main(), *result.controls()]


def test_a_row_of_another_network_is_no_control_without_norm():
    rows = rows_of({"erm": described("erm"), "wide": described("erm", network={"width": 2}),
                    "awp": described("awp"), "bare": described("awp", network=PLAIN)})  # fmt: skip
    accuracy = {name: np.array([[[0.9], [0.5]]]) for name in rows}
    result = TaskResults(np.array([0.0, 0.6]), (0,), accuracy, {name: [{"epochs": 1}] for name in rows}, {}, {}, rows)
    assert result.without_norm() == {"awp": "bare"} and result.controls() == []


def lab(colour: str, seen: list[list[float]]) -> np.ndarray:
    """CIE L*a*b* (D65) of a colour as a reader sees it, whose cones `seen` describes (Machado et al., 2009)."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    linear = np.clip(np.array(seen) @ linear, 0, 1)
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    f = np.where((t := xyz / [0.9505, 1, 1.089]) > 0.008856, np.cbrt(t), 7.787 * t + 16 / 116)
    return np.array([116 * f[1] - 16, 500 * (f[0] - f[1]), 200 * (f[1] - f[2])])


@pytest.mark.parametrize("seen", [np.eye(3), PROTAN, DEUTAN])
def test_every_method_and_the_controls_without_norm_are_told_apart(seen):
    """By colour, also by a colour-blind reader; or else by dashes."""
    controls = {f"{method}-bare": described(method, network=PLAIN) for method in ("erm", "bayesft")}
    looks = [row.look for row in rows_of({name: described(name) for name in names()} | controls).values()]
    assert len({look.marker for look in looks}) == len(looks)
    for i, one in enumerate(looks):
        for other in looks[:i]:
            apart = np.linalg.norm(lab(one.colour, seen) - lab(other.colour, seen))
            assert apart > 12 or one.dashes != other.dashes, (one, other, apart)
