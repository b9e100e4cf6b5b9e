# SPDX-License-Identifier: Apache-2.0
"""Training loop: a YAML configuration in, a weights file out; stops and goes on where it was."""

from __future__ import annotations

import dataclasses
import json
import math
import os
import signal
import threading
import time
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from types import NoneType

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from vlt_ros.networks import (
    CONFIGS,
    Contrast,
    DeviceError,
    Maps,
    Matching,
    TrackingNetwork,
    build_network,
    choose_device,
    decode,
    load_network,
    save_network,
    start_from_dinov2,
    start_from_files,
    start_from_tracker,
)
from vlt_ros.networks.noise import SampleNoise
from vlt_ros.networks.preprocess import normalise
from vlt_ros.training import distributed
from vlt_ros.training.alignment import alignment_losses
from vlt_ros.training.losses import giou, tracking_loss

# Between SIGTERM and the end of a loader process that its trainer forgot: time to finish a step and save.
STOP_GRACE_S = 60


class TrainingError(ValueError):
    """The configuration or its data cannot be used; one line says what and where."""


class TrainingStopped(RuntimeError):
    """SIGTERM ended the run between two steps; a checkpoint was saved."""


@dataclass(frozen=True)
class TrainingConfig:
    """What a run does. Every field may stand in the YAML file; unknown ones are refused.

    model: configuration name. start: 'dinov2', 'random', a weights file to go on from, 'tracker' for what all systems
        have of start_tracker (another system's weights file), or 'files' for start_vision (a ViT with timm's names, as
        MAE's) and start_text (a BERT of transformers, folder or file); without one of the two that tower starts at
        random.
    data, assets: folders of stills and clips, and of cut-outs and backgrounds (see training.assets); either may be
    left out where datasets are given.
    datasets: folder of each data set, by the names of training.datasets. dataset_shares: their shares of the samples
    (that of ``data`` under this name), None for the square roots of their sizes.
    mix, phrase_shares: share of each kind of sample and of phrase scene, None for the generator's own.
    steps, batch_size, seed: length and order. batch_size is that of all processes together.
    loaders: processes that make samples, for each training process.
    lr_new, lr_pretrained: AdamW's rates for new parts and for layers that start pretrained; weight_decay.
    warmup_steps, decay_from, schedule: linear rise, then constant up to this fraction of the run, then a 'cosine' to
        1 %, or one 'step' to 10 %.
    freeze_separate: keep the layers before the first joint one (and the patches) as they are.
    clip_norm, ema: gradient clipping and the decay of the averaged weights that are shipped.
    precision: 'bf16' or 'fp32'. device: auto, cpu, cuda:N; under torchrun auto (each its own GPU) or cpu.
    save_every, validate_every, validation_samples: in steps; held-out samples.
    """

    model: str = "pjvlt_s"
    start: str = "dinov2"
    start_vision: str = ""
    start_text: str = ""
    start_tracker: str = ""
    data: str | None = None
    assets: str | None = None
    datasets: dict[str, str] | None = None
    dataset_shares: dict[str, float] | None = None
    mix: dict[str, float] | None = None
    phrase_shares: dict[str, float] | None = None
    steps: int = 2000
    batch_size: int = 16
    seed: int = 0
    loaders: int = 1
    lr_new: float = 5e-4
    lr_pretrained: float = 1e-4
    weight_decay: float = 1e-4
    warmup_steps: int = 100
    decay_from: float = 0.3
    schedule: str = "cosine"
    freeze_separate: bool = True
    clip_norm: float = 2.0
    ema: float = 0.995
    precision: str = "bf16"
    device: str = "auto"
    save_every: int = 200
    validate_every: int = 400
    validation_samples: int = 128
    notes: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.model not in CONFIGS:
            raise TrainingError(f"model {self.model!r} is unknown: choose one of {', '.join(CONFIGS)}")
        for name, least in (("steps", 1), ("batch_size", 1), ("save_every", 1), ("validate_every", 1),
                            ("loaders", 0), ("validation_samples", 0), ("warmup_steps", 0), ("lr_new", 0),
                            ("lr_pretrained", 0), ("weight_decay", 0), ("clip_norm", 0)):
            if not least <= getattr(self, name) < math.inf:
                raise TrainingError(f"{name} must be at least {least}, not {getattr(self, name)}")
        if not 0 <= self.ema < 1 or not 0 <= self.decay_from <= 1:
            raise TrainingError(f"ema must be in [0, 1), not {self.ema}, "
                                f"and decay_from in [0, 1], not {self.decay_from}")
        for name, kind, words in (("data", str, "a folder"), ("assets", str, "a folder"),
                                  ("datasets", dict, "names with folders"),
                                  ("dataset_shares", dict, "names with numbers")):
            if not isinstance(getattr(self, name), (kind, NoneType)):
                raise TrainingError(f"{name} must be {words}, not {getattr(self, name)!r}")
        for name, root in (self.datasets or {}).items():
            if not isinstance(root, str):
                raise TrainingError(f"datasets: {name} must be a folder, not {root!r}")
        for name, share in (self.dataset_shares or {}).items():
            if isinstance(share, bool) or not isinstance(share, (int, float)) or not 0 <= share < math.inf:
                raise TrainingError(f"dataset_shares: {name} must be at least 0, not {share!r}")
        if self.precision not in ("bf16", "fp32"):
            raise TrainingError(f"precision {self.precision!r} is not bf16 or fp32")
        if self.schedule not in ("cosine", "step"):
            raise TrainingError(f"schedule {self.schedule!r} is not cosine or step")
        if (self.start == "files") != bool(self.start_vision or self.start_text):
            raise TrainingError("start_vision and start_text belong to start: files, which needs at least one of them")
        if (self.start == "tracker") != bool(self.start_tracker):
            raise TrainingError("start_tracker belongs to start: tracker, which needs it")


def read_config(path: str | Path) -> TrainingConfig:
    """Read a YAML file.

    Raises:
        TrainingError: missing file, broken YAML, unknown or wrongly typed fields.
    """
    import yaml

    path = Path(path)
    try:
        fields = yaml.safe_load(path.read_text()) or {}
    except FileNotFoundError as error:
        raise TrainingError(f"configuration {path} is missing") from error
    except OSError as error:
        raise TrainingError(f"configuration {path} cannot be read: {error.strerror}") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise TrainingError(f"configuration {path} is no valid YAML: {error}") from error
    known = {f.name: f for f in dataclasses.fields(TrainingConfig)}
    if not isinstance(fields, dict) or set(fields) - set(known):
        unknown = sorted(set(fields) - set(known)) if isinstance(fields, dict) else fields
        raise TrainingError(f"configuration {path} has unknown fields {unknown}: known are {', '.join(known)}")
    defaults = TrainingConfig()
    for name, value in fields.items():
        expected = getattr(defaults, name)
        if isinstance(expected, float) and isinstance(value, int) and not isinstance(value, bool):
            fields[name] = float(value)
        elif expected is not None and type(value) is not type(expected):
            raise TrainingError(f"configuration {path}: {name} must be {type(expected).__name__}, not {value!r}")
    return TrainingConfig(**fields)


class Samples(Dataset):
    """Samples of a generator in the order of a run: the order is the index, so a resumed run sees the same.

    Batch k is samples k * batch_size to (k + 1) * batch_size - 1, and each process has an equal part of every batch.

    Args:
        generator: has ``sample(index)``. batch_size: of all processes together. first_step, steps: batches to give.
        rank, world_size: which process of how many.
    """

    def __init__(self, generator, batch_size: int, first_step: int, steps: int, rank: int = 0,
                 world_size: int = 1) -> None:
        self.generator, self.batch_size, self.first_step, self.steps = generator, batch_size, first_step, steps
        self.part = batch_size // world_size
        self.offset = rank * self.part

    def __len__(self) -> int:
        return self.steps * self.part

    def __getitem__(self, i: int):
        step, within = divmod(i, self.part)
        return self.generator.sample((self.first_step + step) * self.batch_size + self.offset + within)


@dataclass
class Batch:
    """Tensors of B samples: uint8 crops (B, 3, side, side), blank and present (B,), boxes (B, 4), sentences."""

    template: Tensor
    search: Tensor
    blank: Tensor
    sentences: list[str]
    boxes: Tensor
    present: Tensor
    kinds: list[str]


def _start_loader(worker: int) -> None:
    import cv2

    cv2.setNumThreads(1)
    # A stop reaches the whole process group, but the trainer has a step to finish and ends its loaders itself.
    signal.signal(signal.SIGTERM, lambda *_: signal.alarm(STOP_GRACE_S))


def collate(samples: list) -> Batch:
    """Stack generator samples into a :class:`Batch`."""
    def crops(images: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()

    return Batch(crops([s.template for s in samples]), crops([s.search for s in samples]),
                 torch.tensor([bool(s.template_blank) for s in samples]), [s.text for s in samples],
                 torch.from_numpy(np.stack([np.asarray(s.box, np.float32) for s in samples])),
                 torch.tensor([bool(s.present) for s in samples]), [s.kind for s in samples])


def learning_rate_factor(step: int, config: TrainingConfig) -> float:
    """Factor on the learning rates at a step: linear warm-up, constant, then cosine down to 0.01 or 0.1 at once."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    start = config.decay_from * config.steps
    if step < start:
        return 1.0
    if config.schedule == "step":
        return 0.1
    progress = min(1.0, (step - start) / max(1.0, config.steps - start))
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))


def parameter_groups(network: TrackingNetwork, config: TrainingConfig) -> list[dict]:
    """AdamW groups: pretrained layers slow, new parts fast; vectors (norms, biases, gates) without decay."""
    pretrained = {"random": (), "files": tuple(part for part, file in (("backbone.", config.start_vision),
                                                                       ("text.", config.start_text)) if file)}
    pretrained = pretrained.get(config.start, ("backbone.", "text."))
    if config.freeze_separate and network.config.separate_layers:
        backbone = network.backbone
        for part in (backbone.patch_embed, *backbone.blocks[: network.config.separate_layers]):
            part.requires_grad_(False)
        backbone.pos_embed_z.requires_grad_(False)
        backbone.pos_embed_x.requires_grad_(False)
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            slow = name.startswith(pretrained)
            groups.setdefault((slow, parameter.ndim > 1), []).append(parameter)
    return [{"params": parameters, "base_lr": config.lr_pretrained if slow else config.lr_new,
             "lr": 0.0, "weight_decay": config.weight_decay if decayed else 0.0}
            for (slow, decayed), parameters in groups.items()]


class Averaged:
    """Exponential moving average of a network's weights and statistics (EMA)."""

    def __init__(self, network: nn.Module, decay: float) -> None:
        self.network = deepcopy(network).eval().requires_grad_(False)
        self.decay, self.updates = decay, 0

    @torch.no_grad()
    def update(self, network: nn.Module) -> None:
        """Move towards the network; early updates move faster so that the start is forgotten."""
        self.updates += 1
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        current = network.state_dict()
        trainable = {name for name, p in network.named_parameters() if p.requires_grad}
        buffers = {name for name, _ in network.named_buffers()}
        for name, tensor in self.network.state_dict().items():
            if name in trainable or (name in buffers and tensor.is_floating_point()):
                tensor.lerp_(current[name], 1 - decay)


class _Sigterm:
    """Context that notes SIGTERM in ``came`` instead of dying of it, so that a step is never cut in two."""

    def __enter__(self) -> _Sigterm:
        self.came = False
        # Python gives signals to the main thread alone.
        self._noting = threading.current_thread() is threading.main_thread()
        if self._noting:
            self._before = signal.signal(signal.SIGTERM, self._note)
        return self

    def _note(self, *_) -> None:
        self.came = True

    def __exit__(self, *_) -> None:
        if self._noting:
            signal.signal(signal.SIGTERM, self._before)


class _Log:
    """A run's progress for people and plots: loss.jsonl, TensorBoard, a bar on stderr. ``quiet``: none of them."""

    def __init__(self, out: Path, config: TrainingConfig, step: int, quiet: bool) -> None:
        self.out, self.config, self.first, self.quiet = out, config, step, quiet
        self.smooth: dict[str, float] = {}

    def __enter__(self) -> _Log:
        if not self.quiet:
            from torch.utils.tensorboard import SummaryWriter
            from tqdm import tqdm

            self.started = time.monotonic()
            self.lines = open(self.out / "loss.jsonl", "a", buffering=1)
            self.board = SummaryWriter(self.out / "tensorboard", purge_step=self.first)
            self.bar = tqdm(total=self.config.steps, initial=self.first, desc=f"train {self.config.model}",
                            unit="step", smoothing=0.05)
        return self

    def __exit__(self, *_) -> None:
        if not self.quiet:
            self.bar.close()
            self.board.close()
            self.lines.close()

    def step(self, step: int, parts: dict[str, float]) -> None:
        """The loss's parts of one step."""
        if self.quiet:
            return
        self.smooth = {k: 0.98 * self.smooth.get(k, v) + 0.02 * v for k, v in parts.items()}
        self.lines.write(json.dumps({"step": step, **{k: round(v, 5) for k, v in parts.items()}}) + "\n")
        for name, value in parts.items():
            self.board.add_scalar(f"train/{name}", value, step)
        self.bar.set_postfix(loss=f"{self.smooth['loss']:.3f}", l1=f"{self.smooth['l1']:.3f}", refresh=False)
        self.bar.update()

    def validation(self, step: int, scores: dict[str, float]) -> None:
        """The scores of one validation."""
        if self.quiet:
            return
        for name, value in scores.items():
            self.board.add_scalar(f"validation/{name}", value, step)
        minutes = round((time.monotonic() - self.started) / 60, 2)
        self.lines.write(json.dumps({"step": step, "minutes": minutes,
                                     "validation": {k: round(v, 4) for k, v in scores.items()}}) + "\n")


def training_device(config: TrainingConfig) -> torch.device:
    """The device of this process: with several on one machine, each takes the GPU of its local rank.

    Raises:
        TrainingError: the device is not to be had.
    """
    name = config.device
    if distributed.started() and name != "cpu":
        if name != "auto":
            raise TrainingError(f"device {name} is one GPU for all processes: under torchrun use auto or cpu")
        name = f"cuda:{distributed.local_rank()}" if torch.cuda.is_available() else "cpu"
    try:
        return choose_device(name)
    except DeviceError as error:
        raise TrainingError(str(error)) from error


class Trainer:
    """One run: build, or restore from ``out/checkpoint.pt``, then :meth:`run`.

    Of several processes (see :mod:`vlt_ros.training.distributed`) each holds the whole network, its average and its
    optimiser, and takes an equal part of every batch; process 0 alone writes. ``out`` must be a folder that all see.
    """

    def __init__(self, config: TrainingConfig, out: Path) -> None:
        from vlt_ros.training.datasets import read_datasets
        from vlt_ros.training.samples import SampleGenerator

        self.config, self.out = config, out
        self.rank, self.processes = distributed.rank(), distributed.world_size()
        if config.batch_size % self.processes:
            raise TrainingError(f"batch_size {config.batch_size} is that of all processes together and must be a "
                                f"multiple of their number, {self.processes}")
        torch.manual_seed(config.seed)
        self.device = training_device(config)
        if config.start in ("random", "dinov2", "files", "tracker"):
            self.network = build_network(CONFIGS[config.model])
            if config.start == "dinov2":
                start_from_dinov2(self.network)
            elif config.start == "files":
                start_from_files(self.network, config.start_vision, config.start_text)
            elif config.start == "tracker":
                start_from_tracker(self.network, config.start_tracker)
        else:
            self.network = load_network(config.start, model=config.model, device="cpu", precision="fp32")
            self.network.train().requires_grad_(True)
            if self.network.frozen_text:
                self.network.text.requires_grad_(False)
            if self.network.tells_names:
                self.network.naming.requires_grad_(False)
        self.network.to(self.device)
        if self.processes > 1:
            distributed.broadcast(self.network)
            distributed.use_global_batch_norm(self.network)
        self.optimiser = torch.optim.AdamW(parameter_groups(self.network, config), betas=(0.9, 0.999))
        self.averaged = Averaged(self.network, config.ema)
        self.step = 0
        sizes = self.network.config
        try:
            datasets = read_datasets(config.datasets or {})
            self.generator, self.heldout = (
                SampleGenerator(config.data, config.assets, template_size=sizes.template_size,
                                search_size=sizes.search_size, seed=config.seed, split=split, mix=config.mix,
                                phrase_shares=config.phrase_shares, datasets=datasets,
                                dataset_shares=config.dataset_shares)
                for split in ("train", "heldout"))
        except (FileNotFoundError, ValueError) as error:
            raise TrainingError(str(error)) from error

    @property
    def checkpoint(self) -> Path:
        """File that a stopped run goes on from."""
        return self.out / "checkpoint.pt"

    def _names(self) -> set[str]:
        network = self.network
        return ({n for n, p in network.named_parameters() if p.requires_grad}
                | {n for n, b in network.named_buffers() if "running" in n})

    def save(self) -> None:
        """Write the checkpoint in one step: a stop in the middle leaves the old one. Process 0 alone writes."""
        if self.rank > 0:
            return
        names = self._names()
        state = {"step": self.step, "config": json.dumps(dataclasses.asdict(self.config)),
                 "network": {n: t for n, t in self.network.state_dict().items() if n in names},
                 "averaged": {n: t for n, t in self.averaged.network.state_dict().items() if n in names},
                 "updates": self.averaged.updates, "optimiser": self.optimiser.state_dict(),
                 "rng": torch.get_rng_state()}
        temporary = self.checkpoint.with_suffix(".partial")
        torch.save(state, temporary)
        os.replace(temporary, self.checkpoint)

    def restore(self) -> None:
        """Go on from the checkpoint.

        Raises:
            TrainingError: it is unreadable or of another configuration.
        """
        try:
            state = torch.load(self.checkpoint, map_location=self.device, weights_only=True)
        except Exception as error:
            raise TrainingError(f"checkpoint {self.checkpoint} is unreadable ({error}): "
                                "remove it to start anew") from error
        old, new = json.loads(state["config"]), dataclasses.asdict(self.config)
        free = ("loaders", "device", "save_every", "validate_every")
        changed = [k for k in new if k not in free and new[k] != old.get(k)]
        if changed:
            raise TrainingError(f"checkpoint {self.checkpoint} is of a run with other {', '.join(changed)}: "
                                "use another --out or the old configuration")
        self.network.load_state_dict(state["network"], strict=False)
        self.averaged.network.load_state_dict(state["averaged"], strict=False)
        self.averaged.updates = state["updates"]
        self.optimiser.load_state_dict(state["optimiser"])
        torch.set_rng_state(state["rng"].cpu())
        self.step = state["step"]

    def _forward(self, network: TrackingNetwork, batch: Batch,
                 noise: SampleNoise | None = None) -> tuple[Maps, dict[str, Contrast | Matching]]:
        """The head's maps, and in training the further terms of the system's objective."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            words = network.encode_text(batch.sentences, noise)
            template = network.encode_template(normalise(batch.template.to(self.device)), batch.blank.to(self.device))
            search = network.encode_search(normalise(batch.search.to(self.device)))
            encoded = network.encode(search, template, words)
            return network.maps(encoded["search"]), network.terms(encoded) if network.training else {}

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One optimiser step on one batch, or on this process's part of it; returns the whole batch's loss in parts."""
        factor = learning_rate_factor(self.step, self.config)
        for group in self.optimiser.param_groups:
            group["lr"] = factor * group["base_lr"]
        count = len(batch.sentences)
        first = self.step * self.config.batch_size + self.rank * count
        noise = SampleNoise(self.config.seed, first, count, self.device)
        maps, terms = self._forward(self.network.train(), batch, noise)
        boxes, present = batch.boxes.to(self.device), batch.present.to(self.device)
        loss, parts = tracking_loss(maps, boxes, present, distributed.total)
        made_of = {"search": present, "template": ~batch.blank.to(self.device),
                   "language": torch.tensor([bool(text) for text in batch.sentences], device=self.device)}
        for name, term in alignment_losses(terms, boxes, made_of).items():
            loss, parts[name] = loss + terms[name].weight * term, term.detach()
        parts["loss"] = loss.detach()
        parts = dict(zip(parts, distributed.total(torch.stack(list(parts.values()))).tolist(), strict=True))
        if not math.isfinite(parts["loss"]):
            raise TrainingError(f"the loss became {parts['loss']} at step {self.step}: lower lr_new or lr_pretrained")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        parameters = [p for g in self.optimiser.param_groups for p in g["params"]]
        distributed.sum_gradients(parameters)
        norm = nn.utils.clip_grad_norm_(parameters, self.config.clip_norm)
        self.optimiser.step()
        self.averaged.update(self.network)
        self.step += 1
        return parts | {"norm": float(norm), "lr": factor}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Averaged weights on held-out samples: mean IoU and hit rate by kind, confidence present and absent."""
        network, seen = self.averaged.network, []
        count, part = self.config.validation_samples, self.config.batch_size // self.processes
        for first in range(self.rank * part, count, self.config.batch_size):
            batch = collate([self.heldout.sample(i) for i in range(first, min(count, first + part))])
            maps, _ = self._forward(network, batch)
            boxes, _ = decode(maps)
            overlap = giou(boxes.cpu(), batch.boxes).clamp(min=0)
            confidence = maps.score.flatten(1).amax(1).cpu()
            inside = ((boxes.cpu()[:, :2] - batch.boxes[:, :2]).abs() <= batch.boxes[:, 2:] / 2).all(1)
            seen += [(first + i, kind, bool(batch.present[i]), *values) for i, (kind, *values) in enumerate(zip(
                batch.kinds, overlap.tolist(), inside.float().tolist(), confidence.tolist(), strict=True))]
        rows: dict[str, list[float]] = {}
        for _, kind, present, overlap, inside, confidence in sorted(distributed.gather(seen)):
            if present:
                rows.setdefault(f"overlap/{kind}", []).append(overlap)
                rows.setdefault(f"hit/{kind}", []).append(inside)
            rows.setdefault(f"confidence/{'present' if present else 'absent'}", []).append(confidence)
        return {name: sum(values) / len(values) for name, values in sorted(rows.items())}

    def _loader(self) -> DataLoader:
        config = self.config
        samples = Samples(self.generator, config.batch_size, self.step, config.steps - self.step, self.rank,
                          self.processes)
        return DataLoader(samples, batch_size=samples.part, num_workers=config.loaders, collate_fn=collate,
                          worker_init_fn=_start_loader, prefetch_factor=4 if config.loaders else None,
                          # A fork of a process with threads (torch's, OpenCV's) may wait for ever on a lock.
                          multiprocessing_context="spawn" if config.loaders else None,
                          # Its own: a resumed run would draw from torch's once more than an unbroken.
                          generator=torch.Generator())

    def run(self) -> Path:
        """Train to the last step; returns the weights file.

        Raises:
            TrainingError: the loss is not finite.
            TrainingStopped: SIGTERM came; the step was finished and a checkpoint saved.
        """
        if self.rank == 0:
            self.out.mkdir(parents=True, exist_ok=True)
        with _Log(self.out, self.config, self.step, quiet=self.rank > 0) as log, _Sigterm() as sigterm:
            for batch in self._loader():
                parts = self.train_step(batch)
                log.step(self.step, parts)
                last = self.step == self.config.steps
                if last or self.step % self.config.validate_every == 0:
                    log.validation(self.step, self.validate())
                # Signals come to the processes at different steps, and none may wait alone for the others.
                stop = not last and bool(distributed.total(torch.tensor(float(sigterm.came), device=self.device)))
                if last or stop or self.step % self.config.save_every == 0:
                    self.save()
                    self.export()
                if stop:
                    raise TrainingStopped(f"stopped by SIGTERM after step {self.step} of {self.config.steps}: "
                                          f"{self.checkpoint} is saved, --resume goes on")
        return self.export()

    def export(self) -> Path:
        """Write the averaged weights as a weights file; process 0 alone does."""
        path = self.out / f"{self.config.model}.safetensors"
        if self.rank > 0:
            return path
        notes = {"steps": str(self.step), "seed": str(self.config.seed),
                 **{name: str(note) for name, note in self.config.notes.items()}}
        save_network(self.averaged.network, path, notes=notes)
        return path


def train(config_path: str | Path, out: str | Path, resume: bool = False,
          datasets: dict[str, str] | None = None, model: str | None = None) -> Path:
    """Train as a YAML file says.

    Args:
        config_path: see :class:`TrainingConfig`. out: folder for checkpoint, log, TensorBoard and weights.
        resume: go on from the checkpoint in ``out`` (a missing one is an error; of a finished run the weights
            are written again).
        datasets: folders of data sets, by name, in place of or besides those of the YAML file.
        model: configuration to train in place of the YAML file's.

    Started by torchrun on one machine or several, its processes share every batch and end with the weights that one
    process would have, but for rounding; each machine must see the same ``out``.

    Returns:
        the weights file.

    Raises:
        TrainingError: bad configuration, missing data, a run already there, or a loss that is not finite.
        WeightsError: weights to start from that are missing or do not fit.
        TrainingStopped: SIGTERM came; a checkpoint is saved.
    """
    out, config = Path(out), read_config(config_path)
    if datasets:
        config = dataclasses.replace(config, datasets={**(config.datasets or {}), **datasets})
    if model:
        config = dataclasses.replace(config, model=model)
    stopped = None
    with distributed.processes(training_device(config)):
        trainer = Trainer(config, out)
        if resume:
            if not trainer.checkpoint.is_file():
                raise TrainingError(f"nothing to resume: {trainer.checkpoint} is missing")
            trainer.restore()
        elif trainer.checkpoint.is_file():
            raise TrainingError(f"{out} holds a run already: add --resume, or choose another --out")
        try:
            return trainer.run()
        except TrainingStopped as error:    # in all processes alike, so they leave in order
            stopped = error
    raise stopped
