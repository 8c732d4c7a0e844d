"""The offline page: nothing from outside, the same bytes twice, and a browser draws every chart of it."""

import re
import shutil
import subprocess

import pytest

from bayesft.report.claims import CLAIMS, divided, judge
from bayesft.report.offline import MOST, _table, offline_page
from bayesft.tasks import DETECTION

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.fixture(scope="module")
def tasks(results, detections):
    return {"mlp-mnist": results(), DETECTION: detections()}


@pytest.fixture(scope="module")
def text(tasks):
    return offline_page("BayesFT <reproduced>", tasks, judge(CLAIMS, tasks), ["5 < 6 images"])


def test_the_page_is_whole_small_and_repeatable(text, tasks):
    assert len(text.encode()) < MOST
    assert text == offline_page("BayesFT <reproduced>", tasks, judge(CLAIMS, tasks), ["5 < 6 images"])
    assert "<title>BayesFT &lt;reproduced&gt;</title>" in text and "<li>5 &lt; 6 images</li>" in text
    ran, missing = divided(judge(CLAIMS, tasks))
    assert re.findall(r"<tr><td>(\d+)</td>", text) == list(ran) and f"<p>{missing}</p>" in text
    frame = re.sub(r"<script.*?</script>", "", text, flags=re.S)
    assert not re.findall(r"src=|href=|url\(|@import", frame)


def test_the_points_are_the_results(tasks):
    result = tasks["mlp-mnist"]
    table = _table(result, gain=False)
    at = table[(table.method == "BayesFT") & (table.sigma == 0.6)].iloc[0]
    e = result.at("bayesft", 0.6)
    assert (at["mean"], at.low, at.high) == pytest.approx((e.mean, e.low, e.high), abs=1e-4)
    assert at.epochs == 50  # 40 of training, 10 of the search
    without = table[table.method == "BayesFT, Algorithm 1"]
    assert set(without.epochs) == {10}  # its weights are of the search
    gains = _table(result, gain=True)
    assert "ERM" not in set(gains.method) and (gains[gains.sigma == 0.6]["mean"] != 0).any()


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium")
def test_a_browser_draws_every_chart_and_asks_nothing_of_the_network(text, tmp_path):
    page, log = tmp_path / "report.html", tmp_path / "net.json"
    page.write_text(text, encoding="utf-8")
    shown = subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking",
         "--virtual-time-budget=20000", f"--user-data-dir={tmp_path / 'profile'}", f"--log-net-log={log}",
         "--dump-dom", page.as_uri()],
        capture_output=True, text=True, timeout=120, check=True,
    ).stdout  # fmt: skip
    assert len(re.findall(r'<svg[^>]* class="marks"', shown)) == 2 * 2 and 'data-ready="4"' in shown
    assert "At σ = 0: " in shown  # the reading under each panel
    asked = set(re.findall(r'"url":"(https?://[^"]*)"', log.read_text(encoding="utf-8", errors="replace")))
    assert not [url for url in asked if not re.search(r"google|gvt1", url)], "the page's own requests"
