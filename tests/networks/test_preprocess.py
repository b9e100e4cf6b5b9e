# SPDX-License-Identifier: Apache-2.0
import numpy as np
import torch

from vlt_ros.networks.preprocess import normalise
from vlt_ros.tracker.geometry import PADDING


def test_is_imagenets_mean_and_deviation():
    pixels = np.random.default_rng(0).integers(0, 256, (2, 3, 5, 7), np.uint8)
    expected = (pixels / 255 - np.reshape([0.485, 0.456, 0.406], (3, 1, 1))) \
        / np.reshape([0.229, 0.224, 0.225], (3, 1, 1))
    got = normalise(torch.from_numpy(pixels))
    assert got.dtype == torch.float32 and got.shape == pixels.shape
    np.testing.assert_allclose(got.numpy(), expected, atol=1e-6)


def test_dtype_is_the_one_asked_for():
    pixels = torch.randint(0, 256, (1, 3, 4, 4), dtype=torch.uint8)
    half = normalise(pixels, torch.bfloat16)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), normalise(pixels), rtol=0, atol=0.01)


def test_padding_colour_becomes_zero():
    """PADDING is BGR and the crop turns it to RGB: outside the frame is (within rounding) nothing."""
    pixels = torch.tensor(PADDING[::-1], dtype=torch.uint8).view(1, 3, 1, 1)
    assert normalise(pixels).abs().max() < 0.5 / 255 / 0.224
