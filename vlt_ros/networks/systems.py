# SPDX-License-Identifier: Apache-2.0
"""The systems there are. A new tracker is a file beside this one and a line here."""

from __future__ import annotations

from pkgutil import resolve_name

import torch

from vlt_ros.networks.base import LanguageConfig, NetworkConfig, TrackingNetwork
from vlt_ros.networks.text import SemanticTokens

SYSTEMS: dict[str, type[TrackingNetwork]] = {name: resolve_name(f"vlt_ros.networks.{place}") for name, place in {
    "pjvlt": "pjvlt:PJVLT",
    "all_in_one": "all_in_one:AllInOne",
    "satracker": "satracker:SATracker",
    "lgtrack": "lgtrack:LGTrack",
    "ostrack": "ostrack:OSTrack",
}.items()}

CONFIGS: dict[str, NetworkConfig] = {config.name: config for system in SYSTEMS.values() for config in system.CONFIGS}

# Word pieces of the sentence that a frame's operations are counted for.
COUNTED_WORDS = 12


def system_of(config: NetworkConfig) -> str:
    """Name of the system that a configuration belongs to."""
    return next(name for name, system in SYSTEMS.items() if system.Config is type(config))


def build_network(config: NetworkConfig) -> TrackingNetwork:
    """The network of a configuration, with random weights (but for a frozen text tower's)."""
    return SYSTEMS[system_of(config)](config)


def describe(config: NetworkConfig) -> dict:
    """What a configuration costs, without making its weights.

    Returns:
        name, system, parameters (text_parameters of them in the text tower), gflops: floating-point operations of a
        frame in units of 10^9, two for a multiplication and addition, with all that is kept per command and per target
        left out; template_size and search_size in pixels.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with torch.device("meta"), torch.inference_mode():
        network = build_network(config).eval()
        words = ()
        if isinstance(config, LanguageConfig):
            tokens = torch.empty(1, COUNTED_WORDS, config.text_dim)
            words = network.words(SemanticTokens((tokens,) * max(1, config.text_depth),
                                                 torch.ones(1, COUNTED_WORDS, dtype=torch.bool)))
        template = network.encode_template(torch.empty(1, 3, config.template_size, config.template_size))
        search = torch.empty(1, 3, config.search_size, config.search_size)
        with FlopCounterMode(display=False) as counter:
            network.track(search, template, words)
    text = sum(p.numel() for p in network.text.parameters()) if network.has_text_tower else 0
    return {"name": config.name, "system": system_of(config),
            "parameters": sum(p.numel() for p in network.parameters()), "text_parameters": text,
            "gflops": round(counter.get_total_flops() / 1e9, 3),
            "template_size": config.template_size, "search_size": config.search_size}
