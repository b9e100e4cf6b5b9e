# SPDX-License-Identifier: Apache-2.0
from types import SimpleNamespace

import cv2
import numpy as np
import pytest

from vlt_ros.media import ContactSheet, MediaError, VideoFile, annotate, make_folder, open_source, save_image
from vlt_ros.media.drawing import STATE_COLOURS


def target(state="TRACKING", box=(20, 10, 30, 20), confidence=0.5, text="the red mug"):
    return SimpleNamespace(state=SimpleNamespace(name=state), box=box, confidence=confidence, text=text)


def count(image, colour) -> int:
    return int((np.abs(image.astype(int) - colour).max(axis=2) <= 12).sum())


@pytest.mark.parametrize("size", [(48, 64), (240, 320), (1080, 1920), (2160, 3840), (400, 60)])
def test_draws_at_any_resolution_on_a_copy(size):
    image = np.full((*size, 3), 128, np.uint8)
    drawn = annotate(image, target(), 12.3)
    assert drawn.shape == image.shape and drawn.dtype == np.uint8
    assert (image == 128).all()
    strip = np.flatnonzero((drawn != 128).any(axis=(1, 2)))
    assert strip[-1] == size[0] - 1, "the caption stands on the bottom edge"


def test_text_grows_with_the_image():
    def caption_rows(height, width):
        drawn = annotate(np.full((height, width, 3), 128, np.uint8), target(box=None), 1)
        return int((drawn != 128).all(axis=2).any(axis=1).sum())

    assert caption_rows(1080, 1920) == pytest.approx(4.5 * caption_rows(240, 427), rel=0.2)


def test_box_is_drawn_where_it_is_in_the_colour_of_its_state():
    image = np.full((240, 320, 3), 128, np.uint8)
    for state in ("TRACKING", "UNCERTAIN"):
        drawn = annotate(image, target(state, box=(50.2, 30.4, 100.0, 60.0)))
        for x, y in ((100, 30), (100, 90), (50, 60), (150, 60)):
            assert np.abs(drawn[y, x].astype(int) - STATE_COLOURS[state]).max() <= 30
        assert (drawn[60, 100] == 128).all(), "the inside stays free"
    lost = annotate(image, target("LOST", box=None))
    assert (lost[:150] == 128).all()
    assert count(lost, STATE_COLOURS["LOST"]) > 20


def test_confidence_bar_is_proportional_and_bounded():
    image = np.full((480, 640, 3), 128, np.uint8)
    filled = [count(annotate(image, target(box=None, confidence=c, text="")), STATE_COLOURS["TRACKING"])
              for c in (0.0, 0.5, 1.0, 7.0)]
    assert filled[0] < filled[1] < filled[2] == filled[3]
    assert filled[1] - filled[0] == pytest.approx((filled[2] - filled[0]) / 2, rel=0.05)


def test_sentence_is_drawn_wrapped_and_cut():
    image = np.full((240, 320, 3), 128, np.uint8)

    def white(text):
        return count(annotate(image, target(box=None, text=text)), (255, 255, 255))

    short, long, endless = white("the mug"), white("the red mug is " * 3), white("the red mug is " * 30)
    assert white("") < short < long
    assert endless < 2 * long
    for strange in ("a" * 300, "женщина в красной куртке", "红色夹克的女人", "\t"):
        annotate(image, target(text=strange))


def test_box_outside_the_frame_does_no_harm():
    image = np.zeros((48, 64, 3), np.uint8)
    annotate(image, target(box=(-500.0, -20.0, 2000.0, 10.0)))


@pytest.mark.parametrize("size", [(48, 64), (49, 65), (1, 1), (3, 300)])
def test_film_has_even_sizes_and_every_frame(tmp_path, size):
    with VideoFile(tmp_path / "film.mp4", 10) as film:
        for value in (0, 100, 200):
            film.write(np.full((max(size[0], 2), max(size[1], 2), 3), value, np.uint8))
        film.write(np.full((30, 20, 3), 50, np.uint8))      # another size is brought to the first one's
    frames = list(open_source(tmp_path / "film.mp4"))
    assert len(frames) == 4
    height, width = frames[0].image.shape[:2]
    assert (height, width) == (max(size[0], 2) // 2 * 2, max(size[1], 2) // 2 * 2)


def test_film_that_cannot_be_written(tmp_path, capfd):
    film = VideoFile(tmp_path / "no" / "film.mp4", 10)
    with pytest.raises(MediaError, match="cannot write the video .*film.mp4; check that its folder exists"):
        film.write(np.zeros((48, 64, 3), np.uint8))
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("length", [1, 3, 12, 13, 200])
def test_contact_sheet_covers_the_film_evenly(length):
    sheet = ContactSheet(count=12, columns=4, cell_width=32)
    for i in range(length):
        sheet.add(np.full((24, 32, 3), round(255 * i / max(1, length - 1)), np.uint8))
    image = sheet.image()
    shown, columns = min(12, length), min(4, length)
    rows = -(-shown // columns)
    assert image.shape == (rows * 28 + 4, columns * 36 + 4, 3)
    middles = [image[4 + 12 + 28 * (i // columns), 4 + 16 + 36 * (i % columns), 0] for i in range(shown)]
    expected = np.linspace(0, 255, shown)
    assert middles == pytest.approx(list(expected), abs=255 / min(11, max(1, length - 1)) * 0.75)


def test_contact_sheet_stays_small_in_memory():
    sheet = ContactSheet(count=4, cell_width=32)
    for _ in range(5000):
        sheet.add(np.zeros((24, 32, 3), np.uint8))
    assert len(sheet._cells) < 16
    with pytest.raises(MediaError, match="needs at least one image"):
        ContactSheet().image()
    with pytest.raises(ValueError, match="0 pictures"):
        ContactSheet(count=0)


def test_save_image(tmp_path):
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    save_image(tmp_path / "a.png", image)
    assert (cv2.imread(str(tmp_path / "a.png")) == image).all()
    with pytest.raises(MediaError, match="unknown image kind '.xyz'; use .png or .jpg"):
        save_image(tmp_path / "a.xyz", image)
    with pytest.raises(MediaError, match="cannot write .*a.png: No such file"):
        save_image(tmp_path / "no" / "a.png", image)


def test_make_folder(tmp_path):
    assert make_folder(tmp_path / "a" / "b").is_dir()
    (tmp_path / "file").write_text("")
    with pytest.raises(MediaError, match="cannot make the folder .*file.*--out"):
        make_folder(tmp_path / "file" / "below")
