# SPDX-License-Identifier: Apache-2.0
"""Eqs. 14 to 17 against the same equations in plain Python loops."""

from __future__ import annotations

import math
import random

import pytest
import torch

from vlt_ros.networks import Maps, decode
from vlt_ros.training.losses import focal_loss, gaussian_maps, gaussian_radius, giou, tracking_loss


def iou(a, b):
    """Corner boxes."""
    inner = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (a, b)]
    return inner / (sum(areas) - inner)


# eq. 14 ---------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("height, width", [(4, 4), (10, 3), (2.5, 12), (40, 40), (1, 1), (7, 30)])
@pytest.mark.parametrize("min_overlap", [0.5, 0.7, 0.9])
def test_radius_is_the_released_codes_and_a_fixed_multiple_of_corner_nets_definition(height, width, min_overlap):
    radius = gaussian_radius(height, width, min_overlap)
    root = radius / (4 * min_overlap)
    grown = (-root, -root, width + root, height + root)
    assert iou((0, 0, width, height), grown) == pytest.approx(min_overlap, abs=1e-6)
    assert gaussian_radius(width, height, min_overlap) == pytest.approx(radius)
    # The released code takes the least of three quadratics' (b + root) / 2; the other two are never least.
    total, area = height + width, height * width
    others = [(total + math.sqrt(total**2 - 4 * area * (1 - min_overlap) / (1 + min_overlap))) / 2,
              (2 * total + math.sqrt(4 * total**2 - 16 * area * (1 - min_overlap))) / 2]
    assert radius < min(others)


def test_map_is_a_gaussian_about_the_centres_cell():
    side = 16
    boxes = torch.tensor([[0.40, 0.71, 0.97, 0.93], [0.5, 0.5, 0.05, 0.05], [0.999, 0.0, 0.5, 0.3]])
    maps = gaussian_maps(boxes, torch.tensor([True, True, True]), side)
    assert maps.shape == (3, 1, side, side) and maps.dtype == torch.float32
    for (cx, cy, w, h), grid in zip(boxes.tolist(), maps[:, 0], strict=True):
        column, row = math.floor(cx * side), math.floor(cy * side)
        sigma = (2 * int(gaussian_radius(math.ceil(h * side), math.ceil(w * side))) + 1) / 6
        for y in range(side):
            for x in range(side):
                expected = math.exp(-((x - column) ** 2 + (y - row) ** 2) / (2 * sigma**2))
                assert float(grid[y, x]) == pytest.approx(expected, abs=1e-6)
        assert float(grid[row, column]) == 1 and (grid == 1).sum() == 1
    # A larger target has a wider peak.
    assert (maps[0] > 0.01).sum() > (maps[1] > 0.01).sum()


@pytest.mark.parametrize("centre", [(-0.01, 0.5), (0.5, -0.02), (1.0, 0.5), (0.5, 1.3), (-3.0, 0.5)])
def test_map_of_a_centre_outside_is_empty(centre):
    """Also just outside: -0.01 is not cell 0."""
    boxes = torch.tensor([[*centre, 0.3, 0.3]])
    assert not gaussian_maps(boxes, torch.tensor([True]), 16).any()


def test_map_of_an_absent_target_is_empty():
    boxes = torch.tensor([[0.5, 0.5, 0.3, 0.3]] * 2)
    maps = gaussian_maps(boxes, torch.tensor([False, True]), 8)
    assert not maps[0].any() and maps[1].max() == 1


@pytest.mark.parametrize("side", [8, 16])
def test_offsets_to_the_peak_lie_between_0_and_1(side):
    draw = random.Random(0)
    for _ in range(300):
        cx, cy = draw.random(), draw.random()
        grid = gaussian_maps(torch.tensor([[cx, cy, 0.2, 0.3]]), torch.tensor([True]), side)[0, 0]
        row, column = divmod(int(grid.argmax()), side)
        assert 0 <= cx * side - column < 1 + 1e-5 and 0 <= cy * side - row < 1 + 1e-5


# eq. 15 ---------------------------------------------------------------------------------------------------
def test_focal_loss_equals_a_loop():
    generator = torch.Generator().manual_seed(0)
    boxes = torch.tensor([[0.3, 0.6, 0.4, 0.3], [0.8, 0.2, 0.2, 0.5], [0.5, 0.5, 0.3, 0.3]])
    for present in ([True, True, True], [True, False, True], [False, False, False]):
        score = torch.rand(3, 1, 8, 8, generator=generator).clamp(1e-4, 1 - 1e-4)
        target = gaussian_maps(boxes, torch.tensor(present), 8)
        total = 0.0
        for p, t in zip(score.flatten().tolist(), target.flatten().tolist(), strict=True):
            total -= (1 - p) ** 2 * math.log(p) if t == 1 else (1 - t) ** 4 * p**2 * math.log(1 - p)
        assert float(focal_loss(score, target)) == pytest.approx(total / max(1, sum(present)), rel=1e-5)


def test_focal_loss_forgives_high_scores_near_the_peak():
    target = gaussian_maps(torch.tensor([[0.53, 0.53, 0.95, 0.95]]), torch.tensor([True]), 16)
    base = torch.full_like(target, 0.01)
    base[0, 0, 8, 8] = 0.9
    near, far = base.clone(), base.clone()
    near[0, 0, 8, 9], far[0, 0, 1, 1] = 0.8, 0.8
    least, forgiven, punished = (float(focal_loss(score, target)) for score in (base, near, far))
    assert 0 < forgiven - least < 0.7 * (punished - least)


# eq. 16 ---------------------------------------------------------------------------------------------------
def naive_giou(a, b):
    """Centre boxes; C is the smallest box around both."""
    a, b = ((x - w / 2, y - h / 2, x + w / 2, y + h / 2) for x, y, w, h in (a, b))
    areas = [(x2 - x1) * (y2 - y1) for x1, y1, x2, y2 in (a, b)]
    inner = max(0, min(a[2], b[2]) - max(a[0], b[0])) * max(0, min(a[3], b[3]) - max(a[1], b[1]))
    union = sum(areas) - inner
    hull = (max(a[2], b[2]) - min(a[0], b[0])) * (max(a[3], b[3]) - min(a[1], b[1]))
    return inner / union - (hull - union) / hull


def test_giou_equals_a_naive_one():
    generator = torch.Generator().manual_seed(0)
    a, b = (torch.rand(500, 4, generator=generator) * 0.5 + 0.02 for _ in range(2))
    got = giou(a, b)
    assert got.shape == (500,)
    expected = [naive_giou(x, y) for x, y in zip(a.tolist(), b.tolist(), strict=True)]
    assert got.tolist() == pytest.approx(expected, abs=1e-5)
    assert got.min() < -0.3 and got.max() > 0.5
    torch.testing.assert_close(giou(b, a), got)
    torch.testing.assert_close(giou(a.view(5, 100, 4), b.view(5, 100, 4)), got.view(5, 100))


@pytest.mark.parametrize("a, b, expected", [
    ((0.5, 0.5, 0.2, 0.4), (0.5, 0.5, 0.2, 0.4), 1.0),
    ((0.25, 0.25, 0.5, 0.5), (0.75, 0.25, 0.5, 0.5), 0.0),              # side by side: no gap, no overlap
    ((0.25, 0.25, 0.5, 0.5), (0.75, 0.75, 0.5, 0.5), -0.5),             # corner to corner: half of the hull
    ((0.5, 0.5, 0.2, 0.2), (0.5, 0.5, 0.4, 0.4), 0.25),                 # inside
    ((0.05, 0.05, 0.1, 0.1), (0.95, 0.95, 0.1, 0.1), -0.98)])
def test_giou_by_hand(a, b, expected):
    assert float(giou(torch.tensor(a), torch.tensor(b))) == pytest.approx(expected, abs=1e-6)


def test_giou_of_boxes_without_area_is_finite():
    a = torch.tensor([[0.5, 0.5, 0.0, 0.0]], requires_grad=True)
    value = giou(a, torch.tensor([[0.5, 0.5, 0.0, 0.0]]))
    value.sum().backward()
    assert torch.isfinite(value).all() and torch.isfinite(a.grad).all()


# eq. 17 ---------------------------------------------------------------------------------------------------
def perfect(boxes, present, side):
    """Maps from which every cell near the centre gives the true box."""
    target = gaussian_maps(boxes, present, side)
    cells = torch.arange(side, dtype=torch.float32)
    columns, rows = torch.meshgrid(cells, cells, indexing="xy")
    x, y = (boxes[:, k, None, None] * side for k in (0, 1))
    offset = torch.stack((x - columns, y - rows), dim=1)
    size = boxes[:, 2:, None, None].expand(-1, -1, side, side).clone()
    return Maps(target.eq(1).float().clamp(1e-4, 1 - 1e-4), offset, size)


BOXES = torch.tensor([[0.40, 0.71, 0.50, 0.30], [0.52, 0.13, 0.1, 0.2], [0.03, 0.97, 0.05, 0.05]])
HERE = torch.tensor([True, True, True])


def test_perfect_maps_cost_nothing():
    maps = perfect(BOXES, HERE, 8)
    loss, parts = tracking_loss(maps, BOXES, HERE)
    assert float(loss) < 1e-3 and set(parts) == {"loss", "focal", "giou", "l1"}
    assert all(-1e-6 <= float(v) < 1e-3 and not v.requires_grad for v in parts.values())
    boxes, _ = decode(maps)
    torch.testing.assert_close(boxes, BOXES)


@pytest.mark.parametrize("worsen, part", [
    (lambda m: m._replace(score=m.score.clamp(max=0.5)), "focal"),
    (lambda m: m._replace(score=m.score.clamp(min=0.3)), "focal"),
    (lambda m: m._replace(offset=m.offset + 0.5), "l1"),
    (lambda m: m._replace(offset=m.offset + 0.5), "giou"),
    (lambda m: m._replace(size=m.size * 1.3), "l1"),
    (lambda m: m._replace(size=m.size * 0.7), "giou")])
def test_every_fault_costs(worsen, part):
    maps = perfect(BOXES, HERE, 8)
    _, good = tracking_loss(maps, BOXES, HERE)
    loss, bad = tracking_loss(worsen(maps), BOXES, HERE)
    assert bad[part] > good[part] + 0.01 and loss > good["loss"] + 0.05


def test_weights_are_1_2_and_5():
    generator = torch.Generator().manual_seed(0)
    maps = Maps(*(torch.rand(3, n, 8, 8, generator=generator).clamp(0.01, 0.99) for n in (1, 2, 2)))
    loss, parts = tracking_loss(maps, BOXES, HERE)
    assert float(loss) == pytest.approx(float(parts["focal"] + 2 * parts["giou"] + 5 * parts["l1"]), rel=1e-6)
    assert float(loss) == pytest.approx(float(parts["loss"]))
    focal = focal_loss(maps.score, gaussian_maps(BOXES, HERE, 8))
    assert float(parts["focal"]) == pytest.approx(float(focal))


def test_box_is_read_at_the_centres_cell_and_its_neighbours():
    """Weights 1 at the cell, 0.25 + 0.75 of the Gaussian around it, nothing elsewhere."""
    box = torch.tensor([[0.55, 0.43, 0.4, 0.5]])
    here = torch.tensor([True])
    maps = perfect(box, here, 8)
    generator = torch.Generator().manual_seed(0)
    maps = maps._replace(offset=maps.offset + 0.3 * torch.randn(1, 2, 8, 8, generator=generator),
                         size=maps.size * (1 + 0.3 * torch.rand(1, 2, 8, 8, generator=generator)))
    column, row = 4, 3
    target = gaussian_maps(box, here, 8)[0, 0]
    total = overlap = distance = 0.0
    for y in (row - 1, row, row + 1):
        for x in (column - 1, column, column + 1):
            weight = 0.25 + 0.75 * float(target[y, x])
            ox, oy = maps.offset[0, :, y, x].tolist()
            guess = ((x + ox) / 8, (y + oy) / 8, *maps.size[0, :, y, x].tolist())
            total += weight
            overlap += weight * (1 - naive_giou(guess, box[0].tolist()))
            distance += weight * sum(abs(g - t) for g, t in zip(guess, box[0].tolist(), strict=True)) / 4
    _, parts = tracking_loss(maps, box, here)
    assert float(parts["giou"]) == pytest.approx(overlap / total, rel=1e-4)
    assert float(parts["l1"]) == pytest.approx(distance / total, rel=1e-4)


def test_absent_targets_only_push_scores_down():
    generator = torch.Generator().manual_seed(0)
    maps = [torch.rand(3, n, 8, 8, generator=generator).clamp(0.01, 0.99).requires_grad_() for n in (1, 2, 2)]
    loss, _ = tracking_loss(Maps(*maps), BOXES, torch.tensor([True, False, False]))
    loss.backward()
    score, offset, size = (m.grad for m in maps)
    assert (score[1:] > 0).all() and not offset[1:].any() and not size[1:].any()
    assert score[0].min() < 0 and offset[0].any() and size[0].any()

    for m in maps:
        m.grad = None
    loss, parts = tracking_loss(Maps(*maps), BOXES, torch.tensor([False] * 3))
    loss.backward()
    assert torch.isfinite(loss) and parts["giou"] == parts["l1"] == 0
    assert (maps[0].grad > 0).all() and not maps[1].grad.any() and not maps[2].grad.any()


def test_descending_it_finds_the_box():
    """Free maps, 300 steps: the loss goes to nearly zero and the decoded box to the true one."""
    torch.manual_seed(0)
    logits = torch.zeros(3, 5, 8, 8, requires_grad=True)
    optimiser = torch.optim.Adam([logits], lr=0.1)
    present = torch.tensor([True, True, False])

    def maps():
        score, size = (torch.sigmoid(m).clamp(1e-4, 1 - 1e-4) for m in (logits[:, :1], logits[:, 3:]))
        return Maps(score, logits[:, 1:3], size)

    losses = []
    for _ in range(300):
        loss, _ = tracking_loss(maps(), BOXES, present)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.1 < 1 < losses[0]
    boxes, _ = decode(maps())
    assert giou(boxes, BOXES)[:2].min() > 0.9
    assert maps().score[:2].flatten(1).amax(1).min() > 0.8 and maps().score[2].max() < 0.1
