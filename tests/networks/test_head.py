# SPDX-License-Identifier: Apache-2.0
import pytest
import torch

from vlt_ros.networks import CentreHead, Maps, decode


def maps_of(side, peaks):
    """Maps with one cell set in each image: (column, row, offset x, offset y, width, height)."""
    batch = len(peaks)
    maps = Maps(torch.full((batch, 1, side, side), 0.1), torch.full((batch, 2, side, side), 9.0),
                torch.full((batch, 2, side, side), 0.9))
    for i, (column, row, ox, oy, w, h) in enumerate(peaks):
        maps.score[i, 0, row, column] = 0.8
        maps.offset[i, :, row, column] = torch.tensor([ox, oy])
        maps.size[i, :, row, column] = torch.tensor([w, h])
    return maps


def test_decode_reads_offset_and_size_at_the_maximum():
    maps = maps_of(8, [(5, 2, 0.25, 0.75, 0.5, 0.25), (0, 7, 0.0, 0.5, 0.125, 1.0)])
    boxes, index = decode(maps)
    assert index.tolist() == [2 * 8 + 5, 7 * 8]
    assert boxes.tolist() == [[(5 + 0.25) / 8, (2 + 0.75) / 8, 0.5, 0.25], [0.0, 7.5 / 8, 0.125, 1.0]]


def test_decode_takes_the_maximum_of_another_map_when_given():
    maps = maps_of(4, [(1, 1, 0.5, 0.5, 0.2, 0.3)])
    maps.offset[0, :, 3, 2] = torch.tensor([0.1, 0.2])
    maps.size[0, :, 3, 2] = torch.tensor([0.4, 0.6])
    windowed = torch.zeros(1, 1, 4, 4)
    windowed[0, 0, 3, 2] = 1
    boxes, index = decode(maps, windowed)
    assert index.item() == 3 * 4 + 2
    torch.testing.assert_close(boxes, torch.tensor([[2.1 / 4, 3.2 / 4, 0.4, 0.6]]))


def test_head_gives_maps_in_their_ranges():
    torch.manual_seed(0)
    head = CentreHead(32, 16).eval()
    grid = 50 * torch.randn(3, 32, 8, 8)
    for module in head.modules():
        if isinstance(module, torch.nn.Conv2d):
            torch.nn.init.normal_(module.weight)
    maps = head(grid)
    assert maps.score.shape == (3, 1, 8, 8) and maps.offset.shape == maps.size.shape == (3, 2, 8, 8)
    for values in (maps.score, maps.size):
        assert values.min() >= 1e-4 and values.max() <= 1 - 1e-4
    assert (maps.score.min().item(), maps.score.max().item()) == pytest.approx((1e-4, 1 - 1e-4))


def test_score_starts_low():
    torch.manual_seed(0)
    score = CentreHead(32, 16).eval()(torch.randn(1, 32, 8, 8)).score
    assert 0.05 < score.mean() < 0.2


def test_maps_are_float32_in_half_precision():
    maps = CentreHead(32, 16).eval().bfloat16()(torch.randn(1, 32, 8, 8).bfloat16())
    assert {m.dtype for m in maps} == {torch.float32}


def test_branches_are_conv_bn_relu_four_times_with_halving_widths():
    head = CentreHead(32, 64)
    for branch, outputs in (("ctr", 1), ("offset", 2), ("size", 2)):
        widths = []
        for i in range(1, 5):
            conv, norm, relu = getattr(head, f"conv{i}_{branch}")
            assert conv.kernel_size == (3, 3) and isinstance(norm, torch.nn.BatchNorm2d)
            assert isinstance(relu, torch.nn.ReLU)
            widths.append(conv.out_channels)
        assert widths == [64, 32, 16, 8]
        last = getattr(head, f"conv5_{branch}")
        assert last.out_channels == outputs and last.kernel_size == (1, 1)
