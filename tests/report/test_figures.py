"""The figures: what they show, and that the same results give the same bytes."""

import copy

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex, to_rgb

from bayesft.evaluation.boundary import Boundaries
from bayesft.report import figures, style
from bayesft.report.results import ROWS, TaskResults
from bayesft.tasks import ABLATION

NOTE = "data: digits (embedded); scale: quick"
RATES = [0.25, 0.5]


@pytest.fixture
def drawn(monkeypatch):
    """The figures by name, as they are given to be saved."""
    kept = {}
    monkeypatch.setattr(figures, "save", lambda figure, folder, name, note: kept.update({name: (figure, note)}))
    yield kept
    plt.close("all")


def lines_by_label(axes) -> dict[str, list[float]]:
    return {line.get_label(): list(line.get_ydata()) for line in axes.lines if not line.get_label().startswith("_")}


def factors(ablation):
    return {name: ablation(ABLATION[name].variants) for name in ("activation", "depth")}


def draw(kind, folder, results, ablation):
    if kind == "figure2":
        figures.figure_2(factors(ablation), folder, NOTE)
    else:
        draw_tasks = {"figure3": figures.figure_3, "search": figures.figure_search}[kind]
        draw_tasks({"lenet-mnist": results()}, folder, NOTE)


@pytest.mark.parametrize(
    "kind, names", [("figure2", ["figure2"]), ("figure3", ["figure3", "figure3b"]), ("search", ["search"])]
)
def test_figures_are_png_and_pdf_of_the_same_bytes_each_time(tmp_path, monkeypatch, results, ablation, kind, names):
    draw(kind, tmp_path / "first", results, ablation)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")  # what time it is must not matter
    draw(kind, tmp_path / "second", results, ablation)
    written = {path.name: path.read_bytes() for path in (tmp_path / "first").iterdir()}
    assert sorted(written) == sorted(f"{name}.{suffix}" for name in names for suffix in ("png", "pdf"))
    for name, content in written.items():
        assert content == (tmp_path / "second" / name).read_bytes(), name
        if name.endswith("png"):
            assert content.startswith(b"\x89PNG\r\n\x1a\n") and b"Software" not in content
        else:
            assert content.startswith(b"%PDF-") and b"/CreationDate" not in content and b"/ModDate" not in content
    assert not plt.get_fignums()


def test_saved_bytes_follow_what_is_drawn_and_said(tmp_path):
    def save(name, height, note):
        figure, axes = plt.subplots(figsize=(2, 1))
        axes.plot([0, 1], [0, height])
        style.save(figure, tmp_path, name, note)
        return [(tmp_path / f"{name}.{suffix}").read_bytes() for suffix in ("png", "pdf")]

    one, same, higher, noted = save("a", 1, "n"), save("b", 1, "n"), save("c", 2, "n"), save("d", 1, "other")
    assert one == same
    for other in (higher, noted):
        assert all(x != y for x, y in zip(one, other, strict=True))


def test_every_row_has_a_look_of_its_own():
    assert set(style.LOOKS) == set(ROWS)
    colours = {to_hex(colour) for colour, _, _ in style.LOOKS.values()}
    markers = {marker for _, _, marker in style.LOOKS.values()}
    assert len(colours) == len(markers) == len(ROWS)
    for part in zip(*style.VARIANT_LOOKS, strict=True):  # colours, dashes, markers
        assert len(set(part)) == len(style.VARIANT_LOOKS)


def test_colours_are_not_nearly_the_same():
    rgb = np.array([to_rgb(colour) for colour, _, _ in style.LOOKS.values()])
    apart = np.linalg.norm(rgb[:, None] - rgb[None], axis=2)[~np.eye(len(rgb), dtype=bool)]
    assert apart.min() > 0.1


def test_every_variant_of_the_ablation_has_a_look():
    assert all(len(factor.variants) <= len(style.VARIANT_LOOKS) for factor in ABLATION.values())


def test_figure_3_shows_the_curve_of_every_row(drawn, results):
    result = results(seeds=(0, 1))
    figures.figure_3({"mlp-mnist": result, "lenet-mnist": result}, "folder", NOTE)
    assert list(drawn) == ["figure3", "figure3a", "figure3b"]
    figure, note = drawn["figure3"]
    assert note.startswith(NOTE) and "95 % interval over 2 training seeds" in note
    for axes in [*figure.axes, drawn["figure3a"][0].axes[0]]:
        lines = lines_by_label(axes)
        assert set(lines) == set(ROWS.values())
        for row, name in ROWS.items():
            assert lines[name] == [e.mean for e in result.curve(row)]
        assert len(axes.collections) == len(ROWS)  # a band each
        assert axes.get_xlim() == (0, 0.75) and axes.get_ylim() == (0, 1)
    assert [axes.get_title() for axes in figure.axes] == ["(a) MLP, MNIST", "(b) LeNet-5, MNIST"]
    assert {text.get_text() for text in figure.legends[0].get_texts()} == set(ROWS.values())


def test_a_row_keeps_its_colour_in_every_figure(drawn, results):
    figures.figure_3({"mlp-mnist": results()}, "folder", NOTE)
    figures.figure_search({"mlp-mnist": results()}, "folder", NOTE)
    (curves,), (_, rates) = drawn["figure3"][0].axes, drawn["search"][0].axes
    for row in ("bayesft", "random", "uniform"):
        colours = {
            to_hex(line.get_color()) for axes in (curves, rates) for line in axes.lines if line.get_label() == ROWS[row]
        }
        assert colours == {to_hex(style.LOOKS[row][0])}


def test_bands_are_the_intervals(drawn, results):
    result = results(methods=["erm"])
    figures.figure_3({"mlp-mnist": result}, "folder", NOTE)
    (band,) = drawn["figure3"][0].axes[0].collections
    corners = {(round(x, 6), round(y, 6)) for x, y in band.get_paths()[0].vertices}
    for sigma, e in zip(result.sigmas, result.curve("erm"), strict=True):
        assert {(round(sigma, 6), round(e.low, 6)), (round(sigma, 6), round(e.high, 6))} <= corners


def test_figure_3_draws_a_row_that_no_report_knows(drawn, files):
    content = {("new", 0): {**files()["erm", 0], "rows": {"new": files()["erm", 0]["rows"]["erm"]}}}
    figures.figure_3({"mlp-mnist": TaskResults.gather(content)}, "folder", NOTE)
    assert set(lines_by_label(drawn["figure3"][0].axes[0])) == {"new"}


def test_figure_2_shows_every_variant_in_the_panel_of_its_factor(drawn, ablation):
    given = factors(ablation)
    figures.figure_2(given, "folder", NOTE)
    figure, note = drawn["figure2"]
    assert "95 % interval over 4 drift draws" in note
    assert [axes.get_title() for axes in figure.axes] == ["(d) Activation functions", "(c) Model complexity"]
    for axes, (factor, result) in zip(figure.axes, given.items(), strict=True):
        lines = lines_by_label(axes)
        assert list(lines) == list(ABLATION[factor].variants)
        for variant, values in lines.items():
            assert values == [e.mean for e in result.curve(variant)]
        assert [text.get_text() for text in axes.get_legend().get_texts()] == list(ABLATION[factor].variants)


def test_search_figure_shows_trials_the_best_so_far_and_the_rates(drawn, results):
    figures.figure_search({"mlp-mnist": results()}, "folder", NOTE)
    left, right = drawn["search"][0].axes
    best = lines_by_label(left)
    assert best["BayesFT: best so far"] == pytest.approx([0.51, 0.51, 0.71, 0.71, 0.71])
    assert best["random search: best so far"] == pytest.approx([0.5, 0.5, 0.7, 0.7, 0.7])
    points = [container.lines[0].get_ydata().tolist() for container in left.containers]
    assert points == [pytest.approx([0.51, 0.41, 0.71, 0.61, 0.66]), pytest.approx([0.5, 0.4, 0.7, 0.6, 0.65])]
    rates = lines_by_label(right)
    assert rates == {name: RATES for name in ("BayesFT", "random search", "uniform dropout")}


def test_search_figure_of_several_seeds_shows_the_mean_of_the_best(drawn, files):
    content = copy.deepcopy(files(seeds=(0, 1), methods=["bayesft"]))
    for trial in content["bayesft", 1]["rows"]["bayesft"]["about"]["trials"]:
        trial["objective"] = 0.91 - 0.1 * trial["number"]
    figures.figure_search({"mlp-mnist": TaskResults.gather(content)}, "folder", NOTE)
    figure, note = drawn["search"]
    best = lines_by_label(figure.axes[0])["BayesFT: best so far"]
    assert best == pytest.approx([0.71, 0.71, 0.81, 0.81, 0.81])
    assert "mean over seeds" in note


@pytest.mark.parametrize("methods", [["erm", "bayesft"], ["random", "erm"]])
def test_search_figure_of_one_strategy_alone(drawn, results, methods):
    figures.figure_search({"mlp-mnist": results(methods=methods)}, "folder", NOTE)
    (name,) = (ROWS[method] for method in methods if method != "erm")
    left, right = drawn["search"][0].axes
    assert list(lines_by_label(left)) == [f"{name}: best so far"]
    assert list(lines_by_label(right)) == [name]


def test_figure_1_has_a_panel_a_level(drawn):
    axis = torch.linspace(-1, 1, 12)
    probability = axis.sigmoid().expand(3, 12, 12).contiguous()
    points = torch.tensor([[-0.5, 0.0], [0.5, 0.2], [0.4, -0.4]])
    accuracy = torch.tensor([[1.0, 1.0], [0.8, 0.9], [0.5, 0.7]], dtype=torch.float64)
    maps = Boundaries(probability, axis, axis, torch.tensor([0.0, 0.5, 1.0]), accuracy, points, torch.tensor([0, 1, 1]))
    figures.figure_1(maps, "folder", "half-moons")
    figure, note = drawn["figure1"]
    titles = [axes.get_title() for axes in figure.axes[:3]]
    assert [title.split("\n")[0] for title in titles] == ["σ = 0", "σ = 0.5", "σ = 1"]
    assert titles[1].split("\n")[1].startswith("accuracy 0.85 ±")
    assert note.startswith("half-moons") and "2 copies" in note
