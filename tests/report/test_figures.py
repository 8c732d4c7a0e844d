"""The figures: what they show, and that the same results give the same bytes."""

import copy
import subprocess
import sys
from dataclasses import astuple

import matplotlib.pyplot as plt
import numpy as np
import pytest
import torch
from matplotlib.colors import to_hex, to_rgb

from bayesft.evaluation.boundary import Boundaries
from bayesft.evaluation.statistics import estimate
from bayesft.report import figures, style
from bayesft.tasks import ABLATIONS, CLASSIFICATION, DETECTION, TASKS
from tests.report.shown import LOOKS, ROWS, TUNED, gather

NOTE = "scale: quick"
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


def shown_rows(result) -> list[str]:
    return [ROWS[row] for row in result.untuned()]


def draw(kind, folder, results, ablations, pictures):
    if kind == "figure4":
        figures.figure_4(pictures, results(rows=["erm", "bayesft"]), folder, NOTE)
    elif kind == "figure2":
        figures.figure_2(ablations(), folder, NOTE)
    else:
        draw_tasks = {"figure3": figures.figure_3, "search": figures.figure_search}[kind]
        draw_tasks({"lenet-mnist": results()}, folder, NOTE)


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
    draw(kind, tmp_path / "first", results, ablations, pictures)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")  # what time it is must not matter
    draw(kind, tmp_path / "second", results, ablations, pictures)
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


def test_figure_3_shows_the_curve_of_every_row(drawn, results):
    result = results(seeds=(0, 1))
    figures.figure_3({"mlp-mnist": result, "lenet-mnist": result}, "folder", NOTE)
    assert list(drawn) == ["figure3", "figure3a", "figure3b"]
    figure, note = drawn["figure3"]
    assert f"{NOTE}; mean; band: 95 % interval over 2 training seeds" in " ".join(note.split())
    for axes in [*figure.axes, drawn["figure3a"][0].axes[0]]:
        lines = lines_by_label(axes)
        assert lines.pop("chance") == [0.1, 0.1]
        assert set(lines) == set(shown_rows(result))
        for row in result.untuned():
            assert lines[ROWS[row]] == [e.mean for e in result.curve(row)]
        assert len(axes.collections) == len(result.untuned())  # a band each
        assert axes.get_xlim() == (0, 0.75) and axes.get_ylim() == (0, 1)
    titles = [axes.get_title() for axes in figure.axes]
    assert titles == ["(a) MLP, handwritten digits", "(b) LeNet-5, handwritten digits"]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [*shown_rows(result), "chance"]


def test_figure_3_of_nine_tasks_is_a_grid_that_says_what_a_panel_lacks(drawn, results):
    few, controls = ["erm", "uniform", "bayesft", "bayesft-alg1"], [*results().rows(), "erm-no-norm", "bayesft-no-norm"]
    rows = {"vgg11-cifar10": controls, "preact18-cifar10": controls, "preact50-cifar10": few, "preact152-cifar10": few}
    figures.figure_3({task: results(rows=rows.get(task)) for task in CLASSIFICATION}, "folder", NOTE)
    figure, _ = drawn["figure3"]
    assert [axes.get_title()[1] for axes in figure.axes] == list("abcdefghi")
    said = {axes.get_title()[1]: "".join(text.get_text() for text in axes.texts) for axes in figure.axes}
    only = "only ERM · uniform dropout · BayesFT, Algorithm 1 · BayesFT"
    assert [panel for panel, text in said.items() if only in text] == list("gh")
    every = "1 seed, 95 % intervals over 4 draws\nBayesFT: trials inherit weights, 2 epochs each"
    assert all(text.startswith(every) for text in said.values())
    alone, _ = drawn["figure3h"]
    assert [text.get_text() for text in alone.axes[0].texts] == [every]
    assert [axes.get_title()[1] for axes in figure.axes if axes.get_ylabel()] == list("adg")
    assert [axes.get_title()[1] for axes in figure.axes if axes.get_xlabel()] == list("ghi")
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels == [*(name for row, name in ROWS.items() if not row.endswith(TUNED)), "chance"]


def test_figure_3_of_ten_tasks_has_its_legend_beside_the_last(drawn, results, detections):
    given = {task: results(rows=["erm", "awp", "bayesft"]) for task in CLASSIFICATION} | {DETECTION: detections()}
    figures.figure_3(given, "folder", NOTE)
    figure, note = drawn["figure3"]
    *axes, room = figure.axes
    assert [ax.get_title()[1] for ax in axes] == list("abcdefghij") and not figure.legends
    grids = [ax.get_subplotspec() for ax in axes]
    assert (grids[9].rowspan.start, grids[9].colspan.start) == (3, 0)
    assert list(room.get_subplotspec().colspan) == [1, 2] and room.get_subplotspec().rowspan.start == 3
    assert [text.get_text() for text in room.get_legend().get_texts()] == [
        "ERM", "AWP (weights only)", "BayesFT, Algorithm 1", "BayesFT", "chance",
    ]  # fmt: skip
    assert {ax.get_title()[1]: ax.get_ylabel() for ax in axes if ax.get_ylabel()} == {
        "a": "accuracy", "d": "accuracy", "g": "accuracy", "j": "box mAP@0.5",
    }  # fmt: skip
    assert [ax.get_title()[1] for ax in axes if ax.get_xlabel()] == list("hij")
    assert set(lines_by_label(axes[9])) == {"ERM", "BayesFT", "BayesFT, Algorithm 1"}  # no chance
    assert lines_by_label(axes[9])["ERM"] == [e.mean for e in detections().curve("erm")]
    alone, _ = drawn["figure3j"]
    assert alone.axes[0].get_ylabel() == "box mAP@0.5" and "chance" not in lines_by_label(alone.axes[0])
    assert "1,500 test images" in note


def test_a_panel_of_another_metric_says_so_in_any_column(drawn, results, detections):
    figures.figure_3({"mlp-mnist": results(), DETECTION: detections()}, "folder", NOTE)
    assert [ax.get_ylabel() for ax in drawn["figure3"][0].axes] == ["accuracy", "box mAP@0.5"]


def test_search_figure_says_what_the_objective_of_a_detector_is(drawn, results, detections):
    figures.figure_search({"mlp-mnist": results(), DETECTION: detections()}, "folder", NOTE)
    left, _, of_detector, _ = drawn["search"][0].axes
    assert left.get_ylabel() == "objective u" and of_detector.get_ylabel() == "objective u (box mAP@0.5)"
    assert of_detector.get_title().startswith("(j)")


def test_figure_4_has_a_block_an_image_with_a_row_a_network(drawn, pictures, results):
    figures.figure_4(pictures, results(rows=["erm", "bayesft"]), "folder", NOTE)
    figure, note = drawn["figure4"]
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
    assert all(len(line) <= 80 for line in note.splitlines())


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
    figures.figure_3({"stn-gtsrb": gather(content)}, "folder", NOTE)
    assert lines_by_label(drawn["figure3"][0].axes[0])["chance"] == [1 / 43, 1 / 43]


def test_a_row_keeps_its_colour_in_every_figure(drawn, results):
    figures.figure_3({"mlp-mnist": results()}, "folder", NOTE)
    figures.figure_search({"mlp-mnist": results()}, "folder", NOTE)
    (curves,), (_, rates) = drawn["figure3"][0].axes, drawn["search"][0].axes
    for row in ("bayesft", "random", "uniform"):
        colours = {
            to_hex(line.get_color()) for axes in (curves, rates) for line in axes.lines if line.get_label() == ROWS[row]
        }
        assert colours == {to_hex(LOOKS[row].colour)}


def test_bands_are_the_intervals(drawn, results):
    result = results(rows=["erm"])
    figures.figure_3({"mlp-mnist": result}, "folder", NOTE)
    (band,) = drawn["figure3"][0].axes[0].collections
    corners = {(round(x, 6), round(y, 6)) for x, y in band.get_paths()[0].vertices}
    for sigma, e in zip(result.sigmas, result.curve("erm"), strict=True):
        assert {(round(sigma, 6), round(e.low, 6)), (round(sigma, 6), round(e.high, 6))} <= corners


def test_figure_2_has_a_row_of_panels_for_each_data_set(drawn, ablations):
    given = ablations(("activation", "normalization"))
    figures.figure_2(given, "folder", NOTE)
    figure, note = drawn["figure2"]
    assert "95 % interval over 4 drift draws" in note and note.count("997 train") == 1
    assert [part.get_suptitle() for part in figure.subfigs] == ["MLP, handwritten digits", "plain VGG, drawn shapes"]
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


def test_figure_2_of_data_sets_with_other_factors(drawn, ablations):
    given = {**ablations(("depth",), ("mnist",)), **ablations(("depth", "dropout"), ("cifar10",))}
    figures.figure_2(given, "folder", NOTE)
    titles = [axes.get_title() for axes in drawn["figure2"][0].axes]
    assert titles == ["(c) Model complexity", "", "(g) Model complexity", "(e) Dropout"]


def test_search_figure_shows_trials_the_best_so_far_and_the_rates(drawn, results):
    figures.figure_search({"mlp-mnist": results()}, "folder", NOTE)
    left, right = drawn["search"][0].axes
    best = lines_by_label(left)
    assert best["BayesFT"] == pytest.approx([0.51, 0.51, 0.71, 0.71, 0.71])
    assert best["random search"] == pytest.approx([0.5, 0.5, 0.7, 0.7, 0.7])
    points = [container.lines[0].get_ydata().tolist() for container in left.containers]
    assert points == [pytest.approx([0.5, 0.4, 0.7, 0.6, 0.65]), pytest.approx([0.51, 0.41, 0.71, 0.61, 0.66])]
    rates = lines_by_label(right)
    assert rates == dict.fromkeys(("BayesFT", "random search"), RATES)
    assert [text.get_text() for text in right.get_xticklabels()] == ["2", "4"]


def test_search_figure_has_two_tasks_a_line_and_leaves_out_those_without_a_search(drawn, results):
    given = {task: results() for task in list(TASKS)[:3]} | {"stn-gtsrb": results(rows=["erm", "awp"])}
    figures.figure_search(given, "folder", NOTE)
    figure, note = drawn["search"]
    assert [axes.get_title()[:3] for axes in figure.axes] == ["(a)", "", "(b)", "", "(c)", "", "", ""]
    assert [text.get_text() for text in figure.legends[0].get_texts()] == [
        "random search",
        "BayesFT",
    ]
    assert "(i)" not in note
    with pytest.raises(ValueError, match="no task has a search"):
        figures.figure_search({"stn-gtsrb": results(rows=["erm", "awp"])}, "folder", NOTE)


def test_rows_of_other_sites_span_the_same_axis(drawn, files):
    content = copy.deepcopy(files())
    content[0]["rows"]["bayesft"]["about"]["rates"] = {f"layer{i}": 0.5 for i in range(6)}
    figures.figure_search({"mlp-mnist": gather(content)}, "folder", NOTE)
    (line,) = (x for x in drawn["search"][0].axes[1].lines if x.get_label() == "BayesFT")
    assert list(line.get_xdata()) == pytest.approx([1, 1.2, 1.4, 1.6, 1.8, 2]) and set(line.get_ydata()) == {0.5}


def test_names_of_sites_are_short_and_differ():
    assert figures.short(["2", "4"]) == ["2", "4"]
    assert figures.short(["net.features.2", "net.features.10", "net.head.1"]) == ["features.2", "features.10", "head.1"]
    long = figures.short(["layer1.0.block.activation1", "layer1.0.block.activation2", "layer2.0.shortcut.activation9"])
    assert len(set(long)) == 3 and all(len(name) <= 14 for name in long)
    assert figures.short(["localisation.features.2", "fc1"]) == ["local.featu.2", "fc1"]
    alike = figures.short(["aaaaaaa.one.zzzzzzzzz", "aaaaaaa.two.zzzzzzzzz"])
    assert len(set(alike)) == 2
    assert figures.short(["backbone.2"]) == ["backbone.2"]


def test_search_figure_of_several_seeds_shows_the_mean_of_the_best(drawn, files):
    content = copy.deepcopy(files(seeds=(0, 1), rows=["bayesft"]))
    for trial in content[1]["rows"]["bayesft"]["about"]["trials"]:
        trial["objective"] = 0.91 - 0.1 * trial["number"]
    figures.figure_search({"mlp-mnist": gather(content)}, "folder", NOTE)
    figure, note = drawn["search"]
    best = lines_by_label(figure.axes[0])["BayesFT"]
    assert best == pytest.approx([0.71, 0.71, 0.81, 0.81, 0.81])
    assert "mean and 95 % interval over seeds" in " ".join(note.split())
    assert not figure.axes[0].containers, "trials of several seeds would hide one another"
    (band,) = figure.axes[0].collections
    first, heights = estimate(np.array([[0.51], [0.91]])), band.get_paths()[0].vertices[:, 1]
    assert (heights.min(), heights.max()) == pytest.approx((first.low, first.high))


def test_rates_of_several_seeds_are_their_mean_and_range(drawn, files):
    content = copy.deepcopy(files(seeds=(0, 1), rows=["bayesft"]))
    content[1]["rows"]["bayesft"]["about"]["rates"] = {"2": 0.75, "4": 0.5}
    figures.figure_search({"mlp-mnist": gather(content)}, "folder", NOTE)
    right = drawn["search"][0].axes[1]
    assert lines_by_label(right)["BayesFT"] == [0.5, 0.5]
    (ranges,) = right.collections
    assert [segment[:, 1].tolist() for segment in ranges.get_segments()] == [[0.25, 0.75], [0.5, 0.5]]


def test_rows_of_one_search_share_the_curve_of_the_last(drawn, files):
    content = copy.deepcopy(files(rows=["random", "bayesft-alg1", "bayesft"]))
    rows = content[0]["rows"]
    rows["bayesft-alg1"]["about"]["trials"] = rows["bayesft"]["about"]["trials"]
    figures.figure_search({"mlp-mnist": gather(content)}, "folder", NOTE)
    left, right = drawn["search"][0].axes
    assert list(lines_by_label(left)) == ["random search", "BayesFT"]
    assert list(lines_by_label(right)) == ["random search", "BayesFT, Algorithm 1", "BayesFT"]


def test_trials_that_failed_or_stopped_half_way_are_never_the_best(drawn, files):
    content = copy.deepcopy(files(rows=["bayesft"]))
    trials = content[0]["rows"]["bayesft"]["about"]["trials"]
    trials[0] |= {"objective": None, "standard_error": None, "failed": True}
    trials[2] |= {"stopped": True}
    figures.figure_search({"mlp-mnist": gather(content)}, "folder", NOTE)
    best = lines_by_label(drawn["search"][0].axes[0])["BayesFT"]
    assert np.isnan(best[0]) and best[1:] == pytest.approx([0.41, 0.41, 0.61, 0.66])


@pytest.mark.parametrize("rows", [["erm", "bayesft"], ["random", "erm"]])
def test_search_figure_of_one_strategy_alone(drawn, results, rows):
    figures.figure_search({"mlp-mnist": results(rows=rows)}, "folder", NOTE)
    (name,) = (ROWS[row] for row in rows if row != "erm")
    left, right = drawn["search"][0].axes
    assert list(lines_by_label(left)) == [name]
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
