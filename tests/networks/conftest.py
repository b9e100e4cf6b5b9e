# SPDX-License-Identifier: Apache-2.0
"""Small networks with random numbers in every parameter: with zeros in them a test would say nothing."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from vlt_ros.networks import CONFIGS, PJVLT


def _randomise(module: torch.nn.Module, seed: int = 0, scale: float = 0.15) -> torch.nn.Module:
    """Move every parameter and running statistic by random numbers, in place."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator).to(parameter)
        for name, buffer in module.named_buffers():
            if "running" in name:
                buffer += scale * torch.rand(buffer.shape, generator=generator).to(buffer)
    return module


@pytest.fixture(scope="session")
def randomise():
    """The function that fills a module with random numbers."""
    return _randomise


@pytest.fixture(scope="session")
def build():
    """build(seed=0, **changes): pjvlt_tiny, its configuration changed, randomised, in evaluation mode."""
    def build(seed: int = 0, **changes) -> PJVLT:
        torch.manual_seed(seed)
        return _randomise(PJVLT(replace(CONFIGS["pjvlt_tiny"], **changes)), seed).eval()

    return build


@pytest.fixture(scope="session")
def tiny(build):
    """pjvlt_tiny, shared: tests do not change it."""
    return build()


@pytest.fixture(scope="session")
def crops():
    """crops(batch, seed=0): a normalised template and search crop of pjvlt_tiny's sizes."""
    def crops(batch: int = 1, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
        generator = torch.Generator().manual_seed(seed)
        return (torch.randn(batch, 3, 28, 28, generator=generator),
                torch.randn(batch, 3, 56, 56, generator=generator))

    return crops
