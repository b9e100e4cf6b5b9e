# SPDX-License-Identifier: Apache-2.0
"""What every tracking network here shares: towers, template and search tokens, head, and what is computed how often.

A system of a paper is a subclass in a file of its own (``pjvlt.py``, ``all_in_one.py`` and so on): its configuration,
its own layers (:meth:`TrackingNetwork._add_parts`), what a sentence becomes (:meth:`TrackingNetwork.encode_text`), how
template, search region and sentence meet (:meth:`TrackingNetwork.encode`), and what its paper trains beside the boxes
(:meth:`TrackingNetwork.terms`). ``systems.py`` lists them.

Shapes: B batch, C channels, Nz and Nx tokens of template and search region, T words.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from vlt_ros.networks.head import CentreHead, Maps
from vlt_ros.networks.naming import Naming
from vlt_ros.networks.noise import SampleNoise
from vlt_ros.networks.recognition import Recognition
from vlt_ros.networks.text import SemanticTokens, TextTower
from vlt_ros.networks.vit import VisionTransformer


@dataclass(frozen=True)
class NetworkConfig:
    """The ViT, its two crops and the head. Raises ValueError when the numbers do not fit together.

    separate_layers: the first layers, which see template and search region apart; 0 for the paper's joint ViTs.
    matching_prior: see :meth:`TrackingNetwork._match`.
    recognition: directions of the metric that tells a found box's target from other things, see ``recognition.py``; 0
        for none: then the head's score alone is the confidence.
    inference: 'vlt' for this project's crops and following, 'ostrack' for those that OSTrack's published weights were
        trained and scored with (see the tracker's geometry and Following).
    """

    name: str = ""
    template_size: int = 128
    search_size: int = 256
    patch_size: int = 16
    dim: int = 768
    depth: int = 12
    num_heads: int = 12
    layer_scale: bool = False
    separate_layers: int = 0
    matching_prior: bool = False
    head_channels: int = 256
    recognition: int = 0
    inference: str = "vlt"

    def __post_init__(self) -> None:
        self._positive("template_size", "search_size", "patch_size", "dim", "depth", "num_heads", "head_channels")
        self._multiples(("template_size", "patch_size"), ("search_size", "patch_size"), ("dim", "num_heads"))
        if not 0 <= self.separate_layers <= self.depth:
            raise ValueError(f"{self.name}: separate_layers {self.separate_layers} is not 0 to depth {self.depth}")
        if not 0 <= self.recognition <= self.dim:
            raise ValueError(f"{self.name}: recognition {self.recognition} is not 0 to dim {self.dim}")
        if self.recognition and not self.separate_layers:
            raise ValueError(f"{self.name}: recognition is by separate layers' tokens, and there are none")
        if self.head_channels % 8:
            raise ValueError(f"{self.name}: head_channels {self.head_channels} is no multiple of 8")
        if self.inference not in ("vlt", "ostrack"):
            raise ValueError(f"{self.name}: inference is 'vlt' or 'ostrack', not {self.inference!r}")

    def _positive(self, *names: str, least: float = 1) -> None:
        for name in names:
            if not least <= getattr(self, name) < math.inf:
                raise ValueError(f"{self.name}: {name} must be at least {least}, not {getattr(self, name)}")

    def _multiples(self, *pairs: tuple[str, str]) -> None:
        for whole, part in pairs:
            if getattr(self, whole) % getattr(self, part):
                raise ValueError(f"{self.name}: {whole} {getattr(self, whole)} is no multiple of {part} "
                                 f"{getattr(self, part)}")

    def _joint(self, name: str) -> None:
        """Check that a field names joint layers (1-based), in their order."""
        layers = getattr(self, name)
        wrong = [j for j in layers if not self.separate_layers < j <= self.depth]
        if wrong:
            raise ValueError(f"{self.name}: {name.replace('_', ' ')} {wrong} are not joint layers; those are "
                             f"{self.separate_layers + 1} to {self.depth}")
        if list(layers) != sorted(set(layers)):
            raise ValueError(f"{self.name}: {name.replace('_', ' ')} {list(layers)} are not in rising order")

    @property
    def template_grid(self) -> int:
        """Side of the template's token grid."""
        return self.template_size // self.patch_size

    @property
    def search_grid(self) -> int:
        """Side of the search region's token grid, which is the maps' side."""
        return self.search_size // self.patch_size


@dataclass(frozen=True)
class LanguageConfig(NetworkConfig):
    """With a BERT text tower.

    frozen_minilm: the tower is MiniLM-L6 as its package has it, and is not trained.
    naming_layers: frozen layers of the ViT that follow the separate ones to tell names, see ``naming.py``; 0 for none.
    """

    text_dim: int = 768
    text_depth: int = 12
    text_heads: int = 12
    max_words: int = 40
    frozen_minilm: bool = False
    naming_layers: int = 0

    least_text_depth: ClassVar[int] = 1

    def __post_init__(self) -> None:
        super().__post_init__()
        self._positive("text_dim", "text_heads", "max_words")
        self._positive("text_depth", least=self.least_text_depth)
        self._positive("naming_layers", least=0)
        if self.naming_layers and not self.separate_layers:
            raise ValueError(f"{self.name}: naming layers follow separate ones, and there are none")
        self._multiples(("text_dim", "text_heads"))
        tower = (self.text_dim, self.text_depth, self.text_heads)
        if self.frozen_minilm and tower != (384, 6, 12):
            raise ValueError(f"{self.name}: MiniLM has text_dim, text_depth, text_heads 384, 6, 12, not {tower}")

    def language_layer(self, j: int) -> int:
        """The BERT layer (1-based) met by vision layer j: both towers reach their last layer together."""
        return math.ceil(j * self.text_depth / self.depth)


class Contrast(NamedTuple):
    """A term of a training objective: NT-Xent draws row i of both together and all other rows apart.

    first: (B, C), or search tokens (B, Nx, C), which are averaged over the target's box. second: (B, C).
    of: what each was made of, two of 'search', 'template', 'language': where a sample has no target in the search
        region, no template or no sentence, its row does not take part.
    weight, temperature, across: see ``training.alignment.nt_xent``.
    """

    first: Tensor
    second: Tensor
    of: tuple[str, str]
    weight: float
    temperature: float = 0.5
    across: bool = False


class Matching(NamedTuple):
    """A term of a training objective: search tokens (B, Nx, C) are like ``target`` (B, C) inside the box alone."""

    tokens: Tensor
    target: Tensor
    weight: float
    temperature: float = 0.1


class TrackingNetwork(nn.Module):
    """(template, search region, sentence) to the head's maps.

    What is computed how often, in every system:

    * once per command: :meth:`encode_text`, all that depends on the sentence alone;
    * once per target: :meth:`encode_template`, all that depends on the template alone;
    * on every frame: :meth:`track`, the rest.

    :meth:`forward` is the three in a row, so cached and uncached runs are the same computation. Images are RGB,
    normalised by ImageNet's mean and deviation, (B, 3, side, side).

    Subclasses set ``Config``, their configuration's class, and ``CONFIGS``, their named configurations.
    """

    Config: ClassVar[type[NetworkConfig]]
    CONFIGS: ClassVar[tuple[NetworkConfig, ...]]
    config: Any

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        if isinstance(config, LanguageConfig):
            self.text = TextTower(config.text_dim, config.text_depth, config.text_heads, config.max_words)
            if config.frozen_minilm:
                self.text.load_minilm()
                self.text.requires_grad_(False)
        self.backbone = VisionTransformer(config.patch_size, (config.template_grid, config.search_grid), config.dim,
                                          config.depth, config.num_heads, config.layer_scale)
        grid = config.template_grid
        middle = range(grid // 4, grid - grid // 4)
        # Indices of the template's tokens: the central half, where the target is by the crop's factor of 2, and others.
        for name, wanted in (("central", True), ("surrounding", False)):
            self.register_buffer(name, torch.tensor([i for i in range(grid * grid) if wanted == (
                i // grid in middle and i % grid in middle)]), persistent=False)
        self._add_parts()
        if self.has_text_tower:
            # Without a box there is no template: these tokens stand for "no appearance known, use the words".
            self.blank_template = nn.Parameter(torch.randn(1, config.template_grid ** 2, config.dim) * 0.02)
        if config.separate_layers:
            # Encoded apart, both crops look alike; this tells the joint layers which tokens are the template's.
            self.template_type = nn.Parameter(torch.zeros(1, 1, config.dim))
        if config.matching_prior:
            self.matching = nn.Linear(3, config.dim, bias=False)
            nn.init.zeros_(self.matching.weight)
        self.box_head = CentreHead(config.dim, config.head_channels)
        if isinstance(config, LanguageConfig) and config.naming_layers:
            self.naming = Naming(config.dim, config.num_heads, config.layer_scale, config.naming_layers,
                                 config.text_dim).requires_grad_(False)
        if config.recognition:
            self.recognition = Recognition(config.dim, config.recognition)

    def _add_parts(self) -> None:
        """Make the system's own layers; towers are there, the head is not yet."""

    @property
    def has_text_tower(self) -> bool:
        """Whether there is a text tower at all."""
        return isinstance(self.config, LanguageConfig)

    @property
    def frozen_text(self) -> bool:
        """Whether the text tower is as its package has it: neither trained nor stored."""
        return self.has_text_tower and self.config.frozen_minilm

    @property
    def tells_names(self) -> bool:
        """Whether it knows names besides what its joint layers learned."""
        return hasattr(self, "naming")

    @property
    def listens(self) -> bool:
        """Whether the sentence can change the maps; if not, a target is given by a box alone."""
        return self.has_text_tower

    def train(self, mode: bool = True) -> TrackingNetwork:
        """Training mode; a frozen tower stays in evaluation mode, else its dropout would blur every sentence."""
        super().train(mode)
        if self.frozen_text:
            self.text.eval()
        if self.tells_names:
            self.naming.eval()
        return self

    # once per command -------------------------------------------------------------------------------------
    def encode_text(self, sentences: list[str], noise: SampleNoise | None = None) -> Any:
        """All that B sentences alone decide; '' means "no sentence".

        noise: what dropout and the like draw from in training mode, None for torch's own stream.
        """
        if not self.has_text_tower:
            return ()
        return self.words(self._semantic(sentences, noise), noise)

    def encode_phrase(self, sentences: list[str]) -> Tensor | None:
        """What :meth:`ground` compares with the tokens, (B, C'); None without names, or where a sentence is ''."""
        return self.naming.phrase(self._semantic(sentences)) if self.tells_names and all(sentences) else None

    def _semantic(self, sentences: list[str], noise: SampleNoise | None = None) -> SemanticTokens:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.frozen_text):
            return self.text(sentences, noise)

    def words(self, semantic, noise: SampleNoise | None = None) -> Any:
        """What :meth:`encode_text` gives, from the tower's :class:`SemanticTokens`."""
        raise NotImplementedError

    # once per target --------------------------------------------------------------------------------------
    def encode_template(self, template: Tensor | None, blank: Tensor | None = None, batch: int = 1) -> Tensor:
        """Template crop to its tokens (B, Nz, C) before the first joint layer.

        Args:
            template: (B, 3, Hz, Wz), or None for text-only grounding with ``batch`` blank templates.
            blank: (B,) True where the template is to be taken as absent, for mixed training batches.
        """
        if template is None:
            return self.blank_template.expand(batch, -1, -1)
        tokens = self._separate(self._embed_template(template))
        if blank is None:
            return tokens
        return torch.where(blank.view(-1, 1, 1), self.blank_template.to(tokens.dtype), tokens)

    def _embed_template(self, template: Tensor) -> Tensor:
        return self.backbone.embed_template(template)

    def _embed_search(self, search: Tensor) -> Tensor:
        return self.backbone.embed_search(search)

    def _separate(self, tokens: Tensor) -> Tensor:
        for block in self.backbone.blocks[: self.config.separate_layers]:
            tokens = block(tokens)
        return tokens

    # every frame ------------------------------------------------------------------------------------------
    def track(self, search: Tensor, template: Tensor, words: Any) -> Maps:
        """Search crop (B, 3, Hx, Wx) with what :meth:`encode_template` and :meth:`encode_text` gave: the maps."""
        return self.follow(search, template, words)[0]

    def follow(self, search: Tensor, template: Tensor, words: Any) -> tuple[Maps, Tensor]:
        """As :meth:`track`, with the search tokens (B, Nx, C) before the first joint layer, which are recognised by."""
        tokens = self.encode_search(search)
        return self.maps(self.encode(tokens, template, words)["search"]), tokens

    def ground(self, search: Tensor, words: Any, phrase: Tensor | None = None) -> Maps:
        """Text alone: the maps of search crops (B, 3, Hx, Wx) by :meth:`encode_text` and :meth:`encode_phrase`."""
        tokens = self.encode_search(search)
        maps = self.maps(self.encode(tokens, self.encode_template(None, batch=len(tokens)), words)["search"])
        return maps if phrase is None else self.naming.weigh(maps, self.naming(tokens, phrase))

    def encode_search(self, search: Tensor) -> Tensor:
        """Search crops (B, 3, Hx, Wx) to their tokens (B, Nx, C) before the first joint layer."""
        return self._separate(self._embed_search(search))

    def encode(self, search: Tensor, template: Tensor, words: Any) -> dict[str, Any]:
        """Everything between the separate layers and the head.

        Args:
            search, template: tokens from :meth:`encode_search` and :meth:`encode_template`. words: of the sentences.

        Returns:
            "search": the search tokens (B, Nx, C) that the head reads, and what :meth:`terms` needs besides.
        """
        raise NotImplementedError

    def maps(self, search_tokens: Tensor) -> Maps:
        """Search tokens (B, Nx, C) through the head."""
        side = self.config.search_grid
        return self.box_head(search_tokens.transpose(1, 2).reshape(-1, self.config.dim, side, side))

    def _enter(self, search: Tensor, template: Tensor) -> tuple[Tensor, Tensor]:
        """Template tokens (B, Nz, C) and search tokens (B, Nx, C) as they enter the first joint layer."""
        if self.config.matching_prior:
            search = search + self.matching(self._match(search, template))
        template = template.to(search.dtype)
        if self.config.separate_layers:
            template = template + self.template_type.to(search.dtype)
        return template, search

    def _match(self, search_tokens: Tensor, template_tokens: Tensor) -> Tensor:
        """How like the target each search token looks before any joint layer: (B, Nx, 3).

        An addition to the papers for short training runs: cosine similarity of pretrained tokens, with the best
        and the mean of the template's central half and with the best of its surroundings. A blank template gives
        near-zero rows' worth of evidence, which training sees.
        """
        template_unit = F.normalize(template_tokens.to(search_tokens.dtype), dim=-1)
        similarity = F.normalize(search_tokens, dim=-1) @ template_unit.transpose(1, 2)
        target, around = similarity[:, :, self.central], similarity[:, :, self.surrounding]
        return torch.stack((target.amax(-1), target.mean(-1), around.amax(-1)), dim=-1)

    # training ---------------------------------------------------------------------------------------------
    def terms(self, encoded: dict[str, Any]) -> Mapping[str, Contrast | Matching]:
        """What the paper trains besides the box losses, by name, from what :meth:`encode` gave; nothing for some."""
        return {}

    def forward(self, template: Tensor | None, search: Tensor, sentences: list[str],
                blank: Tensor | None = None) -> Maps:
        """Everything at once, nothing cached. Shapes as in the three steps above."""
        tokens = self.encode_template(template, blank, batch=search.shape[0])
        return self.track(search, tokens, self.encode_text(sentences))
