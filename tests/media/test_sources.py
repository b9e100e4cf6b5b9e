# SPDX-License-Identifier: Apache-2.0
import logging

import cv2
import numpy as np
import pytest

from vlt_ros.media import MediaError, VideoFile, open_source


def picture(value: int, width: int = 64, height: int = 48) -> np.ndarray:
    return np.full((height, width, 3), value, np.uint8)


def make_video(path, values, fps=12.5, width=64, height=48):
    with VideoFile(path, fps) as film:
        for value in values:
            film.write(picture(value, width, height))
    return path


def test_video_gives_every_frame_in_order_with_its_time(tmp_path):
    video = make_video(tmp_path / "film.mp4", range(20, 220, 20))
    source = open_source(video)
    assert (source.length, source.fps) == (10, 12.5)
    frames = list(source)
    assert [f.index for f in frames] == list(range(10))
    assert [f.stamp for f in frames] == pytest.approx([i / 12.5 for i in range(10)])
    assert all(f.image.shape == (48, 64, 3) and f.image.dtype == np.uint8 for f in frames)
    # Lossy, but 20 grey levels apart.
    assert [float(f.image.mean()) for f in frames] == pytest.approx(list(range(20, 220, 20)), abs=5)
    assert source.skipped == 0


def test_folder_is_read_in_natural_order_in_all_formats(tmp_path):
    for name, value in (("f10.png", 100), ("f2.JPG", 20), ("f1.webp", 10), ("f20.bmp", 200), ("f3.jpeg", 30)):
        assert cv2.imwrite(str(tmp_path / name), picture(value))
    (tmp_path / "notes.txt").write_text("no image")
    source = open_source(str(tmp_path))
    assert source.length == 5
    frames = list(source)
    assert [float(f.image.mean()) for f in frames] == pytest.approx([10, 20, 30, 100, 200], abs=2)
    assert [f.stamp for f in frames] == pytest.approx([i / 30 for i in range(5)])


def test_grey_16_bit_and_transparent_images_become_bgr_uint8(tmp_path):
    cv2.imwrite(str(tmp_path / "1.png"), np.full((8, 9), 77, np.uint8))
    cv2.imwrite(str(tmp_path / "2.png"), np.full((8, 9, 3), 77 * 257, np.uint16))
    cv2.imwrite(str(tmp_path / "3.png"), np.full((8, 9, 4), 77, np.uint8))
    for frame in open_source(tmp_path):
        assert frame.image.shape == (8, 9, 3) and frame.image.dtype == np.uint8
        assert abs(int(frame.image[0, 0, 0]) - 77) <= 1


def test_one_image_is_a_source_of_one_frame(tmp_path):
    cv2.imwrite(str(tmp_path / "one.png"), picture(5))
    assert [f.index for f in open_source(tmp_path / "one.png")] == [0]


def test_corrupt_image_is_left_out_counted_and_warned_of(tmp_path, caplog):
    for i in range(4):
        cv2.imwrite(str(tmp_path / f"{i}.png"), picture(i))
    (tmp_path / "2.png").write_bytes((tmp_path / "1.png").read_bytes()[:30])
    source = open_source(tmp_path)
    with caplog.at_level(logging.WARNING):
        assert [f.index for f in source] == [0, 1, 3]
    assert source.skipped == 1
    assert "frame 2" in caplog.text and "(1 so far)" in caplog.text and "2.png" in caplog.text


def test_folder_with_only_corrupt_images(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    with pytest.raises(MediaError, match="no frame can be read from"):
        list(open_source(tmp_path))


def test_video_cut_short_is_told_apart_from_a_readable_one(tmp_path, capfd):
    video = make_video(tmp_path / "film.mp4", range(0, 250, 5))
    whole = video.read_bytes()
    # Without its index, at the end of the file, an mp4 cannot be opened.
    cut = tmp_path / "cut.mp4"
    cut.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(MediaError, match="cannot open .*cut.mp4 as a video.*damaged"):
        open_source(cut)
    assert capfd.readouterr().err == "", "the one line is the exception's; OpenCV and FFmpeg must keep quiet"


def test_video_damaged_inside_goes_on_after_the_damage(tmp_path):
    video = make_video(tmp_path / "film.mp4", range(0, 240, 4), width=128, height=96)
    data = bytearray(video.read_bytes())
    start = data.find(b"mdat") + 400
    data[start:start + 300] = bytes(300)
    (tmp_path / "damaged.mp4").write_bytes(data)
    frames = list(open_source(tmp_path / "damaged.mp4"))
    assert len(frames) > 30 and frames[-1].image.mean() > 200


@pytest.mark.parametrize(("make", "message"), [
    (lambda p: p / "missing.mp4",
     "missing.mp4 does not exist; give a video file, a folder of images, or a camera"),
    (lambda p: p, "has no images; it needs files ending in .jpg"),
    (lambda p: (p / "empty.mp4").write_bytes(b"") or p / "empty.mp4",
     "empty.mp4 is empty; copy or download it again"),
    (lambda p: (p / "text.mp4").write_text("no video") and p / "text.mp4",
     "cannot open .*text.mp4 as a video"),
    (lambda p: "/dev/video97", "cannot open camera /dev/video97: .* list the cameras"),
    (lambda p: "97", "cannot open camera 97: no such camera"),
    (lambda p: "/dev/null", "/dev/null is neither a file nor a folder"),
])
def test_bad_sources_say_what_where_and_what_to_do(tmp_path, make, message, capfd):
    with pytest.raises(MediaError, match=message):
        open_source(make(tmp_path))
    assert capfd.readouterr().err == ""
