# SPDX-License-Identifier: Apache-2.0
"""Random numbers that belong to a sample, not to the order in which a process draws them.

Training draws noise (the gate's Gumbel noise, the text tower's dropout). Drawn from a process's own stream, a sample's
noise would depend on the batch around it, on the padding of its neighbours' sentences and on how many processes share
the batch. Here it is a hash of (key of the sample, place in the network, element), so that N processes draw exactly
what one would, and a resumed run what an unbroken one would.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

_WORD = 0xFFFFFFFF


def _hash(values: Tensor) -> Tensor:
    """A bijection of 32-bit numbers (kept in int64) without visible structure.

    The finaliser with two multiplications from C. Wellons' search (2018), bias 0.17. The second factor stands as its
    negative remainder modulo 2^32, so that no product leaves int64.
    """
    values = values ^ (values >> 16)
    values = (values * 0x7FEB352D) & _WORD
    values = values ^ (values >> 15)
    values = (values * (0x846CA68B - (1 << 32))) & _WORD
    return values ^ (values >> 16)


class SampleNoise:
    """Noise for a batch, each sample's its own.

    Args:
        seed: of the run. first: index of the batch's first sample. count: samples B. device: where noise is wanted.

    Each call of :meth:`uniform` is another place of the network: the calls must come in the same order every time.
    """

    def __init__(self, seed: int, first: int, count: int, device: torch.device | str = "cpu") -> None:
        index = torch.arange(first, first + count, dtype=torch.int64, device=device)
        self._key = _hash(_hash(index & _WORD) ^ _hash(torch.tensor(seed & _WORD, device=device)))
        self._place = 0

    def uniform(self, *shape: int) -> Tensor:
        """Numbers in (0, 1), float32 (B, *shape).

        An element's number depends on its place in the row-major order of ``shape``: growing the first axis (a longer
        sentence in the batch) leaves what was there.
        """
        self._place += 1
        key = _hash(self._key ^ _hash(torch.tensor(self._place, device=self._key.device)))
        element = _hash(torch.arange(math.prod(shape), dtype=torch.int64, device=key.device))
        bits = _hash(element[None, :] ^ key[:, None])
        # 23 bits and a half: the largest is 1 - 2^-24, which float32 still tells from 1.
        return (((bits >> 9).float() + 0.5) / (1 << 23)).view(len(key), *shape)
