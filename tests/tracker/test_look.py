# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest
import torch

from vlt_ros.networks import Maps
from vlt_ros.networks.preprocess import normalise
from vlt_ros.tracker import ground
from vlt_ros.tracker.geometry import Window, crop, hann, window_around
from vlt_ros.tracker.look import Look, Looker, Words

NO_WORDS = Words(None, None)


def test_box_is_mapped_back_about_the_window(network, scene):
    image = scene(green=(100, 80, 40, 30))
    looker = Looker(network)
    for window in (Window(80, 60, 128), Window(60, 40, 192), Window(-60, -70, 320), Window(0, -40, 320)):
        sighting = looker.look(image, window, None, looker.words("the green box"))
        step = window.side / 64                     # one pixel of the crop
        assert sighting.box == pytest.approx((100, 80, 40, 30), abs=1.5 * step)
        assert sighting.point == pytest.approx((120, 95), abs=step)
        assert sighting.confidence == pytest.approx(0.9)


class TwoPeaks:
    """Maps given by hand: 0.6 in the middle, 0.8 in a corner."""

    def __init__(self, network):
        self.config, self.device, self.backbone = network.config, network.device, network.backbone
        score = torch.full((1, 1, 8, 8), 0.1)
        score[0, 0, 4, 4], score[0, 0, 0, 7] = 0.6, 0.8
        self.maps = Maps(score, torch.full((1, 2, 8, 8), 0.5), torch.full((1, 2, 8, 8), 0.25))

    def ground(self, search, words, phrase):
        return self.maps


def test_window_picks_the_cell_and_confidence_is_the_score_before_it(network, scene):
    looker = Looker(TwoPeaks(network))
    window = Window(0, 0, 64)
    free = looker.look(scene(), window, None, NO_WORDS)
    assert free.confidence == pytest.approx(0.8) and free.point == pytest.approx((60, 4))
    held = looker.look(scene(), window, None, NO_WORDS, centre_weight=0.5)
    assert held.confidence == pytest.approx(0.6) and held.point == pytest.approx((36, 36))
    assert held.box == pytest.approx((28, 28, 16, 16))
    # (1 - w) s + w h s: the middle wins from the w on at which its sum is the larger one.
    h = hann(8)
    turn = (0.8 - 0.6) / ((0.8 - 0.6) + 0.6 * h[4, 4] - 0.8 * h[0, 7])
    for weight, point in ((turn - 0.01, (60, 4)), (turn + 0.01, (36, 36))):
        assert looker.look(scene(), window, None, NO_WORDS, weight).point == pytest.approx(point)


@pytest.mark.parametrize("poison", ["score", "offset", "size"])
@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_output_that_is_not_finite_is_no_sighting(poison, value, network, scene):
    looker = Looker(TwoPeaks(network))
    maps = looker.network.maps
    getattr(maps, poison)[0, :, 0, 7] = value
    if poison == "score" and value < 0:
        maps.score[0, :, 4, 4] = value
    sighting = looker.look(scene(), Window(0, 0, 64), None, NO_WORDS)
    assert sighting.confidence == 0 and all(np.isfinite([*sighting.box, *sighting.point]))


def test_network_is_given_the_normalised_crop(tiny, monkeypatch):
    image = np.random.default_rng(0).integers(0, 256, (70, 90, 3), np.uint8)
    seen = []
    track, encode = tiny.track, tiny.encode_template
    monkeypatch.setattr(tiny, "track", lambda search, *rest: seen.append(search) or track(search, *rest))
    monkeypatch.setattr(tiny, "encode_template", lambda crops: seen.append(crops) or encode(crops))
    looker = Looker(tiny)
    box, window = (20.0, 30.0, 18.0, 10.0), Window(3, -7, 61)
    looker.look(image, window, looker.template(image, box), looker.words("a dog"))
    for tensor, where, size in zip(seen, (window_around(box, 2.0), window), (28, 56), strict=True):
        expected = normalise(torch.from_numpy(crop(image, where, size)).permute(2, 0, 1)[None])
        assert torch.equal(tensor, expected)


def test_maps_do_not_need_gradients(tiny, scene):
    looker = Looker(tiny)
    maps = looker.maps([Look(scene(), Window(0, 0, 60), None, looker.words("a dog"))])
    assert not any(m.requires_grad for m in maps) and maps.score.shape == (1, 1, 8, 8)


def test_ground_is_one_look_at_the_whole_frame(network, scene):
    image = scene(red=(30, 40, 50, 40), blue=(200, 100, 60, 40))
    box, confidence, point = ground(network, image, "the blue box")
    assert network.looks == 1 and network.templates == 0
    assert box == pytest.approx((200, 100, 60, 40), abs=8) and point == pytest.approx((230, 120), abs=5)
    assert confidence == pytest.approx(0.9)
    assert ground(network, scene(red=(30, 40, 50, 40)), "")[1] == pytest.approx(network.doubt)
