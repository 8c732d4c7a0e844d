"""The figures: what they show, and that the same results give the same bytes."""

import copy
import re
import subprocess
import sys
from contextlib import nullcontext
from dataclasses import astuple, replace

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex, to_rgb

from bayesft.evaluation.boundary import Boundaries
from bayesft.evaluation.statistics import estimate
from bayesft.report import figures, style
from bayesft.tasks import ABLATIONS, CLASSIFICATION, DETECTION
from tests.report.shown import LOOKS, ROWS, TUNED, gather

NOTE = "scale: quick"


@pytest.fixture
def drawn(monkeypatch):
    """The figures by name, as they are given to be saved."""
    kept = {}
    monkeypatch.setattr(figures, "save", lambda figure, folder, name: kept.update({name: figure}))
    yield kept
    plt.close("all")


def lines_by_label(axes) -> dict[str, list[float]]:
    return {line.get_label(): list(line.get_ydata()) for line in axes.lines if not line.get_label().startswith("_")}


def shown_rows(result) -> list[str]:
    return [ROWS[row] for row in result.main()]


def draw(kind, folder, results, ablations, pictures):
    if kind == "figure4":
        figures.figure_4(pictures, results(rows=["erm", "bayesft"]), folder, NOTE)
    elif kind == "figure2":
        figures.figure_2(ablations(), folder)
    else:
        {"figure3": figures.figure_3, "search": figures.figure_search}[kind]({"lenet-mnist": results()}, folder)


@pytest.mark.parametrize(
    "kind, names",
    [
        ("figure2", ["figure2"]),
        ("figure3", ["figure3", "figure3b"]),
        ("figure4", ["figure4"]),
        ("search", ["search"]),
    ],
)
def test_figures_are_png_and_pdf_of_the_same_bytes_each_time(
    tmp_path, monkeypatch, results, ablations, pictures, kind, names
):
    draw(kind, tmp_path / "first/mine", results, ablations, pictures)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")  # what time it is must not matter
    draw(kind, tmp_path / "second/mine", results, ablations, pictures)
    written = {path.name: path.read_bytes() for path in (tmp_path / "first/mine").iterdir()}
    assert sorted(written) == sorted(f"{name}.{suffix}" for name in names for suffix in ("png", "pdf"))
    for name, content in written.items():
        assert content == (tmp_path / "second/mine" / name).read_bytes(), name
        if name.endswith("png"):
            assert content.startswith(b"\x89PNG\r\n\x1a\n") and b"Software" not in content
        else:
            assert content.startswith(b"%PDF-") and b"/CreationDate" not in content and b"/ModDate" not in content
    assert not plt.get_fignums()


def test_saved_bytes_follow_what_is_drawn(tmp_path):
    def save(name, height):
        figure, axes = plt.subplots(figsize=(2, 1))
        axes.plot([0, 1], [0, height])
        style.save(figure, tmp_path, name)
        return [(tmp_path / f"{name}.{suffix}").read_bytes() for suffix in ("png", "pdf")]

    one, same, higher = save("a", 1), save("b", 1), save("c", 2)
    assert one == same and all(x != y for x, y in zip(one, higher, strict=True))


@pytest.mark.parametrize("folder", ["reports/quick-embedded/figures", "data/figures/quick-embedded"])
def test_a_figure_names_its_report(folder, tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr(style.Figure, "savefig", lambda figure, *_, **__: said.append(figure.texts[0].get_text()))
    monkeypatch.setattr(style, "atomic", lambda path: nullcontext(path))
    style.save(plt.figure(), tmp_path / folder, "a")
    assert said == ["quick-embedded"] * 2


def test_a_panel_of_its_own_is_as_wide_as_a_column_of_a_paper(tmp_path, results):
    figures.figure_3({"mlp-mnist": results()}, tmp_path)
    content = (tmp_path / "figure3a.pdf").read_bytes()
    left, _, right, _ = map(float, re.search(rb"/MediaBox \[([^]]*)\]", content).group(1).split())
    assert (right - left) / 72 == pytest.approx(3.4, abs=0.15)  # inches
    assert plt.rcParams["font.size"] == 8


def test_every_row_has_a_look_of_its_own():
    shown = {row for row in ROWS if not row.endswith(TUNED)}  # a tuned method looks like itself
    assert set(LOOKS) == shown
    colours = {to_hex(colour) for colour in (look.colour for look in LOOKS.values())}
    markers = {look.marker for look in LOOKS.values()}
    assert len(colours) == len(markers) == len(shown)
    for part in zip(*map(astuple, style.VARIANT_LOOKS), strict=True):  # colours, dashes, markers
        assert len(set(part)) == len(style.VARIANT_LOOKS)


def test_colours_are_not_nearly_the_same():
    rgb = np.array([to_rgb(colour) for colour in (look.colour for look in LOOKS.values())])
    apart = np.linalg.norm(rgb[:, None] - rgb[None], axis=2)[~np.eye(len(rgb), dtype=bool)]
    assert apart.min() > 0.1


def test_every_variant_of_the_ablation_has_a_look():
    assert all(
        len(factor.variants) <= len(style.VARIANT_LOOKS)
        for ablation in ABLATIONS.values()
        for factor in ablation.factors.values()
    )


def test_figure_3_shows_the_papers_methods_and_the_own_one(drawn, results):
    result = results(seeds=(0, 1))
    caption = figures.figure_3({"mlp-mnist": result, "lenet-mnist": result}, "folder")
    assert list(drawn) == ["figure3", "figure3a", "figure3b"]
    assert "BayesFT: trials inherit weights, 2 epochs each (a, b)." in caption
    figure = drawn["figure3"]
    assert shown_rows(result) == ["ERM", "FTNA", "ReRAM-V", "AWP (weights only)", "BayesFT", "drift-aware + dropout"]
    for axes in [*figure.axes, drawn["figure3a"].axes[0]]:
        lines = lines_by_label(axes)
        assert lines.pop("chance") == [0.1, 0.1]
        repaired = lines.pop("ERM on the devices, not repaired")
        assert repaired == [e.mean for e in result.curve("erm-programmed")]
        assert set(lines) == set(shown_rows(result))
        for row in result.main():
            assert lines[ROWS[row]] == [e.mean for e in result.curve(row)]
        assert axes.get_xlim() == (0, 0.75) and axes.get_ylim() == (0, 1)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["(a) MLP, handwritten digits", "(b) LeNet-5, handwritten digits"]
    said = ["".join(text.get_text() for text in axes.texts) for axes in figure.axes]
    assert said == ["2 seeds, 95 % intervals over seeds"] * 2


def test_figure_3_of_ten_tasks_has_its_legend_beside_the_last(drawn, results, detections):
    given = {task: results(rows=["erm", "awp", "bayesft"]) for task in CLASSIFICATION} | {DETECTION: detections()}
    figures.figure_3(given, "folder")
    *axes, room = drawn["figure3"].axes
    assert [ax.get_title()[1] for ax in axes] == list("abcdefghij") and not drawn["figure3"].legends
    assert [text.get_text() for text in room.get_legend().get_texts()] == [
        "ERM", "AWP (weights only)", "BayesFT", "chance",
    ]  # fmt: skip
    assert {ax.get_title()[1]: ax.get_ylabel() for ax in axes if ax.get_ylabel()} == {
        "a": "accuracy", "d": "accuracy", "g": "accuracy", "j": "box mAP@0.5",
    }  # fmt: skip
    assert [ax.get_title()[1] for ax in axes if ax.get_xlabel()] == list("hij")
    assert set(lines_by_label(axes[9])) == {"ERM", "BayesFT"}  # no chance
    assert drawn["figure3j"].axes[0].get_ylabel() == "box mAP@0.5"


def test_curves_end_where_every_method_is_at_chance(drawn, files):
    content = copy.deepcopy(files(rows=["erm", "bayesft"]))
    for entry in content[0]["rows"].values():
        entry["accuracy"][1:] = [[0.1] * 4] * 3
    content[0]["rows"]["bayesft"]["accuracy"][1] = [0.5] * 4
    figures.figure_3({"mlp-mnist": replace(gather(content), end=0.3)}, "folder")
    assert drawn["figure3"].axes[0].get_xlim() == (0, 0.6)  # one level past the last above a guess


def test_devices_are_thin_lines_without_an_interval(drawn, files):
    content = copy.deepcopy(files(rows=["erm", "reram_v"]))
    content[0]["rows"]["reram_v"]["about"]["devices"] = 2
    result = gather(content)
    caption = figures.figure_3({"mlp-mnist": result}, "folder")
    thin = [list(line.get_ydata()) for line in drawn["figure3"].axes[0].lines if line.get_linewidth() < 0.5]
    assert thin == [list(device) for device in result.devices("reram_v")] and len(thin) == 2
    assert "a thin line a device" in caption


def test_gains_are_paired_differences_from_erm(drawn, results):
    result = results(seeds=(0, 1, 2))
    caption = figures.figure_gains({"mlp-mnist": result}, "folder")
    lines = lines_by_label(drawn["gains"].axes[0])
    controls = ["drift_aware", "uniform", "random", "bayesft-alg1", "bayesft", "drift_dropout"]
    assert list(lines) == [ROWS[row] for row in controls]
    for row in controls:
        assert lines[ROWS[row]] == [e.mean for e in result.differences(row, "erm")]
    assert "paired by seed" in caption


def test_gains_of_one_metric_have_one_scale(drawn, results, detections):
    given = {"mlp-mnist": results(seeds=(0, 1, 2)), "lenet-mnist": results(rows=["erm", "bayesft"])}
    figures.figure_gains({**given, DETECTION: detections()}, "folder")
    first, second, other = drawn["gains"].axes[:3]
    assert first.get_ylim() == second.get_ylim() != other.get_ylim()
    assert (first.get_ylabel(), other.get_ylabel()) == ("gain in accuracy over ERM", "gain in box mAP@0.5 over ERM")


def test_the_control_without_norm_has_a_figure(drawn, results):
    everything = results(rows=list(ROWS))
    figures.figure_norm({"vgg11-cifar10": everything, "mlp-mnist": results()}, "folder")
    (axes, *_) = drawn["norm"].axes
    assert set(lines_by_label(axes)) == {"ERM", "ERM without BN", "BayesFT", "BayesFT without BN", "chance"}


def test_search_figure_is_the_surrogate_minus_random_search(drawn, files, results):
    content = copy.deepcopy(files(seeds=(0, 1, 2)))
    for seed in content:
        trials = content[seed]["rows"]["bayesft"]["about"]["trials"]
        trials[0] |= {"objective": 0.5 + 0.1 * seed}
        trials[2] |= {"stopped": True}  # a prediction is never the best
    given = {"mlp-mnist": gather(content), "lenet-mnist": results(), "stn-gtsrb": results(rows=["erm", "bayesft"])}
    figures.figure_search(given, "folder")
    first, second, *_ = drawn["search"].axes
    (best,) = (line for line in first.lines if len(line.get_xdata()) == 5)
    # random: .5 .5 .7 .7 .7; the surrogate's, by seed: .5 .5 .5 .61 .66, .6 .6 .6 .61 .66, .7 .7 .7 .7 .7
    assert list(best.get_ydata()) == pytest.approx([0.1, 0.1, -0.1, -0.06, -0.08 / 3])
    e = estimate(np.array([[0.0], [0.1], [0.2]]))
    band = first.collections[0].get_paths()[0].vertices
    assert {round(y, 6) for x, y in band if x == 1} == {round(e.low, 6), round(e.high, 6)}
    (alone,) = (line for line in second.lines if len(line.get_xdata()) == 5)
    assert list(alone.get_ydata()) == pytest.approx([0.01] * 5)
    assert "1 seed" in second.texts[0].get_text() and "3 seeds" in first.texts[0].get_text()
    assert not any("(i)" in axes.get_title() for axes in drawn["search"].axes)
    with pytest.raises(ValueError, match="no task has both searches"):
        figures.figure_search({"stn-gtsrb": results(rows=["erm", "random"])}, "folder")


def test_figure_4_has_a_block_an_image_with_a_row_a_network(drawn, pictures, results):
    note = figures.figure_4(pictures, results(rows=["erm", "bayesft"]), "folder", NOTE)
    figure = drawn["figure4"]
    blocks = [np.reshape(block.axes, (2, 2)) for block in figure.subfigs]
    assert len(blocks) == 2
    for block, image in zip(blocks, pictures.images, strict=True):
        assert [ax.get_title() for ax in block.flat] == ["σ = 0", "σ = 0.4", "", ""]
        assert [ax.get_ylabel() for ax in block.flat] == ["ERM", "", "BayesFT", ""]
        texts = [[text.get_text() for text in ax.texts] for ax in block.flat]
        assert texts == [["0.93", "0.51"], ["nothing found"], ["0.93"], ["0.93"]]
        for ax in block.flat:
            shown, shade = (picture.get_array() for picture in ax.images)
            assert np.array_equal(shown, image.permute(1, 2, 0))
            assert len(ax.patches) == len([text for text in ax.texts if text.get_text() != "nothing found"])
            assert (shade[..., 3] > 0).any() == bool(ax.patches)
        box = block[1, 1].patches[0]
        assert to_hex(box.get_edgecolor()) == to_hex(LOOKS["bayesft"].colour)
        assert (*box.get_xy(), box.get_width(), box.get_height()) == (2.5, 1.5, 6, 10)  # on the edges of its pixels
        height, width = image.shape[1:]
        assert block[0, 0].get_xlim() == (-0.5, width - 0.5) and block[0, 0].get_ylim() == (height - 0.5, -0.5)
        assert (block[0, 0].images[1].get_array()[..., 3] > 0).sum() == 60 + 80
    said = " ".join(note.split())
    assert said.startswith(NOTE) and "score is at least 0.5" in said and "draw 0 of the drift" in said
    assert "a seed picked the images among the test scenes with at least 2 pedestrians" in said


def test_scores_are_inside_the_image_and_apart_where_there_is_room():
    size, room, taken = (10, 5), (100, 80), []
    for _ in range(5):
        taken.append(figures._place(20, 2, 60, 70, size, room, taken))
    assert taken[0] == (20, 0)  # no room above the box
    assert len(set(taken)) == 5 and all(0 <= x <= 90 and 0 <= y <= 75 for x, y in taken)
    assert figures._place(-5, 79, 1, 80, size, room, []) == (0, 74)


def test_rendering_imports_no_detector_and_no_learner():
    slow = ("torchvision", "torchmetrics", "pycocotools", "sklearn", "skopt")
    code = f"import sys, stages.render; print([m for m in {slow} if m in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def test_chance_is_that_of_the_classes(drawn, files):
    content = copy.deepcopy(files(rows=["erm"]))
    content[0]["data"]["classes"] = 43
    figures.figure_3({"stn-gtsrb": gather(content)}, "folder")
    assert lines_by_label(drawn["figure3"].axes[0])["chance"] == [1 / 43, 1 / 43]


def test_a_row_keeps_its_colour_in_every_figure(drawn, results):
    figures.figure_3({"mlp-mnist": results()}, "folder")
    figures.figure_gains({"mlp-mnist": results()}, "folder")
    for name, rows in (("figure3", results().main()), ("gains", results().controls())):
        lines = {line.get_label(): to_hex(line.get_color()) for line in drawn[name].axes[0].lines}
        assert all(lines[ROWS[row]] == to_hex(LOOKS[row].colour) for row in rows)


def test_bands_are_the_intervals(drawn, results):
    result = results(rows=["erm"])
    figures.figure_3({"mlp-mnist": result}, "folder")
    (band,) = drawn["figure3"].axes[0].collections
    corners = {(round(x, 6), round(y, 6)) for x, y in band.get_paths()[0].vertices}
    for sigma, e in zip(result.sigmas, result.curve("erm"), strict=True):
        assert {(round(sigma, 6), round(e.low, 6)), (round(sigma, 6), round(e.high, 6))} <= corners


def test_figure_2_has_a_row_of_panels_for_each_data_set(drawn, ablations):
    given = ablations(("activation", "normalization"))
    figures.figure_2(given, "folder")
    figure = drawn["figure2"]
    assert [part.get_suptitle() for part in figure.subfigs] == [
        "MLP, handwritten digits: 1 seed, 95 % intervals over 4 draws",
        "plain VGG, drawn shapes: 1 seed, 95 % intervals over 4 draws",
    ]
    assert [axes.get_title() for axes in figure.axes] == [
        "(d) Activation functions", "(b) Normalization", "(h) Activation functions", "(f) Normalization",
    ]  # fmt: skip
    panels = [(ABLATIONS[name].factors[key], r) for name, of in given.items() for key, r in of.items()]
    for axes, (factor, result) in zip(figure.axes, panels, strict=True):
        lines = lines_by_label(axes)
        assert lines.pop("chance") == [0.1, 0.1]
        assert list(lines) == list(factor.variants)
        for variant, values in lines.items():
            assert values == [e.mean for e in result.curve(variant)]
        assert [text.get_text() for text in axes.get_legend().get_texts()] == list(factor.variants)
        assert axes.get_legend().get_window_extent().y1 < axes.get_window_extent().y0  # it hides nothing


def test_figure_2_of_data_sets_with_other_factors(drawn, ablations):
    given = {**ablations(("depth",), ("mnist",)), **ablations(("depth", "dropout"), ("cifar10",))}
    figures.figure_2(given, "folder")
    titles = [axes.get_title() for axes in drawn["figure2"].axes]
    assert titles == ["(c) Model complexity", "", "(g) Model complexity", "(e) Dropout"]


def test_figure_1_has_a_panel_a_level_and_a_line_a_copy(drawn):
    axis = torch.linspace(-1, 1, 12)
    probability = torch.stack([(axis - shift).sigmoid().expand(12, 12) for shift in (0.0, 0.4)]).expand(3, 2, 12, 12)
    points = torch.tensor([[-0.5, 0.0], [0.5, 0.2], [0.4, -0.4]])
    accuracy = torch.tensor([[1.0, 1.0], [0.8, 0.9], [0.5, 0.7]], dtype=torch.float64)
    maps = Boundaries(probability.contiguous(), axis, axis, torch.tensor([0.0, 0.5, 1.0]), accuracy, points,
                      torch.tensor([0, 1, 1]))  # fmt: skip
    note = figures.figure_1(maps, "folder", "Half-moons")
    figure = drawn["figure1"]
    titles = [axes.get_title() for axes in figure.axes[:3]]
    assert [title.split("\n")[0] for title in titles] == ["σ = 0", "σ = 0.5", "σ = 1"]
    assert titles[1].split("\n")[1] == "accuracy 0.85"
    assert all(sum(type(c).__name__ == "QuadContourSet" for c in axes.collections) == 2 for axes in figure.axes)
    assert note == "Half-moons: the boundaries of 2 drifted copies; accuracy: mean over 2 copies, 1 seed."
