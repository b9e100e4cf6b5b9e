# SPDX-License-Identifier: Apache-2.0
"""The report as one HTML page that needs nothing beside it: plots, tables, film strips of the worst sequences."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from vlt_ros.evaluation import behaviour
from vlt_ros.evaluation.metrics import overlaps
from vlt_ros.evaluation.report import FRAME_0, write_whole
from vlt_ros.evaluation.runs import Run
from vlt_ros.evaluation.sequences import Sequence as Video

WORST = 5
# Pictures of a film strip, in how many columns, and how wide each is in pixels.
STRIP, COLUMNS, WIDTH = 6, 3, 380
# Distinct on white for colour-blind readers too (Okabe and Ito); the truth is drawn in green.
COLOURS = ("#0072B2", "#D55E00", "#CC79A7", "#E69F00", "#56B4E9", "#444444")
TRUTH_BGR = (60, 200, 60)
METRIC_HEADS = {"auc": "AUC", "precision": "P at 20 px", "norm_precision": "NP at 0.2", "norm_precision_auc": "NP area",
                "ao": "AO", "sr50": "SR0.5", "sr75": "SR0.75"}
BEHAVIOUR_HEADS = {"first_lock_s": "first lock (s)", "never_locked": "never locked", "wrong_lock_rate": "wrong lock",
                   "false_present_rate": "false present", "reacquisition_s": "re-acquisition (s)",
                   "reacquired": "re-acquired", "lost_for_good": "lost for good", "id_stability": "id stability",
                   "false_tracking_rate": "false tracking", "absences": "absences", "lost_s": "until LOST (s)",
                   "lost_in_time": "LOST in time", "back_s": "until back (s)", "back_in_time": "back in time"}
PLOTS = (("success", "Success", "IoU threshold", "part of frames above", "auc"),
         ("precision", "Precision", "centre error threshold (px)", "part of frames within", "precision"),
         ("norm_precision", "Normalised precision", "centre error in sizes of the true box", "part of frames within",
          "norm_precision"))
FACTS = {"model": "model", "weights": "weights", "start": "started by", "phrase": "sentence", "device": "device",
         "arithmetic": "arithmetic", "results": "results of", "protocol_name": "protocol"}


def write_page(file: Path, report: dict, sequences: Sequence[Video], runs: Mapping[str, Mapping[str, Run]]) -> None:
    """Write the page.

    Args:
        file: the HTML file. report: see ``report.assess``, with ``against``.
        sequences: what was followed. runs: of every tracker by name, the report's own first, by sequence.

    Raises:
        SequenceError: images that were there cannot be read any more.
    """
    from jinja2 import Environment

    blocks = dict(zip(runs, [report, *report["against"].values()], strict=True))
    colours = {name: COLOURS[index % len(COLOURS)] for index, name in enumerate(blocks)}
    own = next(iter(blocks))
    known = [video for video in sequences if report["per_sequence"][video.name]["auc"] is not None]
    worst = sorted(known, key=lambda video: (report["per_sequence"][video.name]["auc"], video.name))[:WORST]
    template = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(TEMPLATE)
    write_whole(file, template.render(
        report=report, blocks=blocks, colours=colours, own=own, metrics=METRIC_HEADS, behaviours=BEHAVIOUR_HEADS,
        facts={head: report[fact] for fact, head in FACTS.items() if fact in report}, frame_0=FRAME_0,
        definitions=behaviour.DEFINITIONS,
        frames=sum(len(video) for video in sequences),
        plots=[_plot(blocks, colours, *plot) for plot in PLOTS],
        calibration=_calibration(report["calibration"]) if report["calibration"] else "",
        worst=[{"video": video, "entry": report["per_sequence"][video.name],
                "strip": _strip(video, {name: run[video.name] for name, run in runs.items()}, colours),
                "timeline": _timeline(video, {name: run[video.name] for name, run in runs.items()}, colours)}
               for video in worst]))


def _figure(width: float, height: float):
    from matplotlib.figure import Figure

    figure = Figure((width, height))
    # Fixed margins in inches: matplotlib's own layouts take twice the time of the drawing.
    axes = figure.add_axes((0.6 / width, 0.5 / height, 1 - 0.75 / width, 1 - 0.8 / height))
    axes.spines[["top", "right"]].set_visible(False)
    return figure, axes


def _svg(figure) -> str:
    """The figure as SVG for a page; the same figure always gives the same text."""
    import matplotlib

    with matplotlib.rc_context({"svg.hashsalt": "vlt", "svg.fonttype": "none", "font.family": "sans-serif"}):
        text = io.StringIO()
        figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    svg = text.getvalue()
    return svg[svg.index("<svg"):]


def _plot(blocks: dict, colours: dict, curve: str, title: str, x: str, y: str, metric: str) -> str:
    figure, axes = _figure(4.6, 3.6)
    for name, block in sorted(blocks.items(), key=lambda item: -(item[1][metric] or 0)):
        points = block["curves"][curve]
        if None not in points["rates"]:
            axes.plot(points["thresholds"], points["rates"], color=colours[name], linewidth=1.8,
                      label=f"{name} [{block[metric]:.3f}]")
    axes.set(title=title, xlabel=x, ylabel=y, ylim=(0, 1), xlim=(0, None))
    axes.grid(alpha=0.3)
    if axes.lines:
        axes.legend(fontsize=8, loc="best", framealpha=0.8, edgecolor="none")
    return _svg(figure)


def _calibration(bins: list[dict]) -> str:
    """IoU by confidence, with how many boxes there were."""
    figure, axes = _figure(9.6, 3.2)
    known = [one for one in bins if one["frames"]]
    centres = [(one["low"] + one["high"]) / 2 for one in known]
    total = sum(one["frames"] for one in known)
    axes.bar(centres, [one["frames"] / total for one in known], width=0.045, color="#cccccc", label="part of the boxes")
    for name, label, colour in (("mean_iou", "mean IoU", COLOURS[0]), ("above_30", "IoU over 0.3", COLOURS[3]),
                                ("above_50", "IoU over 0.5", COLOURS[1])):
        axes.plot(centres, [one[name] for one in known], color=colour, marker="o", markersize=4, label=label)
    axes.set(title="What a confidence is worth", xlabel="confidence", ylabel="part", ylim=(0, 1), xlim=(0, 1))
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8, loc="upper left", framealpha=0.8, edgecolor="none")
    return _svg(figure)


def _timeline(video: Video, runs: dict[str, Run], colours: dict) -> str:
    figure, axes = _figure(9.6, 1.7)
    for name, run in reversed(runs.items()):
        iou = overlaps(run.boxes, video.boxes)
        axes.plot(np.where(video.absent | ~run.present, np.nan, iou), color=colours[name], linewidth=1.2)
    for start, end in behaviour.spans(video.absent):
        axes.axvspan(start - 0.5, end - 0.5, color="#bbbbbb", alpha=0.5, linewidth=0)
    axes.set(xlabel="frame", ylabel="IoU", ylim=(0, 1), xlim=(0, max(1, len(video) - 1)))
    return _svg(figure)


def _strip(video: Video, runs: dict[str, Run], colours: dict) -> str | None:
    """Frames from the first to the last with everybody's boxes as the base64 of a JPEG, None without images."""
    if video.media is None:
        return None
    import cv2

    from vlt_ros.media import ContactSheet

    count = min(STRIP, len(video))
    sheet = ContactSheet(count, COLUMNS, WIDTH)
    for index, image in video.images_at(np.linspace(0, len(video) - 1, count).round().astype(int).tolist()):
        scale = WIDTH / image.shape[1]
        image = cv2.resize(image, (WIDTH, max(1, round(scale * image.shape[0]))),
                           interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_CUBIC)
        for name, run in reversed(runs.items()):
            if run.present[index]:
                _draw(image, scale * run.boxes[index], tuple(int(colours[name][i:i + 2], 16) for i in (5, 3, 1)), 2)
        if not video.absent[index]:
            # Last and thin: where a tracker is right, both are seen.
            _draw(image, scale * video.boxes[index], TRUTH_BGR, 1)
        cv2.putText(image, str(index), (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (0, 0, 0), 3, cv2.LINE_AA)
        cv2.putText(image, str(index), (6, 18), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, cv2.LINE_AA)
        sheet.add(image)
    done, data = cv2.imencode(".jpg", sheet.image(), [cv2.IMWRITE_JPEG_QUALITY, 85])
    return base64.b64encode(data.tobytes()).decode() if done else None


def _draw(image: np.ndarray, box: np.ndarray, colour: tuple[int, int, int], thickness: int) -> None:
    import cv2

    x, y, w, h = (float(v) for v in box)
    cv2.rectangle(image, (round(x), round(y)), (round(x + w), round(y + h)), colour, thickness, cv2.LINE_AA)


TEMPLATE = """\
{% macro cell(value, digits=3) %}
<td>{{ "–" if value is none else ("%." ~ digits ~ "f") % value if value is float else value }}</td>
{% endmacro %}
{% macro name_cell(name) %}
<th scope="row"><span class="dot" style="background:{{ colours[name] }}"></span>{{ name }}</th>
{% endmacro %}
{% macro score_head(first) %}
<tr><th>{{ first }}</th>{% for head in metrics.values() %}<th>{{ head }}</th>{% endfor %}
{% endmacro %}
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>Tracking evaluation: {{ own }}, {{ report.protocol_name }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #1c1c1c; max-width: 1150px; margin: 2em auto; padding: 0 1em; }
h1 { font-size: 1.6em; } h2 { font-size: 1.2em; margin-top: 2em; border-bottom: 1px solid #ddd; }
h3 { font-size: 1em; margin-bottom: .3em; }
table { border-collapse: collapse; margin: .6em 0; font-variant-numeric: tabular-nums; }
th, td { padding: .2em .7em; text-align: right; border-bottom: 1px solid #eee; }
th:first-child { text-align: left; font-weight: 500; } thead th { border-bottom: 1px solid #999; font-weight: 600; }
.wide { overflow-x: auto; }
.plots { display: flex; flex-wrap: wrap; gap: 1em; } .plots svg { width: 360px; height: auto; }
.strip { width: 100%; } .timeline svg { width: 100%; height: auto; }
.dot { display: inline-block; width: .8em; height: .8em; border-radius: 50%; margin-right: .5em; }
.note { color: #555; max-width: 75ch; } dl { display: grid; grid-template-columns: max-content auto; gap: 0 1.2em; }
dt { color: #555; } dd { margin: 0; } td.low { background: #fde8e4; } td.words { text-align: left; }
</style>
</head>
<body>
<h1>Tracking evaluation: {{ own }}</h1>
<p>{{ blocks | length }} tracker{{ "s" if blocks | length > 1 }} on {{ report.per_sequence | length }} sequences,
{{ frames }} frames. All scores are parts of 1; higher is better.</p>
<dl>{% for head, value in facts.items() %}<dt>{{ head }}</dt><dd>{{ value }}</dd>{% endfor %}</dl>
<p class="note"><strong>Protocol {{ report.protocol_name }}.</strong> {{ report.protocol }}</p>

<h2>Overall</h2>
<div class="wide"><table>
<thead>{{ score_head("tracker") }}<th>box reported</th><th>frames/s</th></tr></thead>
{% for name, block in blocks.items() %}
<tr>{{ name_cell(name) }}{% for metric in metrics %}{{ cell(block[metric]) }}{% endfor %}
{{ cell(block.present_fraction) }}{{ cell(block.fps, 1) }}</tr>
{% endfor %}
</table></div>
{% if report.start == "text" and blocks | length > 1 %}
<p class="note">{{ own }} was told a sentence and had to find its target; the others were given its box.</p>
{% endif %}
<div class="plots">{% for plot in plots %}<div>{{ plot | safe }}</div>{% endfor %}</div>

<h2>Frame 0, both ways</h2>
<p class="note">Most toolkits write the true box into frame 0, which hides that a start by text found nothing. The
numbers above are with frame 0 being: {{ frame_0[report.frame_0.used] }}.
{% if report.frame_0.used == "out" %}So both ways are the same.{% endif %}</p>
<div class="wide"><table>
<thead>{{ score_head("frame 0") }}</tr></thead>
{% for name, block in blocks.items() %}{% for way in ("own", "truth") %}
<tr><th scope="row"><span class="dot" style="background:{{ colours[name] }}"></span>{{ name }},
{{ "own box" if way == "own" else "true box" }}</th>
{% for metric in metrics %}{{ cell(block.frame_0[way][metric]) }}{% endfor %}</tr>
{% endfor %}{% endfor %}
</table></div>

{% if report.variants %}
<h2>Other readings of the protocol</h2>
<p class="note">The same runs of {{ own }}, with one rule changed.</p>
<div class="wide"><table>
<thead>{{ score_head("rule") }}</tr></thead>
{% for what, scores in report.variants.items() %}
<tr><th scope="row">{{ what }}</th>{% for metric in metrics %}{{ cell(scores[metric]) }}{% endfor %}</tr>
{% endfor %}
</table></div>
{% endif %}

<h2>Behaviour</h2>
<div class="wide"><table>
<thead><tr><th>tracker</th>{% for head in behaviours.values() %}<th>{{ head }}</th>{% endfor %}</tr></thead>
{% for name, block in blocks.items() %}
<tr>{{ name_cell(name) }}{% for key in behaviours %}{{ cell(block.behaviour[key]) }}{% endfor %}</tr>
{% endfor %}
</table></div>
<ul class="note">{% for line in definitions %}<li>{{ line }}</li>{% endfor %}</ul>
<p class="note">First lock is the median over sequences that locked, re-acquisition the mean over losses that ended;
rates are over the frames of all sequences; – where nothing counts.</p>

{% if calibration %}
<h2>Confidence</h2>
<p class="note">Boxes that {{ own }} reported, by the confidence that came with them. A box in a frame without the
target counts as an IoU of 0.</p>
<div class="timeline">{{ calibration | safe }}</div>
{% endif %}

{% if report.attributes %}
<h2>By attribute (AUC)</h2>
<div class="wide"><table>
<thead><tr><th>attribute</th><th>sequences</th>{% for name in blocks %}<th>{{ name }}</th>{% endfor %}</tr></thead>
{% for tag, scores in report.attributes.items() %}
<tr><th scope="row">{{ tag }}</th>{{ cell(scores.sequences) }}
{% for block in blocks.values() %}{{ cell(block.attributes[tag].auc) }}{% endfor %}</tr>
{% endfor %}
</table></div>
{% endif %}

<h2>By sequence</h2>
<div class="wide"><table>
<thead><tr><th>sequence</th><th>frames</th>{% for name in blocks %}<th>AUC {{ name }}</th>{% endfor %}
<th>P at 20 px</th><th>NP at 0.2</th><th>SR0.5</th><th>first lock (s)</th><th>box reported</th>
{% if report.start in ("text", "both") %}<th>sentence</th>{% endif %}</tr></thead>
{% for name, entry in report.per_sequence.items() %}
<tr><th scope="row">{{ name }}</th>{{ cell(entry.frames) }}
{% for block in blocks.values() %}{{ cell(block.per_sequence[name].auc) }}{% endfor %}
{{ cell(entry.precision) }}{{ cell(entry.norm_precision) }}{{ cell(entry.sr50) }}
{{ cell(entry.behaviour.first_lock_s, 2) }}{{ cell(entry.present_fraction) }}
{% if report.start in ("text", "both") %}<td class="words">{{ entry.text }}</td>{% endif %}</tr>
{% endfor %}
</table></div>

<h2>Worst sequences of {{ own }}</h2>
<p class="note">Boxes: <span class="dot" style="background:#3cc83c"></span>truth
{% for name in blocks %}&nbsp; <span class="dot" style="background:{{ colours[name] }}"></span>{{ name }}{% endfor %}.
Numbers in the pictures are frames. Below, the overlap over time: a gap is a frame without a reported box, grey a
frame without the target.</p>
{% for one in worst %}
<h3>{{ one.video.name }}: AUC {{ "%.3f" % one.entry.auc }}
{%- if report.start in ("text", "both") and one.entry.text %}, “{{ one.entry.text }}”{% endif %}</h3>
{% if one.strip %}
<img class="strip" alt="frames of {{ one.video.name }}" src="data:image/jpeg;base64,{{ one.strip }}">
{% endif %}
<div class="timeline">{{ one.timeline | safe }}</div>
{% endfor %}
</body>
</html>
"""
