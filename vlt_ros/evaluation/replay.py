# SPDX-License-Identifier: Apache-2.0
"""A recorded camera through the tracker: every image of a rosbag2 offline, or played to the real node."""

from __future__ import annotations

import itertools
import json
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from vlt_ros.evaluation.bags import Bag, BagError, BagImage, TargetBag, Truth, message_types, stamp_ns
from vlt_ros.evaluation.evaluate import find_protocol
from vlt_ros.evaluation.page import write_page
from vlt_ros.evaluation.report import assess, number, write_report
from vlt_ros.evaluation.runs import DECIMALS, Run
from vlt_ros.media import VideoFile, annotate, make_folder
from vlt_ros.ros.images import ImageError
from vlt_ros.tracker import State, Target

if TYPE_CHECKING:
    from vlt_ros.tracker import Tracker


@dataclass(frozen=True)
class Answer:
    """What came back for an image.

    target: as the tracker says it. raw: its message's bytes. latency_ms: in this process or in the node.
    box: what counts as its prediction; the given box where that was the start. seconds: inside ``Tracker.track``.
    end_to_end_ms: from publishing the image to receiving the target.
    """

    target: Target
    raw: bytes
    latency_ms: float
    box: tuple[float, float, float, float] | None
    seconds: float | None = None
    end_to_end_ms: float | None = None


class Step(NamedTuple):
    """One image of the bag with its picture and answer; without a picture where it cannot be decoded."""

    image: BagImage
    picture: np.ndarray | None
    answer: Answer | None


def replay(path: str | Path, out: str | Path, *, image_topic: str, text: str = "",
           box: tuple[float, float, float, float] | None = None, truth: str | None = None, protocol: str = "ope",
           weights: str | Path | None = None, model: str | None = None, device: str = "auto", precision: str = "auto",
           runtime: str = "auto", online: bool = False, params_file: Path | None = None, progress: bool = True) -> dict:
    """Follow a target through a bag and write ``out``/track.jsonl, track.mp4, report.json and bag; with truth, a page.

    Every image is given to the tracker with its own stamp, so that the same call gives the same results. An image that
    cannot be decoded is counted and left out. Online it is the real node, in a process of its own, to which the images
    are played at the pace of their recording: what it drops and how long it takes is the machine's load.

    Args:
        path: the bag, see :class:`vlt_ros.evaluation.bags.Bag`. out: folder for results.
        image_topic: of its images. text, box: what to follow; the box x, y, w, h [px] is in the first image.
        truth: a file or a topic, see :class:`vlt_ros.evaluation.bags.Truth`. protocol: whose rules score.
        weights, model, device, precision, runtime: as for :func:`vlt_ros.networks.load_network`.
        online: through the node. params_file: its parameters; the five above, where given, go before them.
        progress: show a progress bar on stderr.

    Returns:
        The report. With a truth it is that of :func:`vlt_ros.evaluation.report.assess`; always there are frames,
        answered, unreadable, dropped, states {name: frames}, tracked_fraction, first_lock_frame and latency_ms
        {p50, p95}; online end_to_end_ms too.

    Raises:
        BagError, PlaybackError, SequenceError, EvaluationError, CommandError, MediaError, WeightsError,
            DeviceError: each with one clear line. What was followed before a damaged part stays.
    """
    from vlt_ros.networks import load_network
    from vlt_ros.tracker import Tracker, validate_text

    if params_file is not None and not params_file.is_file():
        raise BagError(f"{params_file} is not a file; give the node's parameters as a YAML file")
    text, rules, bag = validate_text(text), find_protocol(protocol), Bag(path, image_topic)
    boxes = None if truth is None else Truth(truth, bag)
    if online:
        chosen = {"weights": weights and str(weights), "model": model, "device": device, "precision": precision,
                  "runtime": runtime}
        parameters = {name: value for name, value in chosen.items() if value and value != "auto"}
        facts = {"online": True, "model": "vlt_tracker", "parameters": parameters,
                 "params_file": params_file and str(params_file)}
        steps = ask_node(bag, make_folder(out) / "node.log", text, box, parameters, params_file)
        return _record(steps, bag, Path(out), text, box, boxes, rules, facts, progress)
    tracker = Tracker(load_network(weights, model=model, device=device, precision=precision, runtime=runtime))
    tracker.warm_up()
    network = tracker.network
    facts = {"online": False, "model": network.name, "weights": str(weights) if weights else "shipped",
             "device": str(network.device), "arithmetic": f"{network.runtime} {network.precision}"}
    return _record(follow(tracker, bag, text, box), bag, Path(out), text, box, boxes, rules, facts, progress)


def follow(tracker: Tracker, bag: Bag, text: str, box: tuple[float, float, float, float] | None) -> Iterator[Step]:
    """Start a tracker and give it every image. Raises BagError, CommandError."""
    types, started, before, seen_ns = message_types(), False, None, 0
    if box is None:
        tracker.start(text)
        started = True
    for image in bag:
        stamp = image.stamp_ns // 10**9 + image.stamp_ns % 10**9 * 1e-9
        began = time.perf_counter()
        try:
            picture = image.picture()
        except ImageError:
            yield Step(image, None, None)
            continue
        if before is not None and stamp < before:
            tracker.clear()         # a looped bag; as the node does
        before, seconds, given = stamp, None, None
        if started:
            inside = time.perf_counter()
            target = tracker.track(picture, stamp)
            seconds = time.perf_counter() - inside
        else:
            target, started, given = tracker.start(text, image=picture, box=box, stamp=stamp), True, box
        latency_ms = 1000 * (time.perf_counter() - began)
        seen_ns = 0 if target.last_seen is None else image.stamp_ns if target.last_seen == stamp else seen_ns
        yield Step(image, picture, Answer(target, _serialized(types, image, picture, target, seen_ns), latency_ms,
                                          given or target.box, seconds))


def ask_node(bag: Bag, log: Path, text: str, box: tuple[float, float, float, float] | None,
             parameters: dict[str, str], params_file: Path | None) -> Iterator[Step]:
    """Play the bag to the node, then go through it again with the answers, matched by their stamps.

    Raises BagError, PlaybackError.
    """
    try:
        from vlt_ros.ros.playback import header_stamp_ns, play_to_node, serialized

        sent, received = play_to_node(_stamped(bag), bag.length, log, compressed=bag.type.endswith("CompressedImage"),
                                      text=text, box=box, parameters=parameters, params_file=params_file)
    except ImportError as error:
        raise BagError(f"{error}: --online needs ROS 2 and the built messages; run `make setup` and use its .venv, or "
                       "source your ROS 2 workspace") from error
    # INPUT_TIMEOUT is about the silence before and after the images, not about one of them.
    answers = {header_stamp_ns(m): (arrived, m) for arrived, m in received
               if header_stamp_ns(m) in sent and m.state in set(State)}
    if sent and not answers:
        raise BagError(f"the node answered none of {len(sent)} images; its log is {log}")
    for image in bag:
        try:
            picture = image.picture()
        except ImageError:
            picture = None
        answer = None
        if picture is not None and image.stamp_ns in answers:
            arrived, m = answers[image.stamp_ns]
            inside = (m.box.x, m.box.y, m.box.width, m.box.height)
            target = Target(State(m.state), inside if m.state in (State.TRACKING, State.UNCERTAIN) else None,
                            m.confidence, m.target_id, m.text)
            answer = Answer(target, serialized(m), m.latency_ms, target.box,
                            end_to_end_ms=(arrived - sent[image.stamp_ns]) * 1e-6)
        yield Step(image, picture, answer)


def _stamped(bag: Bag) -> Iterator[BagImage]:
    """The bag's images. Raises BagError where answers could not be told apart."""
    seen: set[int] = set()
    images = iter(bag)
    while True:
        try:
            image = next(images)
        except (StopIteration, BagError):
            return      # damage is said when the bag is gone through again, with what was answered before it kept
        stamp = stamp_ns(image.message)
        if not stamp or stamp in seen:
            raise BagError(f"image {image.index} of {bag.path} has no stamp of its own ({stamp} ns), so the node's "
                           "answers cannot be matched; leave --online away")
        seen.add(stamp)
        yield image


def _serialized(types, image: BagImage, picture: np.ndarray, target: Target, seen_ns: int) -> bytes:
    """vlt_ros/msg/Target; its latency is that of a node, so here it is zero."""
    kind = "vlt_ros/msg/Target"
    of = types.types
    time_type = of["builtin_interfaces/msg/Time"]
    message = of[kind](
        header=image.message.header, target_id=target.target_id, text=target.text, state=int(target.state),
        command_result=1, reason="", confidence=float(target.confidence),
        box=of["vlt_ros/msg/BoundingBox"](*map(float, target.box or (0, 0, 0, 0))),
        last_seen=time_type(seen_ns // 10**9, seen_ns % 10**9), image_width=picture.shape[1],
        image_height=picture.shape[0], latency_ms=0.0)
    return bytes(types.serialize_cdr(message, kind))


def _record(steps: Iterator[Step], bag: Bag, out: Path, text: str, box: tuple | None, truth: Truth | None, rules,
            facts: dict, progress: bool) -> dict:
    """Write what comes back, and the report about it."""
    from tqdm import tqdm

    # A command that cannot be followed is refused before anything is written.
    first = next(steps)
    out = make_folder(out)
    for old in ("track.jsonl", "track.mp4", "report.json", "report.html"):
        (out / old).unlink(missing_ok=True)
    rows, true_boxes, answers = _Rows(), [], []
    try:
        with (TargetBag(out / "bag", bag) as written, open(out / "track.jsonl", "w", encoding="utf-8") as lines,
              VideoFile(out / "track.mp4", bag.fps) as film,
              tqdm(total=bag.length, unit="frame", disable=not progress) as bar):
            for step in itertools.chain((first,), steps):
                if truth is not None:
                    true_boxes.append(truth.of(step.image))
                written.image(step.image)
                answer = step.answer
                rows.add(step)
                if answer is not None:
                    answers.append(answer)
                    row = answer.target.record(step.image.index, answer.latency_ms)
                    if answer.end_to_end_ms is not None:
                        row["end_to_end_ms"] = round(answer.end_to_end_ms, 2)
                    lines.write(json.dumps(row) + "\n")
                    drawn = annotate(step.picture, answer.target)
                    written.target(step.image, answer.raw, drawn)
                    film.write(drawn)
                bar.update()
        if len(rows.stamps) != bag.length:
            raise BagError(f"{bag.topic} of {bag.path} has {len(rows.stamps)} images, but the bag says {bag.length}: "
                           "it is damaged or cut short; copy it again, or repair it with `ros2 bag reindex`")
    except BagError as error:
        if not rows.stamps:
            raise
        raise BagError(f"{error}; the {len(rows.stamps)} images before are kept in {out}") from error
    start = "text" if box is None else "both" if text else "box"
    report = {"bag": str(bag.path), "image_topic": bag.topic, "text": text, "box": box, "start": start,
              **facts, **rows.summary()}
    if truth is not None:
        sequence = truth.sequence(np.array(true_boxes), text)
        run = rows.run(answers)
        scores = assess([sequence], {sequence.name: run}, rules, "own" if start == "text" else None,
                        {sequence.name: np.array(rows.stamps)})
        scores["per_sequence"][sequence.name]["text"] = text
        report = scores | report | {"protocol_name": rules.name, "protocol": rules.rule, "truth": truth.name,
                                    "against": {}}
        write_page(out / "report.html", report, [sequence], {facts["model"]: {sequence.name: run}})
    write_report(out, report)
    return report


class _Rows:
    """What is counted on the way, and the predictions as evaluations take them."""

    def __init__(self) -> None:
        self.stamps, self.answered, self.unreadable = [], 0, 0
        self._boxes, self._present, self._ids, self._latencies = [], [], [], []
        self._confidences, self._state_of = [], []
        self._states: Counter = Counter()
        self._end_to_end: list[float] = []
        self._first_lock: int | None = None

    def add(self, step: Step) -> None:
        """Count one image."""
        answer = step.answer
        stamp = step.image.stamp_ns
        self.stamps.append(stamp // 10**9 + stamp % 10**9 * 1e-9)
        self.unreadable += step.picture is None
        reported = None
        if answer is not None:
            self.answered += 1
            reported = answer.box
            self._states[answer.target.state.name] += 1
            self._latencies.append(answer.latency_ms)
            if answer.end_to_end_ms is not None:
                self._end_to_end.append(answer.end_to_end_ms)
            if answer.target.state.name == "TRACKING" and self._first_lock is None:
                self._first_lock = step.image.index
        self._present.append(reported is not None)
        self._ids.append(answer.target.target_id if answer is not None else self._ids[-1] if self._ids else 0)
        # Where no answer came, whoever listens has the one before.
        self._state_of.append(answer.target.state.name if answer is not None
                              else self._state_of[-1] if self._state_of else "IDLE")
        self._confidences.append(answer.target.confidence if answer is not None
                                 else self._confidences[-1] if self._confidences else 0.0)
        self._boxes.append(np.round(reported, DECIMALS) if reported is not None
                           else self._boxes[-1] if self._boxes else np.full(4, np.nan))

    def run(self, answers: list[Answer]) -> Run:
        """The predictions; an image without an answer keeps the box before it, as a frame without a target does."""
        seconds = [answer.seconds for answer in answers if answer.seconds is not None]
        return Run(np.array(self._boxes, np.float64), np.array(self._present), np.array(self._ids),
                   float(sum(seconds)), len(seconds), np.array(self._confidences), np.array(self._state_of))

    def summary(self) -> dict:
        """Counts, and percentiles of the latencies in ms."""
        frames = len(self.stamps)
        summary = {"frames": frames, "answered": self.answered, "unreadable": self.unreadable,
                   "dropped": frames - self.answered - self.unreadable, "states": dict(sorted(self._states.items())),
                   "tracked_fraction": number(self._states["TRACKING"] / frames, 4),
                   "first_lock_frame": self._first_lock, "latency_ms": _percentiles(self._latencies)}
        return summary | ({"end_to_end_ms": _percentiles(self._end_to_end)} if self._end_to_end else {})


def _percentiles(values: list[float]) -> dict[str, float | None]:
    return {f"p{rank}": number(np.percentile(values, rank), 2) if values else None for rank in (50, 95)}
