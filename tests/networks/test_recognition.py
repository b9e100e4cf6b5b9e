# SPDX-License-Identifier: Apache-2.0
from dataclasses import replace

import numpy as np
import pytest
import torch

from vlt_ros.networks import CONFIGS, build_network, load_network, save_network
from vlt_ros.networks.recognition import Recognition, at_places
from vlt_ros.tracker import Tracker, TrackerSettings
from vlt_ros.tracker.look import Look
from vlt_ros.training.recognition import Found, fit_metric, fit_weights, with_recognition


def test_places_are_where_the_box_is():
    """Each token holds its own centre, so what is read at a place is that place."""
    side = 8
    middle = (torch.arange(side) + 0.5) / side
    tokens = torch.stack(torch.meshgrid(middle, middle, indexing="xy"), dim=-1).reshape(1, side * side, 2)
    box = torch.tensor([[0.2, 0.3, 0.7, 0.9]])
    places = at_places(tokens, box)[0].reshape(5, 5, 2)
    assert torch.allclose(places[0, :, 0], torch.tensor([0.25, 0.35, 0.45, 0.55, 0.65]), atol=1e-5)
    assert torch.allclose(places[:, 0, 1], torch.tensor([0.36, 0.48, 0.60, 0.72, 0.84]), atol=1e-5)
    outside = at_places(tokens, torch.tensor([[-2.0, -2.0, -1.0, -1.0]]))
    assert torch.allclose(outside, torch.full_like(outside, 0.5 / side), atol=1e-5), "the nearest tokens stand"


def things(count, seed, dim=24):
    """Pairs in which four directions tell things apart, and much louder ones change from moment to moment."""
    rng = np.random.default_rng(seed)
    own, other = rng.normal(size=(2, count, 1, 4))
    loud = 3 * rng.normal(size=(3, count, 1, dim - 4)).repeat(25, axis=2)
    places = [np.concatenate((noise, kind + 0.1 * rng.normal(size=(count, 25, 4))), axis=-1)
              for kind, noise in zip((own, own, other), loud, strict=True)]
    first, same, different = (torch.tensor(one, dtype=torch.float32) for one in places)
    right = torch.tensor([True] * count + [False] * count)
    return Found(torch.cat((first, first)), torch.cat((same, different)), torch.full((2 * count,), 0.5), right)


def told_apart(recognition, pairs):
    p = recognition(pairs.score, recognition.likenesses(*map(recognition.project, (pairs.target, pairs.found))))
    return float((p[pairs.right] > 0.5).float().mean()), float((p[~pairs.right] > 0.5).float().mean()), p


def test_the_metric_finds_what_tells_things_apart():
    recognition = Recognition(24, 4)
    fit_weights(recognition, things(200, 1))
    before = told_apart(recognition, things(300, 2))[:2]
    fit_metric(recognition, things(1000, 0))
    fit_weights(recognition, things(200, 1))
    right, wrong, p = told_apart(recognition, things(300, 2))
    assert right > 0.9 and wrong < 0.15 and right - wrong > before[0] - before[1] + 0.2
    # A probability: as many are right as it says.
    truth = things(300, 2).right
    assert abs(float(p.mean()) - float(truth.float().mean())) < 0.05


def test_a_score_that_tells_nothing_more_weighs_nothing_and_one_that_does_weighs():
    recognition, pairs = Recognition(24, 4), things(400, 3)
    fit_metric(recognition, things(1000, 0))
    fit_weights(recognition, pairs)
    blind = float(recognition.weights[0])
    fit_weights(recognition, pairs._replace(score=torch.where(pairs.right, 0.7, 0.4)))
    assert abs(blind) < 0.5 and float(recognition.weights[0]) > 1


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(4)
    return with_recognition(build_network(replace(CONFIGS["pjvlt_tiny"], dim=32)))


def test_it_is_a_part_of_the_file_and_nothing_else_changes(tmp_path, network):
    plain = build_network(CONFIGS["pjvlt_tiny"])
    plain.load_state_dict(network.state_dict(), strict=False)
    save_network(plain, tmp_path / "plain.safetensors")
    network.recognition.weights.copy_(torch.tensor([2.0, 3.0, 4.0, -1.0]))
    save_network(network, tmp_path / "told.safetensors", base=tmp_path / "plain.safetensors")
    assert (tmp_path / "told.safetensors").stat().st_size < 0.2 * (tmp_path / "plain.safetensors").stat().st_size
    again = load_network(tmp_path / "told.safetensors", device="cpu", precision="fp32", runtime="eager")
    assert again.recognition.weights.tolist() == [2, 3, 4, -1]
    template, search = torch.randn(1, 3, 28, 28), torch.randn(1, 3, 56, 56)
    old = load_network(tmp_path / "plain.safetensors", device="cpu", precision="fp32", runtime="eager")
    with torch.inference_mode():
        given = [(net, (search, net.encode_template(template), net.encode_text([""]))) for net in (again, old)]
        maps, before = (net.track(*inputs) for net, inputs in given)
        followed, tokens = again.follow(*given[0][1])
    assert all(torch.equal(a, b) for a, b in zip(maps, before, strict=True))
    assert all(torch.equal(a, b) for a, b in zip(maps, followed, strict=True)) and tokens.shape == (1, 64, 32)


def test_confidence_is_the_probability_and_the_box_is_the_heads(network):
    image = np.random.default_rng(0).integers(0, 255, (120, 160, 3), np.uint8)
    network.name, network.device, network.precision = "tiny", torch.device("cpu"), "fp32"
    said = []
    for constant in (-30.0, 30.0):
        network.recognition.weights.copy_(torch.tensor([0.0, 0.0, 0.0, constant]))
        tracker = Tracker(network, TrackerSettings(lost_threshold=0.0))
        tracker.start("", image=image, box=(40, 30, 40, 40))
        target = tracker.track(image)
        said.append((target.state.name, target.confidence))
        sighting = tracker.looker.look(image, (window := _window()), tracker._template, tracker._words)
        maps = tracker.looker.maps([Look(image, window, tracker._template, tracker._words)])
        # One frame says at most 1 to 20.
        assert sighting.confidence == pytest.approx(float(constant > 0), abs=1e-3)
        assert target.confidence == pytest.approx(sighting.confidence, abs=0.05)
        assert 1e-4 < float(maps.score.max()) < 1 - 1e-4
    assert said[0] == ("UNCERTAIN", pytest.approx(1 / 21, abs=0.01)) and said[1] == (
        "TRACKING", pytest.approx(20 / 21, abs=0.01))


def test_a_sighting_continues_another_as_it_shows_what_a_template_shows(network):
    """The same probability, with the sighting before in the template's place; and it moves with what is seen."""
    first, second = np.random.default_rng(1).integers(0, 255, (2, 120, 160, 3), np.uint8)
    network.name, network.device, network.precision = "tiny", torch.device("cpu"), "fp32"
    network.recognition.weights.copy_(torch.tensor([0.1, 4.0, 4.0, -6.0]))
    looker = Tracker(network).looker
    template = looker.template(first, (40, 30, 40, 40))
    sightings = [looker.look(image, _window(), template, looker.words("")) for image in (first, first, second)]
    known = sightings[0]._replace(places=template.places)
    assert looker.continues(known, sightings[2]) == pytest.approx(sightings[2].confidence, abs=1e-6)
    assert looker.continues(sightings[0], sightings[1]) > looker.continues(sightings[0], sightings[2]) + 0.01
    assert looker.continues(sightings[0]._replace(places=None), sightings[2]) == 1.0


def _window():
    from vlt_ros.tracker.geometry import window_around

    return window_around((40, 30, 40, 40), 4.0)


@pytest.mark.parametrize("change, reason", [({"recognition": -1}, "is not 0 to dim"), ({"recognition": 99}, "0 to dim"),
                                            ({"recognition": 4, "separate_layers": 0}, "separate layers")])
def test_a_configuration_that_cannot_recognise_is_refused(change, reason):
    with pytest.raises(ValueError, match=reason):
        replace(CONFIGS["pjvlt_tiny"], **change)
