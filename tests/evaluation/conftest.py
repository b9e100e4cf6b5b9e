# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from vlt_ros.media import VideoFile, save_image


def _write_sequence(folder, frames=6, text="the bright square", video=False, separator=","):
    """A bright square that walks to the right over noise: (T, 4) boxes."""
    rng = np.random.default_rng(0)
    background = rng.integers(0, 90, (72, 96, 3), np.uint8)
    boxes = [(10 + 4 * i, 20 + i, 16, 14) for i in range(frames)]
    images = []
    for x, y, w, h in boxes:
        image = background.copy()
        image[y:y + h, x:x + w] = (40, 200, 240)
        images.append(image)
    folder.mkdir(parents=True)
    if video:
        with VideoFile(folder / "video.mp4", 30) as film:
            for image in images:
                film.write(image)
    else:
        (folder / "img").mkdir()
        for number, image in enumerate(images, start=1):
            save_image(folder / "img" / f"{number}.png", image)      # 10 after 9 only in natural order
    (folder / "groundtruth.txt").write_text("".join(separator.join(map(str, box)) + "\n" for box in boxes))
    if text:
        (folder / "language.txt").write_text(text + "\n")
    return np.array(boxes, float)


@pytest.fixture(scope="session")
def write_sequence():
    """The function that writes a sequence's folder."""
    return _write_sequence


@pytest.fixture(scope="session")
def sequences(tmp_path_factory):
    """ROOT with two sequences, one of images and one of video."""
    root = tmp_path_factory.mktemp("sequences")
    _write_sequence(root / "alpha", frames=12)
    _write_sequence(root / "beta", frames=5, text="the other thing", video=True, separator="\t")
    return root
