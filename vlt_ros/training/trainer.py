# SPDX-License-Identifier: Apache-2.0
"""Training loop: a YAML configuration in, a weights file out; stops and goes on where it was."""

from __future__ import annotations

import dataclasses
import json
import math
import os
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
    PJVLT,
    DeviceError,
    choose_device,
    decode,
    load_network,
    save_network,
    start_from_dinov2,
)
from vlt_ros.networks.preprocess import normalise
from vlt_ros.training.losses import giou, tracking_loss


class TrainingError(ValueError):
    """The configuration or its data cannot be used; one line says what and where."""


@dataclass(frozen=True)
class TrainingConfig:
    """What a run does. Every field may stand in the YAML file; unknown ones are refused.

    model: configuration name. start: 'dinov2', 'random', or a weights file to go on from.
    data, assets: folders of stills and clips, and of cut-outs and backgrounds (see training.assets); either may be
    left out where datasets are given.
    datasets: folder of each data set, by the names of training.datasets. dataset_shares: their shares of the samples
    (that of ``data`` under this name), None for the square roots of their sizes.
    mix, phrase_shares: share of each kind of sample and of phrase scene, None for the generator's own.
    steps, batch_size, seed: length and order. loaders: processes that make samples.
    lr_new, lr_pretrained: AdamW's rates for new parts and for layers that start pretrained; weight_decay.
    warmup_steps, decay_from: linear rise, then constant up to this fraction of the run, then a cosine to 1 %.
    freeze_separate: keep the layers before the first joint one (and the patches) as they are.
    clip_norm, ema: gradient clipping and the decay of the averaged weights that are shipped.
    precision: 'bf16' or 'fp32'. device: auto, cpu, cuda:N.
    save_every, validate_every, validation_samples: in steps; held-out samples.
    """

    model: str = "pjvlt_s"
    start: str = "dinov2"
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
    """Samples first .. first + count - 1 of a generator: the order is the index, so a resumed run sees the same."""

    def __init__(self, generator, first: int, count: int) -> None:
        self.generator, self.first, self.count = generator, first, count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, i: int):
        return self.generator.sample(self.first + i)


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


def _one_thread(worker: int) -> None:
    import cv2

    cv2.setNumThreads(1)


def collate(samples: list) -> Batch:
    """Stack generator samples into a :class:`Batch`."""
    def crops(images: list[np.ndarray]) -> Tensor:
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2).contiguous()

    return Batch(crops([s.template for s in samples]), crops([s.search for s in samples]),
                 torch.tensor([bool(s.template_blank) for s in samples]), [s.text for s in samples],
                 torch.from_numpy(np.stack([np.asarray(s.box, np.float32) for s in samples])),
                 torch.tensor([bool(s.present) for s in samples]), [s.kind for s in samples])


def learning_rate_factor(step: int, config: TrainingConfig) -> float:
    """Factor on the learning rates at a step: linear warm-up, constant, cosine down to 0.01."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    start = config.decay_from * config.steps
    if step < start:
        return 1.0
    progress = min(1.0, (step - start) / max(1.0, config.steps - start))
    return 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * progress))


def parameter_groups(network: PJVLT, config: TrainingConfig) -> list[dict]:
    """AdamW groups: pretrained layers slow, new parts fast; vectors (norms, biases, gates) without decay."""
    pretrained_start = config.start != "random"
    if config.freeze_separate and network.config.separate_layers:
        backbone = network.backbone
        for part in (backbone.patch_embed, *backbone.blocks[: network.config.separate_layers]):
            part.requires_grad_(False)
        backbone.pos_embed_z.requires_grad_(False)
        backbone.pos_embed_x.requires_grad_(False)
    groups: dict[tuple[bool, bool], list[nn.Parameter]] = {}
    for name, parameter in network.named_parameters():
        if parameter.requires_grad:
            slow = pretrained_start and name.startswith(("backbone.", "text."))
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


class Trainer:
    """One run: build, or restore from ``out/checkpoint.pt``, then :meth:`run`."""

    def __init__(self, config: TrainingConfig, out: Path) -> None:
        from vlt_ros.training.datasets import read_datasets
        from vlt_ros.training.samples import SampleGenerator

        self.config, self.out = config, out
        torch.manual_seed(config.seed)
        try:
            self.device = choose_device(config.device)
        except DeviceError as error:
            raise TrainingError(str(error)) from error
        if config.start in ("random", "dinov2"):
            self.network = PJVLT(CONFIGS[config.model])
            if config.start == "dinov2":
                start_from_dinov2(self.network)
        else:
            self.network = load_network(config.start, model=config.model, device="cpu", precision="fp32")
            self.network.train().requires_grad_(True)
            if self.network.config.frozen_minilm:
                self.network.text.requires_grad_(False)
        self.network.to(self.device)
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
        """Write the checkpoint in one step: a stop in the middle leaves the old one."""
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

    def _forward(self, network: PJVLT, batch: Batch):
        frozen_text = network.config.frozen_minilm
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.precision == "bf16"):
            with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen_text):
                semantic = network.text(batch.sentences)
            words = network.words(semantic)
            template = normalise(batch.template.to(self.device))
            tokens = network.encode_template(template, batch.blank.to(self.device))
            return network.track(normalise(batch.search.to(self.device)), tokens, words)

    def train_step(self, batch: Batch) -> dict[str, float]:
        """One optimiser step on one batch; returns the loss's parts."""
        factor = learning_rate_factor(self.step, self.config)
        for group in self.optimiser.param_groups:
            group["lr"] = factor * group["base_lr"]
        maps = self._forward(self.network.train(), batch)
        loss, parts = tracking_loss(maps, batch.boxes.to(self.device), batch.present.to(self.device))
        if not torch.isfinite(loss):
            raise TrainingError(f"the loss became {loss.item()} at step {self.step}: lower lr_new or lr_pretrained")
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        norm = nn.utils.clip_grad_norm_([p for g in self.optimiser.param_groups for p in g["params"]],
                                        self.config.clip_norm)
        self.optimiser.step()
        self.averaged.update(self.network)
        self.step += 1
        return {name: float(value) for name, value in parts.items()} | {"norm": float(norm), "lr": factor}

    @torch.no_grad()
    def validate(self) -> dict[str, float]:
        """Averaged weights on held-out samples: mean IoU and hit rate by kind, confidence present and absent."""
        network, rows = self.averaged.network, {}
        count = self.config.validation_samples
        for first in range(0, count, self.config.batch_size):
            batch = collate([self.heldout.sample(i) for i in range(first, min(count, first + self.config.batch_size))])
            maps = self._forward(network, batch)
            boxes, _ = decode(maps)
            overlap = giou(boxes.cpu(), batch.boxes).clamp(min=0)
            confidence = maps.score.flatten(1).amax(1).cpu()
            inside = ((boxes.cpu()[:, :2] - batch.boxes[:, :2]).abs() <= batch.boxes[:, 2:] / 2).all(1).float()
            for i, kind in enumerate(batch.kinds):
                if batch.present[i]:
                    rows.setdefault(f"overlap/{kind}", []).append(float(overlap[i]))
                    rows.setdefault(f"hit/{kind}", []).append(float(inside[i]))
                side = "present" if batch.present[i] else "absent"
                rows.setdefault(f"confidence/{side}", []).append(float(confidence[i]))
        return {name: sum(values) / len(values) for name, values in sorted(rows.items())}

    def run(self) -> Path:
        """Train to the last step; returns the weights file."""
        from torch.utils.tensorboard import SummaryWriter
        from tqdm import tqdm

        config = self.config
        self.out.mkdir(parents=True, exist_ok=True)
        loader = DataLoader(Samples(self.generator, self.step * config.batch_size,
                                    (config.steps - self.step) * config.batch_size),
                            batch_size=config.batch_size, num_workers=config.loaders, collate_fn=collate,
                            worker_init_fn=_one_thread, prefetch_factor=4 if config.loaders else None,
                            # A fork of a process with threads (torch's, OpenCV's) may wait for ever on a lock.
                            multiprocessing_context="spawn" if config.loaders else None,
                            # Its own: a resumed run would draw from torch's once more than an unbroken.
                            generator=torch.Generator())
        board = SummaryWriter(self.out / "tensorboard", purge_step=self.step)
        progress = tqdm(total=config.steps, initial=self.step, desc=f"train {config.model}", unit="step",
                        smoothing=0.05)
        smooth: dict[str, float] = {}
        started = time.monotonic()
        with open(self.out / "loss.jsonl", "a", buffering=1) as log, board, progress:
            for batch in loader:
                parts = self.train_step(batch)
                smooth = {k: 0.98 * smooth.get(k, v) + 0.02 * v for k, v in parts.items()}
                log.write(json.dumps({"step": self.step, **{k: round(v, 5) for k, v in parts.items()}}) + "\n")
                for name, value in parts.items():
                    board.add_scalar(f"train/{name}", value, self.step)
                progress.set_postfix(loss=f"{smooth['loss']:.3f}", l1=f"{smooth['l1']:.3f}", refresh=False)
                progress.update()
                last = self.step == config.steps
                if last or self.step % config.validate_every == 0:
                    scores = self.validate()
                    for name, value in scores.items():
                        board.add_scalar(f"validation/{name}", value, self.step)
                    log.write(json.dumps({"step": self.step, "minutes": round((time.monotonic() - started) / 60, 2),
                                          "validation": {k: round(v, 4) for k, v in scores.items()}}) + "\n")
                if last or self.step % config.save_every == 0:
                    self.save()
                    self.export()
        return self.export()

    def export(self) -> Path:
        """Write the averaged weights as a weights file."""
        path = self.out / f"{self.config.model}.safetensors"
        notes = {"steps": str(self.step), "seed": str(self.config.seed),
                 **{name: str(note) for name, note in self.config.notes.items()}}
        save_network(self.averaged.network, path, notes=notes)
        return path


def train(config_path: str | Path, out: str | Path, resume: bool = False,
          datasets: dict[str, str] | None = None) -> Path:
    """Train as a YAML file says.

    Args:
        config_path: see :class:`TrainingConfig`. out: folder for checkpoint, log, TensorBoard and weights.
        resume: go on from the checkpoint in ``out`` (a missing one is an error; of a finished run the weights
            are written again).
        datasets: folders of data sets, by name, in place of or besides those of the YAML file.

    Returns:
        the weights file.

    Raises:
        TrainingError: bad configuration, missing data, a run already there, or a loss that is not finite.
    """
    out = Path(out)
    config = read_config(config_path)
    if datasets:
        config = dataclasses.replace(config, datasets={**(config.datasets or {}), **datasets})
    trainer = Trainer(config, out)
    if resume:
        if not trainer.checkpoint.is_file():
            raise TrainingError(f"nothing to resume: {trainer.checkpoint} is missing")
        trainer.restore()
    elif trainer.checkpoint.is_file():
        raise TrainingError(f"{out} holds a run already: add --resume, or choose another --out")
    return trainer.run()
