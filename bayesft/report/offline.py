"""One page for a browser, with curves that answer. It loads nothing; the same results give the same bytes.

Altair describes the charts, vl-convert has the code that draws them, Jinja2 frames both.
"""

from collections.abc import Mapping, Sequence
from functools import cache
from importlib.resources import files

import numpy as np
import pandas as pd

from bayesft.report.claims import Finding, divided, measured_on, remarks, shown_difference, shown_p, summary
from bayesft.report.results import TaskResults
from bayesft.report.rows import BASELINE
from bayesft.tasks import TASKS

MOST = 1_500_000  # bytes
WIDTH, HEIGHT = 380, 250  # pixels of a chart


def offline_page(
    title: str, tasks: Mapping[str, TaskResults], judged: Mapping[str, Sequence[Finding]], notes: Sequence[str]
) -> str:
    """The page as HTML.

    Args:
        title: Its title.
        tasks: The panels.
        judged: The findings of the claims, by number.
        notes: What a reader must know of the numbers, a line each.
    """
    from jinja2 import Environment, select_autoescape

    frame = files("bayesft.report").joinpath("templates/report.html").read_text(encoding="utf-8")
    template = Environment(autoescape=select_autoescape(default=True), trim_blocks=True).from_string(frame)
    ran, missing = divided(judged)
    claims = [
        {"number": number, "said": found.claim.said, "verdict": found.verdict,
         "difference": shown_difference(found), "p": shown_p(found.corrected),
         "on": "; ".join(filter(None, (measured_on(found), remarks(found))))}
        for number, found in ran.items()
    ]  # fmt: skip
    panels = [
        {"id": TASKS[task].panel, "title": f"({TASKS[task].panel}) {result.heading(task)}: {result.intervals()}",
         "curves": chart(task, result, gain=False), "gains": chart(task, result, gain=True)}
        for task, result in tasks.items()
    ]  # fmt: skip
    step = min((float(np.diff(result.sigmas).min()) for result in tasks.values() if len(result.sigmas) > 1), default=1)
    last = max((float(result.sigmas[-1]) for result in tasks.values()), default=1)
    return template.render(
        title=title, summary=summary(judged), claims=claims, missing=missing, panels=panels, notes=notes,
        script=_script(), step=round(step, 6), last=last,
    )  # fmt: skip


def chart(task: str, result: TaskResults, gain: bool) -> str:
    """One panel as a Vega-Lite specification: accuracy, or the gain over the baseline, against σ.

    A click on the legend picks a row, the parameter `sigma` moves a line, and a point tells its interval and the epochs
    that stand behind it.
    """
    import altair as alt

    table = _table(result, gain)
    rows = list(dict.fromkeys(table.method))
    looks = {result.title(row): result.look(row) for row in result.rows()}
    colour = alt.Color("method:N").scale(domain=rows, range=[looks[row].colour for row in rows]).title(None)
    picked = alt.selection_point(name="picked", fields=["method"], bind="legend")
    level = alt.param(name="sigma", value=0.0)
    metric = TASKS[task].metric
    name = f"gain in {metric}" if gain else metric
    x = alt.X("sigma:Q").title("drift level σ")
    scale = alt.Scale() if gain else alt.Scale(domain=[0, 1])
    y = alt.Y("mean:Q").title(name).scale(scale)
    base = alt.Chart(table).encode(x=x, color=colour)
    shade = base.mark_area(clip=True).encode(
        y=alt.Y("low:Q").title(name), y2="high:Q",
        opacity=alt.when(picked).then(alt.value(0.15)).otherwise(alt.value(0)),
    )  # fmt: skip
    line = base.mark_line().encode(y=y, opacity=alt.when(picked).then(alt.value(1)).otherwise(alt.value(0.08)))
    tips = ["method:N", alt.Tooltip("sigma:Q", title="σ"), alt.Tooltip("mean:Q", title=name, format=".3f"),
            alt.Tooltip("low:Q", format=".3f"), alt.Tooltip("high:Q", format=".3f"), "over:N", "epochs:Q"]  # fmt: skip
    point = base.mark_point(filled=True, size=35).encode(
        y=y, opacity=alt.when(picked).then(alt.value(1)).otherwise(alt.value(0)), tooltip=tips
    )
    here = "abs(datum.sigma - sigma) < 1e-6"
    rule = alt.Chart(table).transform_filter(here).mark_rule(color="#888", strokeDash=[3, 3]).encode(x=x)
    whole = alt.layer(shade, line, point, rule).add_params(picked, level).properties(width=WIDTH, height=HEIGHT)
    whole = whole.configure_legend(
        orient="bottom", columns=2, labelLimit=260, symbolType="stroke", symbolOpacity=1, symbolStrokeWidth=3
    )
    return whole.to_json(indent=None, sort_keys=True).replace("</", "<\\/")


def _table(result: TaskResults, gain: bool) -> pd.DataFrame:
    """A line a point."""
    lines = []
    rows = [row for row in result.untuned() if not gain or (row != BASELINE and BASELINE in result.accuracy)]
    for row in rows:
        curve = result.differences(row, BASELINE) if gain else result.curve(row)
        for sigma, e in zip(result.sigmas, curve, strict=True):
            wide = 0.0 if np.isnan(e.half_width) else e.half_width
            lines.append({
                "method": result.title(row), "sigma": float(sigma), "mean": round(e.mean, 4),
                "low": round(e.mean - wide, 4), "high": round(e.mean + wide, 4),
                "over": f"{e.count} {e.over}", "epochs": round(result.epochs(row), 1),
            })  # fmt: skip
    return pd.DataFrame(lines, columns=["method", "sigma", "mean", "low", "high", "over", "epochs"])


@cache
def _script() -> str:
    """The code that draws charts, for a page without network."""
    import vl_convert
    from altair import SCHEMA_VERSION

    version = SCHEMA_VERSION.removeprefix("v").rpartition(".")[0]
    # The stub lacks the default of `snippet`.
    bundle = vl_convert.javascript_bundle(vl_version=version)  # type: ignore[call-arg]
    return bundle.replace("</script", "<\\/script")
