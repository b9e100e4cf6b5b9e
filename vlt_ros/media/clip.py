# SPDX-License-Identifier: Apache-2.0
"""A clip to go through by eye: in a window, or as one HTML page where there is no screen."""

from __future__ import annotations

import base64
import json
import os
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import cv2
import numpy as np

from vlt_ros.media.drawing import STATE_COLOURS, Shown, annotate
from vlt_ros.media.errors import MediaError

if TYPE_CHECKING:
    from vlt_ros.tracker import Target

# A page of this many pictures has some tens of megabytes; longer clips keep every second, fourth ... picture.
MAX_PICTURES, MAX_SIDE, JPEG_QUALITY = 900, 720, 75


@dataclass(frozen=True)
class Picture:
    """One frame: its number, its time [s], its JPEG bytes, how much smaller those are, and what is drawn on it."""

    number: int
    seconds: float
    jpeg: bytes
    scale: float
    target: Target | Shown | None
    latency_ms: float | None

    def drawn(self) -> np.ndarray:
        """The picture with its target drawn in, BGR uint8."""
        image = cv2.imdecode(np.frombuffer(self.jpeg, np.uint8), cv2.IMREAD_COLOR)
        assert image is not None        # our own JPEG
        if self.target is None:
            return image
        return annotate(image, Shown(self.target.state.name, self.box, self.target.confidence, self.target.text),
                        self.latency_ms)

    @property
    def box(self) -> tuple[float, float, float, float] | None:
        """The target's box in this picture's pixels."""
        if self.target is None or self.target.box is None:
            return None
        x, y, w, h = (float(value) * self.scale for value in self.target.box)
        return x, y, w, h


class Clip:
    """Frames with their targets, kept small in memory however many come.

    Attributes:
        pictures: what is kept, evenly spread. count: how many came.
    """

    def __init__(self, max_pictures: int = MAX_PICTURES) -> None:
        self.pictures: list[Picture] = []
        self.count, self._step, self._most = 0, 1, max_pictures

    def add(self, image: np.ndarray, target: Target | Shown | None, seconds: float,
            latency_ms: float | None = None) -> None:
        """The next frame, BGR uint8 (H, W, 3), and its target; None where nothing answered it."""
        if self.count % self._step == 0:
            scale = min(1.0, MAX_SIDE / max(image.shape[:2]))
            if scale < 1:
                image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
            jpeg = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])[1].tobytes()
            self.pictures.append(Picture(self.count, seconds, jpeg, scale, target, latency_ms))
            if len(self.pictures) > self._most:
                self.pictures, self._step = self.pictures[::2], 2 * self._step
        self.count += 1

    def write_page(self, file: Path, title: str) -> None:
        """One HTML file that needs nothing beside it: the pictures with boxes, a confidence timeline, seek and play.

        Raises:
            MediaError: it cannot be written, or there is no frame.
        """
        if not self.pictures:
            raise MediaError(f"{file} would be empty: there is no frame to show")
        first = self.pictures[0].seconds
        rows = []
        for picture in self.pictures:
            target = picture.target
            rows.append({
                "frame": picture.number, "seconds": round(picture.seconds - first, 3),
                "state": "no answer" if target is None else target.state.name,
                "box": picture.box and [round(value, 1) for value in picture.box],
                "confidence": 0 if target is None else round(float(target.confidence), 3),
                "text": "" if target is None else target.text, "latency_ms": picture.latency_ms,
                "jpeg": base64.b64encode(picture.jpeg).decode()})
        colours = {name: "#{2:02x}{1:02x}{0:02x}".format(*bgr) for name, bgr in STATE_COLOURS.items()}
        # "</" would end the script wherever it stands in a sentence.
        data = json.dumps({"title": title, "rows": rows, "colours": colours}).replace("</", "<\\/")
        try:
            file.write_text(PAGE.replace("DATA", data, 1), encoding="utf-8")
        except OSError as error:
            raise MediaError(f"cannot write {file}: {error.strerror}; give another place with --out") from error

    def play(self, window: Window) -> None:
        """Show it in a window until that is closed: space pauses, a and d step, the bar seeks, q ends."""
        at, paused, began = 0, False, time.monotonic()
        window.bar(len(self.pictures))
        while True:
            picture = self.pictures[at]
            window.move_bar(at)
            last = at + 1 == len(self.pictures)
            pause = 1.0 if paused or last else self.pictures[at + 1].seconds - picture.seconds
            key = window.show(picture.drawn(), min(max(pause - (time.monotonic() - began), 0.001), 1.0))
            began = time.monotonic()
            sought = window.sought(at)
            if window.closed:
                return
            if sought is not None:
                at = sought
            elif key == " ":
                paused = not paused
            elif key in ("a", "d"):
                paused, at = True, min(max(at + (1 if key == "d" else -1), 0), len(self.pictures) - 1)
            elif not paused and not last:
                at += 1


def why_no_window() -> str:
    """Why this computer cannot open a window, with what to do; empty when it can."""
    information = cv2.getBuildInformation()
    gui = next((line for line in information.splitlines() if line.strip().startswith("GUI:")), "")
    if gui.split()[-1:] == ["NONE"]:
        return "this OpenCV has no windows (pip's headless build; apt's python3-opencv has them)"
    if sys.platform == "linux" and not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        return "there is no screen (DISPLAY is not set)"
    return ""


class Window:
    """One window of OpenCV's. Make it only where :func:`why_no_window` says nothing."""

    BAR = "frame"

    def __init__(self, title: str) -> None:
        self.title, self.closed, self._has_bar = title, False, False
        cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)

    def bar(self, length: int) -> None:
        """A bar to seek in so many frames."""
        if length > 1:
            cv2.createTrackbar(self.BAR, self.title, 0, length - 1, lambda _: None)
            self._has_bar = True

    def move_bar(self, at: int) -> None:
        """Show that this frame is seen."""
        if self._has_bar:
            cv2.setTrackbarPos(self.BAR, self.title, at)

    def sought(self, at: int) -> int | None:
        """The frame that the bar was pulled to; None where it still stands at ``at``."""
        if not self._has_bar or self.closed:
            return None
        found = cv2.getTrackbarPos(self.BAR, self.title)
        return None if found == at else found

    def show(self, image: np.ndarray, seconds: float = 0.001) -> str:
        """Show an image for a while; the key that was pressed in it. q, Escape or the window's cross close it."""
        cv2.imshow(self.title, image)
        code = cv2.waitKey(max(1, round(1000 * seconds))) & 0xFF
        if code in (27, ord("q")) or cv2.getWindowProperty(self.title, cv2.WND_PROP_VISIBLE) < 1:
            self.close()
        return chr(code) if code < 128 else ""

    def close(self) -> None:
        """Take the window away. Calling it again does nothing."""
        if not self.closed:
            self.closed = True
            cv2.destroyWindow(self.title)


PAGE = """\
<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>vlt view</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; color: #eee; background: #1c1c1c; max-width: 900px; margin: 1em auto;
       padding: 0 1em; }
h1 { font-size: 1.1em; font-weight: 500; margin: .4em 0; }
canvas { display: block; width: 100%; background: #000; } #line { height: 110px; margin-top: 6px; cursor: crosshair; }
p { margin: .5em 0; font-variant-numeric: tabular-nums; } button { font: inherit; min-width: 5em; }
#state { font-weight: 600; } .note { color: #999; }
</style>
</head>
<body>
<h1 id="title"></h1>
<canvas id="picture"></canvas>
<canvas id="line"></canvas>
<p><button id="play">play</button> <span id="where"></span> <span id="state"></span> <span id="text"></span></p>
<p class="note">Space plays and pauses, the arrow keys step, a click on the line goes there. The line is the confidence
(0 to 1) in the colour of the state.</p>
<script id="data" type="application/json">DATA</script>
<script>
const {title, rows, colours} = JSON.parse(document.getElementById("data").textContent);
const by = id => document.getElementById(id), picture = by("picture"), line = by("line");
const colour = row => colours[row.state] || "#777";
let at = 0, playing = false, timer = 0;
document.title = by("title").textContent = title;
function drawLine() {
  const wide = line.width = line.clientWidth * devicePixelRatio, high = line.height = 110 * devicePixelRatio;
  const c = line.getContext("2d"), step = wide / rows.length, y = v => high - 4 - v * (high - 8);
  c.strokeStyle = "#444";
  for (const v of [0, 0.5, 1]) { c.beginPath(); c.moveTo(0, y(v)); c.lineTo(wide, y(v)); c.stroke(); }
  rows.forEach((row, i) => {
    c.fillStyle = colour(row);
    c.fillRect(i * step, y(row.confidence), Math.max(step, 1), Math.max(high - 4 - y(row.confidence), 2));
  });
  c.fillStyle = "#fff";
  c.fillRect((at + 0.5) * step - devicePixelRatio, 0, 2 * devicePixelRatio, high);
}
function show(index) {
  at = Math.min(Math.max(index, 0), rows.length - 1);
  const row = rows[at], image = new Image(), wanted = at;
  image.onload = () => {
    if (wanted !== at) return;
    picture.width = image.naturalWidth; picture.height = image.naturalHeight;
    const c = picture.getContext("2d");
    c.drawImage(image, 0, 0);
    if (row.box) for (const [w, s] of [[5, "#000"], [3, colour(row)]]) {
      c.lineWidth = w; c.strokeStyle = s; c.strokeRect(...row.box);
    }
    picture.dataset.shown = wanted;
  };
  image.src = "data:image/jpeg;base64," + row.jpeg;
  by("where").textContent = `frame ${row.frame}, ${row.seconds.toFixed(2)} s,`;
  by("state").textContent = row.state; by("state").style.color = colour(row);
  const latency = row.latency_ms === null ? "" : `, ${row.latency_ms.toFixed(0)} ms`;
  by("text").textContent = `${row.confidence.toFixed(2)}${latency}  ${row.text}`;
  drawLine();
}
function play(on) {
  playing = on; clearTimeout(timer); by("play").textContent = on ? "pause" : "play";
  if (on && at === rows.length - 1) show(0);
  if (on) next();
}
function next() {
  if (at === rows.length - 1) return play(false);
  const wait = Math.min(Math.max(rows[at + 1].seconds - rows[at].seconds, 0.01), 2);
  timer = setTimeout(() => { show(at + 1); if (playing) next(); }, 1000 * wait);
}
by("play").onclick = () => play(!playing);
line.onpointerdown = e => { play(false); show(Math.floor(e.offsetX / line.clientWidth * rows.length)); };
onkeydown = e => {
  const step = {ArrowLeft: -1, ArrowRight: 1}[e.key];
  if (e.key === " ") play(!playing); else if (step) { play(false); show(at + step); } else return;
  e.preventDefault();
};
onresize = drawLine;
show(0);
</script>
</body>
</html>
"""
