"""The page of a report, without a browser: charts are drawn by vl-convert and read back."""

import json
import re
from collections import Counter
from collections.abc import Callable
from html import unescape
from html.parser import HTMLParser
from itertools import combinations, pairwise
from pathlib import Path
from statistics import mean, stdev
from typing import Any

import numpy as np
import pytest
import vl_convert
from synthetic import write_run, write_study

from prunella.report import page as page_module
from prunella.report.charts import AXES, curve, svg
from prunella.report.evidence import Evidence
from prunella.report.explorer import Explorer
from prunella.report.findings import bests, headline
from prunella.report.looks import DARK, LIGHT, VERSION, Spec, Styles, config, figure
from prunella.report.page import main_picture, page
from prunella.report.picks import MOST, pick
from prunella.report.pictures import placed
from prunella.report.settings import METHODS

HOSTILE = "</script><script>alert(1)</script><!--\"'<img src=x onerror=alert(1)>"


@pytest.fixture(scope="module", autouse=True)
def _small_bundle() -> Any:
    """Vega is a megabyte that takes seconds to put together; one test takes it as it is."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(page_module, "_vega", lambda: "/* Vega */")
        yield


@pytest.fixture(scope="module")
def evidence(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """Two tasks, several sparsities and criteria, regularizers, scopes and learning rates."""
    folder = tmp_path_factory.mktemp("study")
    how: dict[str, Any] = {"rows": 60, "luck": 0.1, "traced": True}
    criteria = ("dense", "random", "magnitude", "pins")
    write_study(folder, criteria=criteria, sparsities=(0.5, 0.8), **how)
    write_study(folder / "mnli", tasks=("glue/mnli",), criteria=criteria[2:], seeds=(0, 1), **how)
    variants = (
        {"regularize": ("self",)},
        {"regularize": ("distill", "self"), "teacher": "teacher"},
        {"scope": "matrix"},
        {"lr": 2e-5},
        {"lr": 2e-4},
    )
    for number, variant in enumerate(variants):
        for criterion in criteria[2:]:
            for seed in (0, 1, 2):
                name = f"{criterion}-{number}-{seed}"
                write_run(folder / name, criterion, 0.8, seed, skill=0.6, **how, **variant)
    (folder / "broken").mkdir()
    (folder / "broken" / "result.json").write_text("{")
    return Evidence.read([folder])


@pytest.fixture(scope="module")
def html(evidence: Evidence) -> str:
    return page(evidence)


def script(html: str, key: str) -> Any:
    """What a script element with JSON holds."""
    found = re.search(rf'<script type="application/json" id="{key}">(.*?)</script>', html)
    assert found is not None
    return json.loads(found[1])


def drawn(spec: Spec, **values: Any) -> str:
    """A chart as SVG, with values for its parameters."""
    shown = json.loads(json.dumps(spec))
    for parameter in shown.get("params", []):
        parameter["value"] = values.get(parameter["name"], parameter["value"])
    return svg(shown)


def marks(image: str, kind: str, *fields: str) -> list[dict[str, str]]:
    """What marks of a kind say of themselves, if they say these fields."""
    found = re.findall(rf'aria-label="([^"]*)"[^>]*aria-roledescription="{kind}(?: mark)?"', image)
    pairs = [dict(part.split(": ", 1) for part in unescape(label).split("; ")) for label in found]
    return [pair for pair in pairs if {*fields} <= {*pair}]


def value(said: str) -> float:
    """A number as a chart says it: "−1.5", "80%", "17k"."""
    factor = {"%": 1, "k": 1e3, "M": 1e6}.get(said[-1])
    return float((said[:-1] if factor else said).replace("−", "-")) * (factor or 1)


def points(explorer: Explorer, axis: int = 0, **values: Any) -> dict[tuple[str, float], float]:
    """The means that the main picture shows, by label and x."""
    x = AXES[axis]
    image = drawn(explorer.spec(x), **values)
    found = [m for m in marks(image, "point", "method") if m.get("sparsity")]
    return {(m["method"], value(m["sparsity"])): value(m["mean"]) for m in found}


# --- the main picture ------------------------------------------------------------------------


def cells_of(evidence: Evidence, task: str = "glue/sst2") -> dict[tuple[str, float], Any]:
    return {
        (cell.method, round(100 * cell.sparsity, 3)): cell
        for cell in evidence.cells
        if cell.chosen and cell.task == task
    }


@pytest.mark.parametrize("axis", range(len(AXES)))
def test_the_curve_has_the_mean_of_every_cell(evidence: Evidence, axis: int) -> None:
    cells = cells_of(evidence)
    labels = list({method for method, _ in cells})
    found = points(main_picture(evidence), axis, shown=labels)
    assert found == {where: pytest.approx(100 * c.mean, abs=0.01) for where, c in cells.items()}


def test_a_band_is_a_standard_deviation_to_each_side(evidence: Evidence) -> None:
    image = drawn(main_picture(evidence).spec(AXES[0]))
    cells = cells_of(evidence)
    bars = marks(image, "rule", "low", "label", AXES[0].key)
    assert len(bars) == len(cells)
    for bar in bars:
        cell = cells[bar["label"], 100 - float(bar[AXES[0].key])]
        low, high = cell.mean - stdev(cell.values), cell.mean + stdev(cell.values)
        assert float(bar["low"]) == pytest.approx(100 * low, abs=0.01)
        assert float(bar["high"]) == pytest.approx(100 * high, abs=0.01)
    dense = cells["dense", 0.0]
    (rule,) = (mark for mark in marks(image, "rule", "mean") if "label" not in mark)
    assert float(rule["mean"]) == pytest.approx(100 * dense.mean, abs=0.01)
    every = {float(mark["y"]) for mark in marks(image, "tick", "y")}
    raw = {100 * v for (method, _), c in cells.items() if method == "dense" for v in c.values}
    assert all(any(value == pytest.approx(r, abs=0.01) for value in every) for r in raw)


@pytest.mark.parametrize("baseline", ["magnitude", "dense"])
def test_differences_are_taken_seed_by_seed(evidence: Evidence, baseline: str) -> None:
    cells = cells_of(evidence)
    found = points(main_picture(evidence), difference=True, baseline=baseline)
    assert ("PINS", 80.0) in found and (baseline, 80.0 if baseline != "dense" else 0.0) in found
    for (method, level), value in found.items():
        other = cells[baseline, 0.0 if baseline == "dense" else level]
        ours = dict(zip(cells[method, level].seeds, cells[method, level].values, strict=True))
        theirs = dict(zip(other.seeds, other.values, strict=True))
        expected = mean(ours[seed] - theirs[seed] for seed in ours.keys() & theirs.keys())
        assert value == pytest.approx(100 * expected, abs=0.01)
    # A pruned baseline says nothing of the dense model, which has another sparsity.
    assert (("dense", 0.0) in found) == (baseline == "dense")


@pytest.mark.parametrize("better", [1, -1])
def test_the_front_is_what_no_smaller_model_equals(evidence: Evidence, better: int) -> None:
    explorer = main_picture(evidence)
    spec = explorer.spec(AXES[1])
    (front,) = (
        layer
        for layer in spec["layer"]
        if isinstance(layer["mark"], dict) and layer["mark"].get("interpolate") == "step-after"
    )
    alone = spec | {"layer": [front | {"mark": "point"}]}
    labels = list({method for method, _ in cells_of(evidence)})
    found = {
        (value(mark[AXES[1].key]), value(mark["mean"]))
        for mark in marks(drawn(alone, front=True, shown=labels, better=better), "point", "mean")
    }
    all_points = [(cell.nonzero("model"), 100 * cell.mean) for cell in cells_of(evidence).values()]
    best = {
        (x, y)
        for x, y in all_points
        if not any(
            (a <= x and better * b > better * y) or (a < x and b == y) for a, b in all_points
        )
    }
    assert sorted(found) == [(x, pytest.approx(y, abs=0.01)) for x, y in sorted(best)]
    assert not marks(drawn(alone, front=False), "point", "mean")


def test_the_front_leaves_out_what_only_equals_a_smaller_model() -> None:
    about = {"task": "t", "model": "m", "n": 1, "raw": "", "note": "", "weights": 50, "seed": [0]}
    sizes = ((0.9, 10, 50), (0.8, 20, 50), (0.5, 30, 60))
    rows = [
        {**about, "label": "a", "method": "a", "sparsity": sparsity, "parameters": x, "value": [y]}
        for sparsity, x, y in sizes
    ]
    spec = curve(AXES[1], Styles({"a": "pins"}), rows, [])
    front = next(layer for layer in spec["layer"] if "interpolate" in layer["mark"])
    image = drawn(spec | {"layer": [front | {"mark": "point"}]}, front=True)
    assert [mark["parameters"] for mark in marks(image, "point", "mean")] == ["10", "30"]


def test_published_figures_are_shown_for_their_task_alone(evidence: Evidence) -> None:
    spec = main_picture(evidence).spec(AXES[0])
    labels = list(main_picture(evidence).styles.criteria)
    mnli = drawn(spec, task="glue/mnli", shown=labels, others=True)
    assert "soft movement + KD" in mnli
    sources = [mark["source"] for mark in marks(mnli, "point", "source")]
    assert len(sources) == len(evidence.published) and all("20" in source for source in sources)
    for other in ({"task": "glue/sst2", "others": True}, {"task": "glue/mnli"}):
        assert "soft movement" not in drawn(spec, shown=labels, **other)
    assert "published" not in json.dumps(main_picture(evidence).spec(AXES[1])["layer"])


def test_what_is_not_measured_cannot_be_chosen(tmp_path: Path) -> None:
    for criterion in ("dense", "pins", "magnitude"):
        for number, changes in enumerate(({}, {"flops": None, "speed": None})):
            sparsity = 0.5 + 0.3 * number
            if criterion == "pins" or number:
                name = f"{criterion}{number}"
                write_run(tmp_path / name, criterion, sparsity, rows=30, changes=changes)
    found = page(Evidence.read([tmp_path]))
    assert "FLOPs (1 of 3)" in found
    for path in tmp_path.glob("*/result.json"):
        path.write_text(json.dumps(json.loads(path.read_text()) | {"flops": None}))
    found = page(Evidence.read([tmp_path]))
    assert re.search(r'<option value="flops" disabled>FLOPs \(not measured\)', found)
    assert "flops" not in script(found, "main")["specs"]


# --- all charts ------------------------------------------------------------------------------


def test_every_chart_can_be_drawn_by_day_and_by_night(html: str) -> None:
    charts = script(html, "charts")
    keys = re.findall(r'data-chart="([^"]+)"', html)
    assert sorted(keys) == sorted(charts) and len(keys) > 15
    for number, (key, spec) in enumerate(charts.items()):
        tones = (LIGHT, DARK)[number % 2]
        whole = spec | {"width": 340, "config": config(tones)}
        image = vl_convert.vegalite_to_svg(whole, vl_version=VERSION)
        assert "NaN" not in image and "Infinity" not in image, key
        assert len(re.findall(r'role="graphics-symbol"', image)) > 2, key


def chart(html: str, key: str) -> str:
    return drawn(script(html, "charts")[key])


def test_the_grid_has_a_number_for_each_criterion_and_regularizer(
    html: str, evidence: Evidence
) -> None:
    image = chart(html, "grid-0")
    plain = [c for c in cells_of(evidence).values() if c.variant == c.regularizers and not c.dense]
    texts = re.findall(r">([^<>]+)</text>", image)
    for cell in plain:
        if cell.sparsity == 0.8:
            assert figure(cell.metric, cell.mean) in texts
    assert {"none", "self", "distill + self"} <= {*texts}


def test_intervals_are_filled_where_significant(html: str, evidence: Evidence) -> None:
    (ours,) = (spec for key, spec in script(html, "charts").items() if key == "differences-0")
    rows = ours["data"]["values"]
    by_verdict = {c.verdict: c for c in evidence.comparisons}
    assert rows
    for row in rows:
        comparison = by_verdict[row["verdict"]]
        assert (row["said"] == "significant") == comparison.significant
        assert row["low"] <= row["difference"] <= row["high"]
        assert row["difference"] == pytest.approx(100 * comparison.difference, abs=0.01)


def test_the_chosen_learning_rate_is_ringed(html: str) -> None:
    spec = script(html, "charts")["rates-lr"]
    rows = spec["data"]["values"]
    assert {row["value"] for row in rows} == {2e-5, 8e-5, 2e-4}
    assert Counter(row["label"] for row in rows if row["chosen"]) == {"magnitude": 1, "PINS": 1}
    assert len(marks(drawn(spec), "point", "mean")) == len(rows) + 2


def test_a_weight_is_kept_or_pruned_as_its_mask_says(html: str, evidence: Evidence) -> None:
    charts = {k: s for k, s in script(html, "charts").items() if k.startswith("scores-")}
    assert charts
    chosen = pick(evidence.cells)
    assert chosen is not None
    for spec in charts.values():
        (row,) = spec["data"]["values"]
        assert len(row["weight"]) == len(row["score"]) == len(row["stays"])
        kept = np.asarray(row["stays"], bool)
        scores = np.asarray(row["score"])
        # Made-up runs keep what scores highest.
        assert scores[kept].min() >= scores[~kept].max() * 0.99
        assert kept.mean() == pytest.approx(1 - chosen.level, abs=0.05)


def test_remaining_weights_add_up(html: str) -> None:
    for key, spec in script(html, "charts").items():
        if key.startswith("matrices-"):
            (row,) = spec["data"]["values"]
            assert {*row["layer"]} == {*map(str, range(6))} and len({*row["kind"]}) == 4
            assert row["left"] == [pytest.approx(0.2)] * 24
    series = script(html, "charts")["layers"]["data"]["values"]
    assert all(row["y"] == [pytest.approx(20)] * 6 for row in series)


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (
            ["bert.encoder.layer.11.attention.self.query.weight"],
            [("11", "attention.query")],
        ),
        (["transformer.h.0.attn.c_attn.weight"], [("0", "attn.c_attn")]),
        (
            [
                "encoder.block.3.layer.0.SelfAttention.q.weight",
                "decoder.block.3.layer.1.EncDecAttention.q.weight",
            ],
            [("encoder 3", "SelfAttention.q"), ("decoder 3", "EncDecAttention.q")],
        ),
        (
            ["layers.0.0.dense.weight", "layers.0.1.dense.weight"],
            [("0", "0.dense"), ("0", "1.dense")],
        ),
        (["head.weight"], [("–", "head")]),
    ],
)
def test_layer_and_kind_of_a_matrix(names: list[str], expected: list[tuple[str, str]]) -> None:
    matrices = [{"name": name, "nonzero": 1, "total": 2} for name in names]
    assert [(layer, kind) for layer, kind, _ in placed(matrices)] == expected


# --- which runs are drawn --------------------------------------------------------------------


def test_of_many_runs_a_few_are_drawn(tmp_path: Path) -> None:
    criteria = ("dense", "random", "magnitude", "fisher", "platon", "pins", "sensitivity")
    variants = ({}, {"scope": "matrix"}, {"hold": False})
    how: dict[str, Any] = {"seeds": (3, 4), "rows": 20, "traced": True}
    write_study(tmp_path, criteria=criteria, sparsities=(0.8,), variants=variants, **how)
    write_study(tmp_path / "more", criteria=("pins",), sparsities=(0.5,), **how)
    evidence = Evidence.read([tmp_path])
    chosen = pick(evidence.cells)
    assert chosen is not None and chosen.level == 0.8
    assert len(chosen.shown) == MOST and {each.run.seed for each in chosen.shown} == {3}
    plain = {METHODS[criterion] for criterion in criteria}
    assert plain <= {each.label for each in chosen.shown}  # before variants of them
    assert len(chosen.shown) + len(chosen.left) == 1 + 3 * 6
    found = page(evidence)
    assert "Left out, for there are too many lines" in found and "first seed" in found
    kinds = Counter(key.partition("-")[0] for key in script(found, "charts"))
    assert kinds["scores"] == kinds["matrices"] == 8 and sum(kinds.values()) < 40
    assert len(found) < 1_200_000


def test_a_single_run_makes_a_page(tmp_path: Path) -> None:
    write_run(tmp_path / "alone", rows=100, twin=1.5, traced=True)
    evidence = Evidence.read([tmp_path / "alone"])
    found = page(evidence)
    assert "<h1>PINS at 80 %, on glue/sst2</h1>" in found
    assert (
        "A curve needs" in found and 'id="main-chart"' not in found and script(found, "main") == {}
    )
    assert {"scores-0", "matrices-0", "loss", "threshold"} <= script(found, "charts").keys()
    assert "of dense" not in headline(bests(evidence))
    assert "2,000 prunable weights remain" in headline(bests(evidence))


def test_without_traces_there_is_a_statement(tmp_path: Path) -> None:
    write_run(tmp_path / "run", rows=30)
    (tmp_path / "dense").mkdir()
    write_run(tmp_path / "dense" / "run", "dense", rows=30)
    for folder in (tmp_path, tmp_path / "dense"):
        found = page(Evidence.read([folder]))
        assert "No run has a trace.json" in found and script(found, "charts").keys() <= {
            "differences-0"
        }


def test_a_trace_may_lack_its_parts(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "run", rows=30, traced=True)
    whole = json.loads((folder / "trace.json").read_text())
    bare = {"schema": 1, "log": [], "selections": [], "matrices": [], "weights": None}
    for missing in ("log", "selections", "matrices", "weights", "sample"):
        trace = whole | {missing: None}
        (folder / "trace.json").write_text(json.dumps(trace))
        assert script(page(Evidence.read([folder])), "charts")
    for trace in (bare, bare | {"sample": whole["sample"] | {"before": None, "score": None}}):
        (folder / "trace.json").write_text(json.dumps(trace))
        page(Evidence.read([folder]))
    odd = [entry | {"threshold": "much", "sparsity": 0.1} for entry in whole["selections"]]
    (folder / "trace.json").write_text(json.dumps(whole | {"selections": odd}))
    assert "threshold" not in script(page(Evidence.read([folder])), "charts")


# --- the page --------------------------------------------------------------------------------


class Reader(HTMLParser):
    """Elements of a page in order, their attributes, and the text outside of scripts."""

    def __init__(self, html: str):
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._open = "", ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        self._open = tag

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open not in ("script", "style"):
            self.text += data

    def all(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


@pytest.fixture(scope="module")
def read(html: str) -> Reader:
    return Reader(html)


def test_nothing_is_asked_of_another_place(html: str, read: Reader) -> None:
    for _, attributes in read.elements:
        assert not {"src", "srcset", "action", "data", "poster"} & {*attributes}
        assert (attributes.get("href") or "#").startswith("#")
    assert not read.all("link") and "@import" not in html and "url(" not in html
    (policy,) = (each["content"] for each in read.all("meta") if each.get("http-equiv"))
    assert policy is not None and "default-src 'none'" in policy
    assert not re.search(r"(connect|frame|font|object)-src|unsafe-eval|https?:", policy)


def test_the_bundle_is_vega_and_ends_no_script(
    evidence: Evidence, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.undo()
    made = vl_convert.javascript_bundle("window.vegaEmbed = vegaEmbed;", vl_version=VERSION)
    monkeypatch.setattr(vl_convert, "javascript_bundle", lambda *_, **__: made + "'</script>'")
    bundle = _vega()
    assert "window.vegaEmbed" in bundle and "</script" not in bundle
    assert 500_000 < len(bundle) < 1_200_000


_vega: Callable[[], str] = page_module._vega  # as it is, before it is put aside above


def test_headings_anchors_and_landmarks(read: Reader) -> None:
    levels = [int(tag[1]) for tag, _ in read.elements if re.fullmatch("h[1-6]", tag)]
    assert levels[0] == 1 and levels.count(1) == 1
    assert all(later <= earlier + 1 for earlier, later in pairwise(levels))
    ids = [a["id"] for _, a in read.elements if "id" in a]
    assert len(ids) == len({*ids})
    targets = {(a["href"] or "")[1:] for a in read.all("a")}
    assert targets <= {*ids} and {"findings", "curve", "runs", "table-problems"} <= targets
    for landmark in ("header", "nav", "main", "footer"):
        assert len(read.all(landmark)) == 1
    for section in read.all("section"):
        assert section["aria-labelledby"] in ids


def test_tables_can_be_read_aloud(html: str) -> None:
    tables = re.findall(r"<table>.*?</table>", html, re.DOTALL)
    assert len(tables) > 8
    for table in tables:
        assert re.match(r'<table><caption class="hidden">[^<]+</caption><thead>', table)
        assert '<th scope="col"' in table and '<th scope="row"' in table
    assert all(re.search("<(figcaption)>", part) for part in html.split("<figure>")[1:])


def test_every_control_has_a_name(html: str, read: Reader) -> None:
    controls = html[html.index("<form") : html.index("</form>")]
    assert controls.count("<select") == len(re.findall(r"<label[^>]*>\w+ <select", controls)) == 3
    boxes = re.findall(r"<label[^>]*><input[^>]*> ([^<]+)</label>", controls)
    assert len(boxes) == controls.count("<input") and "PINS" in boxes and "Pareto front" in boxes
    assert [each.get("type") for each in read.all("button")] == ["button"] * 3


def test_every_raw_value_and_command_is_in_a_table(evidence: Evidence, read: Reader) -> None:
    for cell in evidence.cells:
        assert " ".join(f"{value:.4f}" for value in cell.values) in read.text
    assert read.text.count("prunella prune --task glue/") == len(evidence.runs)
    for flag in evidence.flags:
        assert flag in read.text
    assert "it is no sound JSON" in read.text


def test_what_all_rows_share_is_said_once(read: Reader) -> None:
    assert "model demo" in read.text and "In all rows:" in read.text
    assert read.text.count("a" * 40) == 2  # the commit: of all runs, and above their table


def test_hostile_names_are_text(tmp_path: Path) -> None:
    for criterion in ("dense", "magnitude", "pins"):
        for seed in (0, 1):
            name = f"{criterion}{seed}"
            write_run(tmp_path / name, criterion, 0.8, seed, rows=30, traced=True, model=HOSTILE)
    for path in tmp_path.glob("*/trace.json"):
        trace = json.loads(path.read_text())
        trace["matrices"][0]["name"] = HOSTILE
        path.write_text(json.dumps(trace))
    for path in tmp_path.glob("*/result.json"):
        result = json.loads(path.read_text())
        result["environment"] |= {"commit": HOSTILE, "cpu": HOSTILE}
        path.write_text(json.dumps(result))
    (tmp_path / "<script>alert(1)<").mkdir()
    (tmp_path / "<script>alert(1)<" / "result.json").write_text(HOSTILE)
    found = page(Evidence.read([tmp_path]))
    assert "<script>alert" not in found and "<img" not in found and "<!--" not in found
    assert not Reader(found).all("img") and len(Reader(found).all("script")) == 5
    assert HOSTILE in Reader(found).text
    assert {row["model"] for row in script(found, "main")["datasets"]["cells"]} == {HOSTILE}
    assert "onerror" not in "".join(
        key for _, attributes in Reader(found).elements for key in attributes
    )


# --- looks -----------------------------------------------------------------------------------


def luminance(colour: str) -> float:
    parts = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [p / 12.92 if p <= 0.04045 else ((p + 0.055) / 1.055) ** 2.4 for p in parts]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


def contrast(one: str, other: str) -> float:
    dark, light = sorted((luminance(one), luminance(other)))
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("tones", [LIGHT, DARK])
def test_colours_stand_out(tones: Any) -> None:
    for colour in (tones.ink, tones.muted, tones.accent):
        assert contrast(colour, tones.surface) >= 4.5
        assert contrast(colour, tones.panel) >= 4.5
    for colour in tones.palette:
        assert contrast(colour, tones.surface) >= 3
    # Numbers on a heat map: ink on the lower half, surface on the upper.
    for tone in tones.ramp[:2]:
        assert contrast(tones.ink, tone) >= 4.5
    for tone in tones.ramp[3:]:
        assert contrast(tones.surface, tone) >= 4.5


def test_methods_are_told_apart_without_colour() -> None:
    criteria = {METHODS[name]: name for name in METHODS}
    variants = {f"{METHODS['pins']} {n}": "pins" for n in range(5)}
    encoding = Styles(criteria | variants).encoding()
    looks = [
        (json.dumps(colour), shape, tuple(dash))
        for colour, shape, dash in zip(
            *(encoding[channel]["scale"]["range"] for channel in ("color", "shape", "strokeDash")),
            strict=True,
        )
    ]
    pruned = looks[1:]
    assert all(one[:2] != other[:2] for one, other in combinations(pruned, 2))
    first = dict(zip(criteria, looks, strict=False))
    assert len({first[METHODS[name]][1] for name in ("magnitude", "fisher", "platon", "pins")}) == 4
    family = looks[list(criteria).index("PINS")], *looks[len(criteria) :]
    assert (
        len({colour for colour, *_ in family}) == 1 and len({shape for _, shape, _ in family}) == 6
    )
