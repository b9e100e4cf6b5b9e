# SPDX-License-Identifier: Apache-2.0
"""The command ``vlt``: track, evaluate, score, bag, view, train, label, benchmark, export, models.

Everything heavy is imported inside the commands.
"""

from __future__ import annotations

import itertools
import json
import logging
import signal
import time
from pathlib import Path

import click

from vlt_ros import __version__

# The names of vlt_ros.evaluation.protocols, which imports numpy.
PROTOCOLS = ("ope", "lasot", "lasotext", "tnl2k", "otb", "got10k", "webuav3m")
# Those of vlt_ros.networks.runtimes, which imports torch.
RUNTIMES = ("auto", "eager", "folded", "compile", "cudagraphs", "openvino", "onnxruntime")
PROTOCOL_HELP = "Whose rules score; the report says what they are. ope: plain one-pass evaluation."


class _Errors(click.Group):
    """Says what went wrong in one line ``error: what, where, what to do`` and exits with 2.

    That is for bad input, by click's errors and this package's own; anything else is a bug with a traceback.
    """

    def main(self, *args, standalone_mode: bool = True, **kwargs):
        try:
            result = super().main(*args, standalone_mode=False, **kwargs)
        except click.exceptions.NoArgsIsHelpError as error:
            click.echo(error.format_message(), err=True)
            raise SystemExit(2) from error
        except click.ClickException as error:
            message = error.format_message().rstrip(".")
            context = getattr(error, "ctx", None)
            _fail(f"{message}; see {context.command_path} --help" if context is not None else message)
        except (click.Abort, KeyboardInterrupt):
            click.echo("error: stopped by the user", err=True)
            raise SystemExit(130) from None
        except Exception as error:
            if not type(error).__module__.startswith("vlt_ros."):
                raise
            _fail(str(error))
        if standalone_mode:
            raise SystemExit(result if isinstance(result, int) else 0)
        return result


def _fail(message: str) -> None:
    click.echo(f"error: {' '.join(message.split())}", err=True)
    raise SystemExit(2)


class _Box(click.ParamType):
    name = "X,Y,W,H"

    def convert(self, value, param, ctx):
        if isinstance(value, tuple):
            return value
        try:
            numbers = tuple(float(part) for part in value.split(","))
        except ValueError:
            numbers = ()
        if len(numbers) != 4:
            self.fail(f"{value!r} is not a box: give four numbers in pixels, as in 120,80,40,90", param, ctx)
        return numbers


class _LabelBox(_Box):
    name = "X,Y,W,H|mouse"

    def convert(self, value, param, ctx):
        return value if value == "mouse" else super().convert(value, param, ctx)


class _Correction(_LabelBox):
    name = "FRAME=X,Y,W,H|absent|mouse"

    def convert(self, value, param, ctx):
        frame, equals, box = value.partition("=")
        if not equals or not frame.isdecimal():
            self.fail(f"{value!r} is not FRAME=BOX, as in 40=120,80,40,90 or 60=absent", param, ctx)
        return int(frame), None if box == "absent" else super().convert(box, param, ctx)


class _NamedFolder(click.ParamType):
    name = "NAME=FOLDER"

    def convert(self, value, param, ctx):
        name, equals, folder = value.partition("=")
        if not name or not equals or not folder:
            self.fail(f"{value!r} is not NAME=FOLDER, as in lasot=/data/LaSOT", param, ctx)
        return name, folder


def _network_options(command):
    for option in (
        click.option("--runtime", type=click.Choice(RUNTIMES), default="auto", show_default=True,
                     help="What computes a frame; auto takes the fastest one that is measured and installed."),
        click.option("--precision", type=click.Choice(["auto", "fp32", "bf16", "fp16", "int8"]), default="auto",
                     show_default=True, help="Arithmetic of the network."),
        click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda:N",
                     help="Where it runs."),
        click.option("--weights", type=click.Path(path_type=Path),
                     help="Weights file, or a published OSTrack or All-in-One checkpoint; without it, "
                          "the shipped one."),
        click.option("--model", help="Network configuration, see `vlt models`; without it, the one of the weights."),
    ):
        command = option(command)
    return command


_grounder_option = click.option(
    "--grounder", default="", metavar="FOLDER|HUB_ID",
    help="Grounding DINO or OWLv2 that proposes where the text's target is: a folder, or what `hf download` fetched.")


@click.group("vlt", cls=_Errors, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="vlt")
def main() -> None:
    """Follow what a sentence or a box describes, in video."""
    logging.basicConfig(level=logging.WARNING, format="warning: %(message)s")


@main.command()
@click.argument("source")
@click.option("--text", default="", help='What to follow: "the woman in the red jacket".')
@click.option("--box", type=_Box(), help="Where it is in the first frame, in pixels.")
@_network_options
@_grounder_option
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/track"), show_default=True,
              help="Folder for track.jsonl and track.mp4.")
@click.option("--max-frames", type=click.IntRange(min=1), help="Stop after so many frames.")
@click.option("--show", is_flag=True,
              help="Show every frame in a window (q ends it); without a screen, write OUT/view.html for the browser.")
def track(source: str, text: str, box: tuple[float, ...] | None, model: str | None, weights: Path | None,
          device: str, precision: str, runtime: str, grounder: str, out: Path, max_frames: int | None,
          show: bool) -> None:
    """Follow a target through SOURCE: a video file, a folder of images, or a camera (0 or /dev/video0).

    Writes OUT/track.jsonl, one line a frame (frame, state, box [x,y,w,h] in pixels or null, confidence,
    latency_ms), and OUT/track.mp4 with the target drawn in. Ctrl-C ends a camera and keeps what is written.
    """
    if not text and box is None:
        raise click.UsageError("nothing to follow: give --text, --box or both")
    from vlt_ros.media import open_source

    frames = open_source(source)

    from tqdm import tqdm

    from vlt_ros.media import MediaError, VideoFile, annotate, make_folder
    from vlt_ros.networks import load_grounder, load_network
    from vlt_ros.tracker import State, Tracker, validate_text

    text = validate_text(text)
    out = make_folder(out)
    network = load_network(weights, model=model, device=device, precision=precision, runtime=runtime)
    tracker = Tracker(network, grounder=load_grounder(grounder, network.device) if grounder else None)
    tracker.warm_up()
    # A command that cannot be followed is refused before anything is written.
    stream = iter(frames)
    first = next(stream)
    began = time.perf_counter()
    target = tracker.start(text, image=None if box is None else first.image, box=box, stamp=first.stamp)
    try:
        lines = open(out / "track.jsonl", "w", encoding="utf-8")  # noqa: SIM115 (closed by the with below)
    except OSError as error:
        raise MediaError(f"cannot write {out / 'track.jsonl'}: {error.strerror}; "
                         "give another folder with --out"
                         ) from error
    total = min(filter(None, (frames.length, max_frames)), default=None)
    count = seen = 0
    window, clip = _open_window(f"vlt track: {text or 'box'}", out / "view.html") if show else (None, None)
    with lines, VideoFile(out / "track.mp4", frames.fps) as film, tqdm(total=total, unit="frame") as bar:
        try:
            for frame in itertools.chain((first,), stream):
                if frame is not first:
                    began = time.perf_counter()
                if frame is not first or box is None:
                    target = tracker.track(frame.image, frame.stamp)
                latency_ms = 1000 * (time.perf_counter() - began)
                lines.write(json.dumps(target.record(frame.index, latency_ms)) + "\n")
                drawn = annotate(frame.image, target, latency_ms)
                film.write(drawn)
                if window is not None:
                    window.show(drawn)
                elif clip is not None:
                    clip.add(frame.image, target, frame.stamp, round(latency_ms, 1))
                count += 1
                seen += target.state in (State.TRACKING, State.UNCERTAIN)
                bar.update()
                bar.set_postfix_str(target.state.name, refresh=False)
                if count == max_frames or (window is not None and window.closed):
                    break
        except KeyboardInterrupt:
            click.echo("stopped; what was tracked so far is kept", err=True)
    if clip is not None:
        clip.write_page(out / "view.html", f"{source}: {text or 'box'}")
    skipped = f", {frames.skipped} unreadable" if frames.skipped else ""
    click.echo(f"{count} frames, target in {seen}{skipped}; "
               f"see {out / 'track.jsonl'} and {out / 'track.mp4'}")


@main.command()
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--layout", type=click.Choice(["sequences", "leaving", "candidates", "photographs", "phrases"]),
              default="sequences", show_default=True,
              help="sequences: ROOT/NAME/{img/ or video.mp4, groundtruth.txt, language.txt}. leaving: the same, but "
                   "the camera turns away from every target for two seconds and back. candidates: "
                   "ROOT is the data folder; text alone points at one of several equal objects held out of "
                   "training. photographs: the same folder; text alone on whole photographs held out of training, for "
                   "things that are there and that are not. phrases: ROOT/queries.json, a list of {file, text, "
                   "box [x,y,w,h]}, and ROOT/img/; text alone finds each, predictions.json lists the boxes.")
@click.option("--start", type=click.Choice(["box", "text", "both"]), default="box", show_default=True,
              help="What the tracker is given in frame 0.")
@click.option("--phrase", type=click.Choice(["right", "wrong", "none"]), default="right", show_default=True,
              help="Control for --start text and both: the sequence's sentence, another one's, or none.")
@click.option("--protocol", type=click.Choice(PROTOCOLS), default="ope", show_default=True, help=PROTOCOL_HELP)
@click.option("--against", default="", metavar="csrt,kcf,mil,nano:PATH",
              help="OpenCV's trackers to run beside ours, started by the box; PATH is the folder with NanoTrack's "
                   "backbone and head as ONNX files.")
@click.option("--jobs", type=click.IntRange(min=1), default=1, show_default=True,
              help="Processes that share the sequences; torchrun's processes share them too.")
@click.option("--count", type=click.IntRange(min=1), default=300, show_default=True,
              help="candidates: scenes for each kind of phrase.")
@click.option("--assets", type=click.Path(path_type=Path), default=Path("build/assets"), show_default=True,
              help="candidates: folder of cut-outs and backgrounds, as for training.")
@_network_options
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/evaluate"), show_default=True,
              help="Folder for report.json and report.html, and NAME.txt or predictions.json.")
def evaluate(root: Path, layout: str, start: str, phrase: str, protocol: str, against: str, jobs: int, count: int,
             assets: Path, model: str | None, weights: Path | None, device: str, precision: str, runtime: str,
             out: Path) -> None:
    """Score the tracker on ROOT and write OUT/report.json.

    Finished sequences are kept in OUT: the same command goes on where it was stopped.
    """
    network = {"model": model, "weights": weights, "device": device, "precision": precision, "runtime": runtime}
    if layout == "candidates":
        from vlt_ros.evaluation import pointing

        report = pointing.evaluate_pointing(root, out, assets=assets, count=count, **network)
        click.echo(pointing.table(report))
    elif layout == "photographs":
        from vlt_ros.evaluation import photographs

        report = photographs.evaluate_photographs(root, out, assets=assets, count=count, **network)
        click.echo(photographs.table(report))
    elif layout == "phrases":
        from vlt_ros.evaluation import phrases

        report = phrases.evaluate_phrases(root, out, **network)
        click.echo(phrases.table(report))
    else:
        from vlt_ros.evaluation import evaluate as evaluation

        report = evaluation.evaluate(root, out, start=start, phrase=phrase, protocol=protocol, against=against,
                                     jobs=jobs, leave=layout == "leaving", **network)
        if report is None:
            return
        _say(report, out)
        return
    click.echo(f"see {out / 'report.json'}")


@main.command()
@click.argument("results", type=click.Path(path_type=Path))
@click.argument("root", type=click.Path(path_type=Path))
@click.option("--protocol", type=click.Choice(PROTOCOLS), default="ope", show_default=True, help=PROTOCOL_HELP)
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/score"), show_default=True,
              help="Folder for report.json and report.html.")
def score(results: Path, root: Path, protocol: str, out: Path) -> None:
    """Score result files of any tracker as they are: RESULTS/NAME.txt, one box x,y,w,h a line.

    The truth is ROOT/NAME/groundtruth.txt; its images are only needed for the report's film strips.
    """
    from vlt_ros.evaluation import evaluate as evaluation

    _say(evaluation.score(results, root, out, protocol=protocol), out)


@main.command()
@click.argument("path", metavar="BAG", type=click.Path(path_type=Path))
@click.option("--image-topic", required=True, metavar="TOPIC",
              help="Topic of sensor_msgs/Image or sensor_msgs/CompressedImage.")
@click.option("--text", default="", help='What to follow: "the woman in the red jacket".')
@click.option("--box", type=_Box(), help="Where it is in the first image, in pixels.")
@click.option("--truth", metavar="FILE|TOPIC",
              help="True boxes to score against: a file with one box x,y,w,h for each image, or a topic of "
                   "vlt_ros/TargetCommand or vlt_ros/Target with the images' stamps.")
@click.option("--protocol", type=click.Choice(PROTOCOLS), default="ope", show_default=True, help=PROTOCOL_HELP)
@click.option("--online", is_flag=True,
              help="Play the bag in real time to the node in a process of its own: drops and latency are measured.")
@click.option("--params-file", type=click.Path(path_type=Path), metavar="FILE",
              help="online: the node's parameters; options given here go before them.")
@_network_options
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/bag"), show_default=True,
              help="Folder for track.jsonl, track.mp4, report.json, bag and, with --truth, report.html.")
def bag(path: Path, image_topic: str, text: str, box: tuple[float, ...] | None, truth: str | None, protocol: str,
        online: bool, params_file: Path | None, model: str | None, weights: Path | None, device: str, precision: str,
        runtime: str, out: Path) -> None:
    """Follow a target through the images of BAG, a rosbag2 (sqlite3 or mcap).

    Every image goes through the tracker with its own stamp, so that the same command gives the same results. Writes
    OUT/track.jsonl and OUT/track.mp4 as `vlt track` does, OUT/report.json, and OUT/bag (mcap) with the images,
    vlt_ros/msg/Target messages on `target` and the images with the target drawn in on `target_image/compressed`.
    """
    if not text and box is None:
        raise click.UsageError("nothing to follow: give --text, --box or both")
    if params_file is not None and not online:
        raise click.UsageError("--params-file is the node's, so it needs --online")
    from vlt_ros.evaluation.replay import replay

    if online:
        # The node is in a session of its own: ended by SIGTERM, this process still has to stop it.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    network = {"model": model, "weights": weights, "device": device, "precision": precision, "runtime": runtime}
    report = replay(path, out, image_topic=image_topic, text=text, box=box, truth=truth, protocol=protocol,
                    online=online, params_file=params_file, **network)
    if truth is not None:
        _say(report, out)
    click.echo(f"{report['frames']} images, target tracked in {report['tracked_fraction']:.0%}, {report['dropped']} "
               f"dropped, {report['unreadable']} unreadable; see {out / 'report.json'}, {out / 'track.jsonl'}, "
               f"{out / 'track.mp4'} and {out / 'bag'}")


@main.command()
@click.argument("path", metavar="BAG", type=click.Path(path_type=Path))
@click.option("--image-topic", metavar="TOPIC", help="Topic of images; without it, the first that has some.")
@click.option("--target-topic", metavar="TOPIC", help="Topic of targets; without it, the first that has some.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE",
              help="Write an HTML page there in place of opening a window.")
def view(path: Path, image_topic: str | None, target_topic: str | None, out: Path | None) -> None:
    """Go through the images of BAG with their targets drawn in: what a robot recorded, or OUT/bag of `vlt bag`.

    In the window space pauses, a and d step, the bar seeks, q ends. Without a screen it is a page for the browser,
    out/view.html.
    """
    from vlt_ros.evaluation.view import read_clip
    from vlt_ros.media import make_folder

    clip, bag = read_clip(path, image_topic, target_topic)
    title = f"vlt view: {path} {bag.topic}"
    page = out or Path("out/view.html")
    window = None if out else _open_window(title, page)[0]
    if window is not None:
        clip.play(window)
        return
    make_folder(page.parent)
    clip.write_page(page, title)
    left_out = f" ({len(clip.pictures)} of them on the page)" if clip.count > len(clip.pictures) else ""
    click.echo(f"{clip.count} images{left_out}; open {page} in a browser")


def _open_window(title: str, page: Path):
    """A window and None; where there can be none, say so and give None and a clip for the page instead."""
    from vlt_ros.media.clip import Clip, Window, why_no_window

    if reason := why_no_window():
        click.echo(f"no window: {reason}; writing {page} instead", err=True)
        return None, Clip()
    return Window(title), None


def _say(report: dict, out: Path) -> None:
    """Print a report's protocol and table."""
    from vlt_ros.evaluation.report import FRAME_0, table

    click.echo(f"{report['protocol_name']}: {report['protocol']}")
    click.echo(f"Frame 0 in the table: {FRAME_0[report['frame_0']['used']]}")
    click.echo(table(report))
    click.echo(f"see {out / 'report.html'} and {out / 'report.json'}")


@main.command()
@click.argument("config", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path),
              help="Folder for checkpoints and weights; without it, out/train/ and CONFIG's name.")
@click.option("--resume", is_flag=True, help="Go on from the last checkpoint in that folder.")
@click.option("--data", "datasets", type=_NamedFolder(), multiple=True,
              help="Folder of a data set (lasot, got10k, coco, ...), before the one that CONFIG names; repeatable.")
@click.option("--model", help="Network configuration to train in place of CONFIG's, see `vlt models`.")
def train(config: Path, out: Path | None, resume: bool, datasets: tuple[tuple[str, str], ...],
          model: str | None) -> None:
    """Train a network as the YAML file CONFIG says."""
    if not config.is_file():
        raise click.UsageError(f"{config} is not a file: give the YAML file of a training run")
    from vlt_ros.training.trainer import train as run

    name = f"{config.stem}_{model}" if model else config.stem
    run(config, out or Path("out/train") / name, resume, dict(datasets), model)


@main.command()
@click.argument("source")
@click.option("--text", default="", help='The target\'s sentence: "the woman in the red jacket".')
@click.option("--box", type=_LabelBox(), help="Where it is in the first frame, in pixels, or drawn with the mouse.")
@click.option("--correct", "corrections", type=_Correction(), multiple=True,
              help="Where it is in another frame, or that it is absent from there to the next given frame; repeatable.")
@click.option("--name", default="", help="Of the clip's folder in OUT; without it, SOURCE's.")
@_network_options
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/clips"), show_default=True,
              help="Folder of the clips, what `vlt train --data clips=OUT` takes.")
@click.option("--max-frames", type=click.IntRange(min=1), help="Read so many frames.")
def label(source: str, text: str, box, corrections, name: str, model: str | None, weights: Path | None, device: str,
          precision: str, runtime: str, out: Path, max_frames: int | None) -> None:
    """Label a target in SOURCE (as for `vlt track`) to train on: OUT/NAME/{img/, groundtruth.txt, language.txt}.

    The tracker follows it from the boxes that are given, forward and backward; frames where it is not sure, or where
    the two ways do not agree, are listed and left out. See OUT/NAME/sheet.jpg, and give the same command again with
    --correct: it goes on from what is saved, also after a kill.
    """
    from vlt_ros.training.labelling import label_clip, ranges

    def make_tracker():
        from vlt_ros.networks import load_network
        from vlt_ros.tracker import Tracker

        return Tracker(load_network(weights, model=model, device=device, precision=precision,
                                    runtime=runtime))

    clip, labels = label_clip(source, out, name=name, text=text, first=box, given=dict(corrections),
                              max_frames=max_frames, make_tracker=make_tracker)
    kinds = {kind: [frame for frame, one in labels.items() if one.kind == kind]
             for kind in ("given", "tracked", "absent", "review")}
    click.echo(", ".join(f"{len(frames)} frames {kind}" for kind, frames in kinds.items())
               + f"; see {clip.folder / 'sheet.jpg'}")
    if kinds["review"]:
        click.echo(f"left out until reviewed: {ranges(kinds['review'])}; say where it is with "
                   "--correct FRAME=X,Y,W,H, or --correct FRAME=absent")


@main.command()
@click.option("--model", help="Network configuration, see `vlt models`; one without shipped weights gets random ones.")
@click.option("--weights", type=click.Path(path_type=Path), help="Weights file in their place.")
@click.option("--device", default="auto", show_default=True, metavar="auto|cpu|cuda:N", help="Where it runs.")
@click.option("--quick", is_flag=True, help="A minute or two in place of five or more.")
@click.option("--node", is_flag=True,
              help="The node too, in processes of its own before cameras of 30 and 60 Hz: age of the target, drops, "
                   "the node's own cost, memory, start.")
@click.option("--out", type=click.Path(path_type=Path), default=Path("out/benchmark"), show_default=True,
              help="Folder for benchmark.json and benchmark.png.")
def benchmark(model: str | None, weights: Path | None, device: str, quick: bool, node: bool, out: Path) -> None:
    """Measure how fast the network is on this machine, in every runtime and precision it has.

    Beside it, in the same run and turn about: the network as research code runs it, a tracker without language of the
    same blocks, OpenCV's CSRT and KCF, and matrix products, which say what the machine can do.
    """
    from vlt_ros.evaluation import benchmark as bench

    if node:
        # The node is in a session of its own: ended by SIGTERM, this process still has to stop it.
        signal.signal(signal.SIGTERM, signal.default_int_handler)
    result = bench.benchmark(out, model=model, weights=weights, device=device, quick=quick, node=node)
    click.echo(bench.table(result))
    click.echo(f"see {out / 'benchmark.json'} and {out / 'benchmark.png'}")


@main.command()
@click.argument("weights", type=click.Path(path_type=Path))
@click.option("--format", "kind", type=click.Choice(["onnx", "openvino"]), required=True, help="What to write.")
@click.option("--precision", type=click.Choice(["fp32", "int8"]), default="fp32", show_default=True,
              help="int8, for openvino, needs --calibrate.")
@click.option("--calibrate", type=click.Path(path_type=Path), metavar="ROOT",
              help="int8: sequences as `vlt evaluate` reads them, by whose frames and sentences it is quantised; not "
                   "the ones that are evaluated.")
@click.option("--out", type=click.Path(path_type=Path), metavar="FILE",
              help="Without it, beside WEIGHTS: NAME.onnx, NAME.xml, or NAME.int8.xml, where the runtime openvino "
                   "finds it.")
def export(weights: Path, kind: str, precision: str, calibrate: Path | None, out: Path | None) -> None:
    """Write one frame of WEIGHTS' network as a graph whose inputs are the crop, the template's tokens and the words."""
    if (precision == "int8") != (calibrate is not None):
        raise click.UsageError("int8 and --calibrate go together: it is the frames that decide what int8 stands for")
    from vlt_ros.networks import load_network
    from vlt_ros.networks.export import export as write

    ending = {"onnx": ".onnx", "openvino": ".int8.xml" if calibrate else ".xml"}[kind]
    out = out or weights.with_name(f"{weights.stem}{ending}")
    network = load_network(weights, device="cpu", precision="fp32")
    frames = None
    if calibrate is not None:
        from vlt_ros.evaluation.calibration import frame_inputs

        def frames(network):
            return frame_inputs(network, calibrate)
    write(network, out, kind, frames)
    click.echo(f"see {out}")


@main.command()
@click.option("--json", "as_json", is_flag=True, help="Print a JSON list instead of a table.")
def models(as_json: bool) -> None:
    """List the network configurations that --model takes.

    GFLOPs are a frame's with a sentence of 12 word pieces, two operations for a multiplication and addition, without
    what is computed once per command and once per target.
    """
    from vlt_ros.networks import CONFIGS, describe, shipped_weights

    rows = [describe(config) | {"weights": str(shipped_weights(name) or "") or None}
            for name, config in CONFIGS.items()]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return
    click.echo(f"{'name':20} {'system':11} {'parameters':>11} {'GFLOPs':>8} {'template':>9} {'search':>7}  weights")
    for row in rows:
        click.echo(f"{row['name']:20} {row['system']:11} {row['parameters'] / 1e6:9.1f} M {row['gflops']:8.1f} "
                   f"{row['template_size']:9} {row['search_size']:7}  {'shipped' if row['weights'] else '-'}")


if __name__ == "__main__":
    main()
