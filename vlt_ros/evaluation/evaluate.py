# SPDX-License-Identifier: Apache-2.0
"""One-pass evaluation: trackers, started once, over whole sequences; results of others, scored as they are."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from pathlib import Path

from vlt_ros.evaluation import shards
from vlt_ros.evaluation.errors import EvaluationError
from vlt_ros.evaluation.leaving import leaving
from vlt_ros.evaluation.page import write_page
from vlt_ros.evaluation.protocols import PROTOCOLS, Protocol
from vlt_ros.evaluation.report import assess, write_report
from vlt_ros.evaluation.runs import (
    Run,
    code_digest,
    load_run,
    read_results,
    run_sequence,
    save_run,
    sequence_key,
)
from vlt_ros.evaluation.sequences import Sequence, SequenceError, read_sequences
from vlt_ros.media import make_folder

STARTS = ("box", "text", "both")
PHRASES = ("right", "wrong", "none")


@dataclass(frozen=True)
class Ours:
    """This project's tracker, as something that is evaluated; fields as for ``networks.load_network``."""

    weights: str | None
    model: str | None
    device: str
    precision: str
    runtime: str
    sha256: str

    def build(self):
        """A tracker, warmed up. Raises WeightsError, DeviceError."""
        from vlt_ros.networks import load_network
        from vlt_ros.tracker import Tracker

        device = shards.own_device(self.device, shards.worker_number())
        tracker = Tracker(load_network(self.weights, model=self.model, device=device, precision=self.precision,
                                       sha256=self.sha256, runtime=self.runtime))
        tracker.warm_up()
        return tracker


@dataclass(frozen=True)
class Piece:
    """One tracker on one sequence: what to run, and where and under which key the run is kept."""

    contestant: object
    sequence: Sequence
    start: str
    text: str
    key: dict
    boxes_file: Path
    facts_file: Path

    def load(self) -> Run | None:
        """The run, where it is done already."""
        return load_run(self.boxes_file, self.facts_file, self.key)

    def save(self, run: Run) -> None:
        """Keep the run."""
        save_run(run, self.boxes_file, self.facts_file, self.key)


def phrases_for(sequences: list[Sequence], start: str, phrase: str) -> list[str]:
    """The sentence that each sequence's tracker is given.

    ``right`` is its own, ``wrong`` that of the next sequence in order (the last one takes the first's),
    ``none`` is empty.

    Raises:
        EvaluationError: the combination makes no sense. SequenceError: a sentence is missing.
    """
    if start not in STARTS or phrase not in PHRASES:
        raise EvaluationError(f"start {start!r} with phrase {phrase!r} is unknown; start is one of "
                              f"{', '.join(STARTS)}, phrase one of {', '.join(PHRASES)}")
    if start == "box":
        if phrase != "right":
            raise EvaluationError(f"--phrase {phrase} has no meaning with --start box, which gives no "
                                  "sentence; use --start both or text")
        return [""] * len(sequences)
    if phrase == "none":
        if start == "text":
            raise EvaluationError("--phrase none leaves --start text with nothing to start from; "
                                  "use --start both")
        return [""] * len(sequences)
    for sequence in sequences:
        if not sequence.text:
            raise SequenceError(f"{sequence.folder / 'language.txt'} is missing or empty; "
                                "write the target's sentence there or use --start box")
    texts = [sequence.text for sequence in sequences]
    if phrase == "wrong":
        if len(set(texts)) < 2:
            raise EvaluationError("--phrase wrong takes the sentence of another sequence; give at least two "
                                  "sequences with different sentences")
        texts = texts[1:] + texts[:1]
    return texts


def find_protocol(name: str) -> Protocol:
    """The protocol of a name. Raises EvaluationError."""
    if name not in PROTOCOLS:
        raise EvaluationError(f"protocol {name!r} is unknown: choose one of {', '.join(PROTOCOLS)}")
    return PROTOCOLS[name]


def evaluate(root: str | Path, out: str | Path, *, start: str = "box", phrase: str = "right", protocol: str = "ope",
             against: str = "", jobs: int = 1, weights: str | Path | None = None, model: str | None = None,
             device: str = "auto", precision: str = "auto", runtime: str = "auto", progress: bool = True,
             leave: bool = False) -> dict | None:
    """Run the tracker over all sequences below ``root`` and write ``out``/report.json, report.html and NAME.txt.

    What is finished is kept under ``out`` with what was run (weights, code, start, sentence, data), so that the same
    call after an interruption only does the rest. Under torchrun every process does its share and process 0 writes
    the report; the report is the same, but for the speeds.

    Args:
        root: folder of sequences, see :mod:`vlt_ros.evaluation.sequences`. out: folder for results.
        start: box, text or both. phrase: which sentence, see :func:`phrases_for`.
        protocol: a name of ``protocols.PROTOCOLS``. A start by text is always scored with the tracker's own frame 0.
        against: OpenCV's trackers to run too, see :func:`vlt_ros.evaluation.peers.parse_peers`; they get the box.
        jobs: processes on this machine (in each of torchrun's).
        weights, model, device, precision, runtime: as for :func:`vlt_ros.networks.load_network`.
        progress: show a progress bar on stderr.
        leave: let the camera turn away from every target and back, see :mod:`vlt_ros.evaluation.leaving`.

    Returns:
        The report, see :func:`vlt_ros.evaluation.report.assess`; None in torchrun's processes other than 0. ``fps``
        is frames over the time spent inside ``Tracker.track``: reading and decoding images, loading and warming up,
        and the start's own work are not in it.

    Raises:
        SequenceError, EvaluationError, MediaError, WeightsError, DeviceError: each with one clear line. A sequence
            that cannot be followed does not stop the others; it is named when they are done.
    """
    from vlt_ros.evaluation.peers import parse_peers

    rules, peers = find_protocol(protocol), parse_peers(against)
    sequences: list[Sequence] = read_sequences(root)
    if leave:
        sequences = [*leaving(sequences)]
    texts = phrases_for(sequences, start, phrase)
    for sequence in sequences:
        if sequence.absent[0] and (start != "text" or peers):
            raise SequenceError(f"{sequence.truth} line 1: the target is absent, so there is no box to start from; "
                                f"use --start text{' without --against' if peers else ''} or leave the sequence out")
        if sequence.attributes:
            # Said now, not when all have been followed.
            rules.attribute_names(*sequence.attributes)
    out = make_folder(out)
    for peer in peers:
        peer.build()
    ours = Ours(str(weights) if weights else None, model, device, precision, runtime,
                _weights_hash(weights, model))
    network = _tracker(ours).network
    keys = [sequence_key(sequence) | {"code": code_digest()} for sequence in sequences]
    facts = {"weights": ours.sha256, "device": network.device.type,
             "arithmetic": f"{network.runtime} {network.precision}", "start": start}
    pieces = [Piece(ours, sequence, start, text, key | facts | {"text": text}, out / f"{sequence.name}.txt",
                    out / "runs" / f"{sequence.name}.json")
              for sequence, text, key in zip(sequences, texts, keys, strict=True)]
    pieces += [Piece(peer, sequence, "box", "", key | peer.key(), out / peer.name / f"{sequence.name}.txt",
                     out / "runs" / peer.name / f"{sequence.name}.json")
               for peer in peers for sequence, key in zip(sequences, keys, strict=True)]
    with shards.joined() as (rank, world):
        done = iter(_run_all(pieces, rank, world, jobs, progress))
        if rank:
            # What could not be followed is said once, by process 0.
            return None
        runs = {name: {sequence.name: next(done) for sequence in sequences}
                for name in (network.name, *(peer.name for peer in peers))}
        mine, *others = (assess(sequences, of_one, rules, "own" if start == "text" and name == network.name else None)
                         for name, of_one in runs.items())
        for text, entry in zip(texts, mine["per_sequence"].values(), strict=True):
            entry["text"] = text
        report = mine | {
            "start": start, "phrase": phrase, "protocol_name": rules.name, "protocol": rules.rule,
            "model": network.name, "weights": str(weights) if weights else "shipped", "device": str(network.device),
            "arithmetic": f"{network.runtime} {network.precision}",
            "against": {peer.name: block for peer, block in zip(peers, others, strict=True)}}
        write_report(out, report)
        write_page(out / "report.html", report, sequences, runs)
    return report


def score(results: str | Path, root: str | Path, out: str | Path, *, protocol: str = "ope") -> dict:
    """Score result files as they are: ``results``/NAME.txt beside ``root``/NAME/groundtruth.txt.

    Args:
        results: folder of one file for each sequence, one box x,y,w,h a line (or NAME/NAME_001.txt, as GOT-10k's).
        root: the sequences; images only serve the film strips, and a protocol that clips. out: folder for the report.
        protocol: a name of ``protocols.PROTOCOLS``.

    Returns:
        The report, see :func:`vlt_ros.evaluation.report.assess`, also written to ``out``.

    Raises:
        SequenceError, EvaluationError, MediaError: each with one clear line.
    """
    rules, results = find_protocol(protocol), Path(results)
    sequences = read_sequences(root, images=False)
    if not results.is_dir():
        raise EvaluationError(f"{results} is not a folder; give the one with a file NAME.txt for each sequence")
    files = {s.name: next((file for file in (results / f"{s.name}.txt", results / s.name / f"{s.name}_001.txt")
                           if file.is_file()), None) for s in sequences}
    missing = [name for name, file in files.items() if file is None]
    if missing:
        raise EvaluationError(f"{results / missing[0]}.txt is missing ({len(missing)} of {len(files)} sequences have "
                              "no results); a score over a part of a benchmark is none, so add them")
    runs = {s.name: read_results(files[s.name], s) for s in sequences}
    out = make_folder(out)
    report = assess(sequences, runs, rules) | {
        "protocol_name": rules.name, "protocol": rules.rule, "results": str(results), "against": {}}
    write_report(out, report)
    write_page(out / "report.html", report, sequences, {results.name or "results": runs})
    return report


def _weights_hash(weights: str | Path | None, model: str | None) -> str:
    """Of the file that ``load_network`` takes; '' where there is none, which it says better."""
    from vlt_ros.networks.weights import DEFAULT_MODEL, file_sha256, models_folder

    file = Path(weights) if weights else models_folder() / f"{model or DEFAULT_MODEL}.safetensors"
    return file_sha256(file) if file.is_file() else ""


def _run_all(pieces: list[Piece], rank: int, world: int, jobs: int, progress: bool) -> list[Run]:
    """The runs of all pieces, done or loaded, for process 0; the others give theirs away and have none.

    Raises:
        SequenceError: sequences that could not be followed, in process 0; the others' runs are kept.
    """
    from tqdm import tqdm

    mine = shards.share([len(piece.sequence) for piece in pieces], rank, world)
    known = {index: run for index in mine if (run := pieces[index].load()) is not None}
    # The longest first, so that no worker starts one when the others are through.
    todo = sorted((index for index in mine if index not in known), key=lambda i: (-len(pieces[i].sequence), i))
    frames = {index: len(pieces[index].sequence) for index in mine}
    with tqdm(total=sum(frames.values()), initial=sum(frames[index] for index in known), unit="frame",
              desc=f"process {rank + 1} of {world}" if world > 1 else "evaluate", disable=not progress) as bar:
        faults = shards.work([pieces[index] for index in todo], follow, jobs, bar.update)
    rows = [(index, known.get(index) or pieces[index].load(), None) for index in mine if index not in todo]
    rows += [(index, None if fault else pieces[index].load(), fault) for index, fault in zip(todo, faults, strict=True)]
    rows = shards.gather(rows)
    if rank:
        return []
    faults = [fault for _, _, fault in sorted(rows, key=lambda row: row[0]) if fault]
    if faults:
        more = f" (and {len(faults) - 1} more)" if len(faults) > 1 else ""
        raise SequenceError(f"{faults[0]}{more}; the other {len(rows) - len(faults)} of {len(rows)} runs are kept, and "
                            "the same command goes on from there")
    runs = {index: run for index, run, _ in rows}
    # Other machines need not share the folder.
    for index in sorted(runs.keys() - set(mine)):
        if pieces[index].load() is None:
            pieces[index].save(runs[index])
    return [runs[index] for index in range(len(pieces))]


def follow(piece: Piece, progress) -> str | None:
    """Do a piece and keep its run; what is wrong with its sequence comes back as a message."""
    try:
        piece.save(run_sequence(_tracker(piece.contestant), piece.sequence, piece.start, piece.text, progress))
    except SequenceError as error:
        return str(error)
    return None


@functools.lru_cache(maxsize=4)
def _tracker(contestant):
    """Each process builds a tracker once."""
    return contestant.build()

