# SPDX-License-Identifier: Apache-2.0
from __future__ import annotations

import pytest

from vlt_ros.networks import CONFIGS
from vlt_ros.networks.base import LanguageConfig
from vlt_ros.tracker.geometry import overlap, whole_frame, window_around
from vlt_ros.tracker.look import Looker, Template
from vlt_ros.tracker.search import AppearanceSearch, TextSearch, needed, search_levels

# Only what listens searches by text.
SIZES = sorted({config.search_size for name, config in CONFIGS.items()
                if isinstance(config, LanguageConfig) and not name.endswith("_tiny")})


@pytest.fixture
def windows(network, monkeypatch):
    """Every window that is looked at, in order."""
    seen = []
    right = Looker.looks

    def spy(self, looks):
        seen.extend(look.window for look in looks)
        return right(self, looks)

    monkeypatch.setattr(Looker, "looks", spy)
    return seen


def step(network, search, image, threshold):
    """A frame of a search with the network's own looks."""
    return Looker(network).run([search.step(image, threshold)])[0]


@pytest.mark.parametrize("input_size", SIZES)
def test_thirty_pixel_person_in_a_vga_frame_is_reachable(input_size):
    """Wherever it stands, some window shows it whole and at a tenth of its height or more."""
    levels = search_levels(640, 480, input_size)
    for x in (*range(0, 628, 7), 628):
        for y in (*range(0, 450, 7), 450):
            best = max((30 / w.side for level in levels for w in level if w.x <= x and w.y <= y
                        and x + 12 <= w.x + w.side and y + 30 <= w.y + w.side), default=0)
            assert best >= 0.10, (x, y, best)
    # Small windows are worth their look only if they are not blown up for nothing.
    assert all(w.side >= 0.6 * input_size for level in levels for w in level)


@pytest.mark.parametrize("width, height", [
    (640, 480), (480, 640), (1280, 720), (1920, 1080), (320, 240), (160, 120), (64, 48), (2000, 300),
    (300, 2000), (4000, 200)])
@pytest.mark.parametrize("input_size", SIZES)
def test_levels_go_from_the_whole_frame_to_smaller_tiles(width, height, input_size):
    levels = search_levels(width, height, input_size)
    assert levels[0] == [whole_frame(width, height)]
    sides = [level[0].side for level in levels]
    assert sides == sorted(sides, reverse=True) and len(set(sides)) == len(sides)
    # A sweep of one look a frame must come round in seconds, not minutes.
    assert sum(map(len, levels)) <= 90
    for level in levels[1:]:
        for x in range(0, width, max(1, width // 20)):
            for y in range(0, height, max(1, height // 20)):
                assert any(w.x <= x < w.x + w.side and w.y <= y < w.y + w.side for w in level)


def test_sweep_looks_at_every_window_of_every_level_once_and_starts_again(network, scene, windows):
    image = scene(size=(640, 480))
    every = [w for level in search_levels(640, 480, 64) for w in level]
    search = TextSearch(network.config.search_size, Looker(network).words("red"))
    for turn in range(2 * len(every)):
        assert step(network, search, image, 0.5) is None
        assert len(windows) == network.looks == turn + 1            # one look a frame
        assert search.confidence == pytest.approx(network.doubt)
    assert windows == 2 * every


def test_more_windows_need_a_surer_find():
    assert needed(0.0, 35) == 0                             # "trust everything" stays that
    assert 0.45 == needed(0.45, 1) < needed(0.45, 6) < needed(0.45, 35) < 0.7
    assert all(needed(t, n) < 1 for t in (0.8, 0.9, 0.99) for n in (1, 6, 35, 1000))


def test_flimsy_find_in_one_of_many_windows_is_no_target(network, scene):
    """What would do in the whole frame does not in a tile."""
    search = TextSearch(network.config.search_size, Looker(network).words("red"))
    network.confidence = 0.52
    for frame in range(60):
        image = scene(size=(640, 480), red=(300, 200, 40, 40) if frame % 42 else (0, 0, 0, 0))
        assert step(network, search, image, 0.5) is None
    network.confidence = 0.9
    assert any(step(network, search, scene(size=(640, 480), red=(300, 200, 40, 40)), 0.5) for _ in range(60))


def test_found_box_must_be_seen_twice(network, scene):
    """One frame's flash is no target: the next look at the same place does not confirm it."""
    search = TextSearch(network.config.search_size, Looker(network).words("red"))
    assert step(network, search, scene(red=(100, 100, 60, 50)), 0.5) is None and search.confidence > 0.8
    for _ in range(40):
        assert step(network, search, scene(), 0.5) is None


def test_found_box_must_be_seen_at_about_the_same_place(network, scene):
    """A different thing each frame is not one target."""
    search = TextSearch(network.config.search_size, Looker(network).words("red"))
    for frame in range(60):
        corner = ((20, 20), (240, 20), (240, 170), (20, 170))[frame % 4]
        assert step(network, search, scene(red=(*corner, 60, 50)), 0.5) is None


def test_closer_look_gives_the_better_box(network, scene, windows):
    truth = (203, 121, 26, 22)
    image = scene(red=truth)
    search = TextSearch(network.config.search_size, Looker(network).words("red"))
    found = [step(network, search, image, 0.5) for _ in range(3)]
    assert found[:2] == [None, None]
    assert windows[0] == windows[1] == whole_frame(320, 240) and windows[2].side < 0.7 * 320
    assert overlap(found[2].box, truth) > 0.8 and found[2].confidence == pytest.approx(0.9)


def test_closer_look_that_sees_nothing_does_not_refuse(network, scene, windows):
    """Position words hold for the whole frame only ("the left one"): it decides, on the newest frame."""
    search = TextSearch(network.config.search_size, Looker(network).words("red"))
    for frame in range(4):
        truth = (200 + 2 * frame, 120, 40, 40)
        network.confidence = 0.03 if frame == 2 else 0.9
        found = step(network, search, scene(red=truth), 0.5)
        assert (found is not None) == (frame == 3)
    assert windows[2].side < windows[3].side == 320
    assert overlap(found.box, truth) > 0.7 and found.confidence == pytest.approx(0.9)


def test_target_that_walks_on_during_a_sweep_is_found(network, scene):
    """By the end of a level of tiles it is far from where it was seen first."""
    search = TextSearch(network.config.search_size, Looker(network).words("red"))
    for frame in range(40):
        truth = (10 + 5 * frame, 200, 28, 48)
        network.confidence = 0.9 if frame else 0.2          # the whole frame is not sure
        if found := step(network, search, scene(size=(640, 480), red=truth), 0.5):
            break
    assert overlap(found.box, truth) > 0.4


def test_second_best_is_tried_when_the_best_does_not_hold(network, scene, windows, monkeypatch):
    """Both tiles' candidates of a level are gone through, best first."""
    truth = (20, 20, 30, 30)
    image, flash = scene(size=(640, 480), red=truth), scene(size=(640, 480), red=(600, 440, 14, 12))
    search = TextSearch(network.config.search_size, Looker(network).words("red"))
    network.confidence = 0.4                            # the whole frame is not sure
    assert step(network, search, image, 0.5) is None
    first_level = search_levels(640, 480, 64)[1]
    for k, window in enumerate(first_level):
        last = k == len(first_level) - 1
        network.confidence = 0.95 if last else 0.7
        assert step(network, search, flash if last else image, 0.5) is None
        assert windows[-1] == window
    network.confidence = 0.7
    assert step(network, search, image, 0.5) is None and windows[-1] == first_level[-1]       # the flash is gone
    results = [step(network, search, image, 0.5) for _ in range(2)]
    assert windows[-2] == first_level[0]
    assert overlap(next(r for r in results if r).box, truth) > 0.5


def test_frame_size_may_change_while_searching(network, scene):
    search = TextSearch(network.config.search_size, Looker(network).words("red"))
    for k in range(60):
        assert step(network, search, scene(size=((640, 480), (160, 120), (300, 700))[k % 3]), 0.5) is None
    assert network.looks == 60
    image = scene(size=(160, 120), red=(60, 50, 40, 30))
    found = next(filter(None, (step(network, search, image, 0.5) for _ in range(80))))
    assert overlap(found.box, (60, 50, 40, 30)) > 0.6


# by appearance --------------------------------------------------------------------------------------------
def test_lost_target_is_looked_for_near_its_last_place_in_every_other_look(network, scene, windows):
    last = (300.0, 200.0, 30.0, 40.0)
    looker = Looker(network)
    search = AppearanceSearch(Template(network.encode_template(None), None), looker.words("red"), last)
    image = scene(size=(640, 480))
    for turn in range(60):
        assert step(network, search, image, 0.5) is None
        assert network.looks == turn + 1
    assert set(windows[::2]) == {window_around(last, 5.0)}
    sweep = windows[1::2]
    length = next(n for n in range(1, len(sweep)) if sweep[n] == sweep[0])
    assert len(set(sweep[:length])) == length
    assert all(sweep[n] == sweep[n - length] for n in range(length, len(sweep)))
    for x in range(0, 640, 20):
        for y in range(0, 480, 20):
            assert any(w.x <= x < w.x + w.side and w.y <= y < w.y + w.side for w in sweep[:length])

    def distance(w):
        return ((w.x + w.side / 2 - 315) ** 2 + (w.y + w.side / 2 - 220) ** 2) ** 0.5

    assert [distance(w) for w in sweep[:length]] == sorted(distance(w) for w in sweep[:length])


@pytest.mark.parametrize("last", [
    (5.0, 5.0, 10.0, 10.0), (100.0, 100.0, 400.0, 300.0), (900.0, 900.0, 30.0, 30.0)])
def test_lost_target_is_found_anywhere(last, network, scene):
    truth = (560, 400, 40, 30)
    looker = Looker(network)
    image = scene(size=(640, 480), red=truth)
    template = looker.template(image, truth)
    search = AppearanceSearch(template, looker.words(""), last)           # no words: by appearance alone
    found = next(filter(None, (step(network, search, image, 0.5) for _ in range(2000))))
    # A small window may show a part of it only; following it from there gives the rest.
    assert overlap(found.box, truth) > 0.2 and 560 < found.point[0] < 600 and 400 < found.point[1] < 430


def test_lost_target_is_found_again_only_above_the_threshold(network, scene):
    image = scene(red=(150, 100, 40, 30))
    looker = Looker(network)
    last = (150.0, 100.0, 40.0, 30.0)
    search = AppearanceSearch(Template(network.encode_template(None), None), looker.words("red"), last)
    network.confidence = 0.45
    assert all(step(network, search, image, 0.5) is None for _ in range(6))
    assert step(network, search, image, 0.44) is not None
