# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from vlt_ros.evaluation.errors import EvaluationError
from vlt_ros.evaluation.evaluate import evaluate
from vlt_ros.evaluation.leaving import FRAMES, leaving
from vlt_ros.evaluation.runs import sequence_key
from vlt_ros.evaluation.sequences import read_sequences
from vlt_ros.media import save_image

SQUARE = (40, 200, 240)


@pytest.fixture(scope="module")
def root(write_sequence, tmp_path_factory):
    """A walking square, a film of one without it, and a scene of another size."""
    root = tmp_path_factory.mktemp("leaving")
    write_sequence(root / "alpha", frames=9)
    write_sequence(root / "beta", frames=5, video=True)
    (root / "gamma" / "img").mkdir(parents=True)
    for number in range(3):
        save_image(root / "gamma" / "img" / f"{number}.png", np.full((50, 200, 3), 30 + number, np.uint8))
    (root / "gamma" / "groundtruth.txt").write_text("5,5,10,10\n" * 3)
    return root


def of_square(image):
    return np.abs(image.astype(int) - SQUARE).max(-1) < 40


def test_the_truth_is_where_the_target_is_in_view(root):
    for one, first, other in zip(leaving(read_sequences(root))[:2], (9, 5), (5, 3), strict=True):
        assert (len(one), one.played, one.other_played, one.size()) == (FRAMES, first, other, (96, 72))
        left, came_back = np.flatnonzero(np.diff(one.absent.astype(int)))
        assert 60 < left < 75 < 135 < came_back < 150, "two seconds of following, half a second's turn, two away"
        seen, pictures = [], list(one.images())
        assert len(pictures) == FRAMES and {p.shape for p in pictures} == {(72, 96, 3)}
        for index in range(0, FRAMES, 3):
            x, y, w, h = one.boxes[index].round().astype(int)
            inside = of_square(pictures[index][max(y, 0):y + h, max(x, 0):x + w])
            seen.append(one.absent[index] or inside.mean())
        assert min(seen) > 0.8, "the film is lossy"
        alone = one.name == "beta"              # gamma, where its camera turns to, has no square
        assert not alone or max(of_square(pictures[i]).mean() for i in range(80, 130)) == 0
        # A part of the pictures is the picture.
        assert all((image == pictures[index]).all() for index, image in one.images_at([150, 3, 70]))


def test_every_other_camera_turns_left(root):
    right, left, again = leaving(read_sequences(root))
    assert (right.left, left.left, again.left) == (False, True, False)
    before = {one.name: one.boxes[60, 0] for one in (right, left)}
    assert right.boxes[66, 0] < before["alpha"] and left.boxes[66, 0] > before["beta"], "things go the other way"


def test_another_scene_to_turn_to_is_another_sequence(root):
    alpha, beta, gamma = read_sequences(root)
    assert sequence_key(leaving([alpha, beta])[0]) != sequence_key(leaving([alpha, gamma])[0])
    assert sequence_key(leaving([alpha, beta])[0]) == sequence_key(leaving([alpha, beta, gamma])[0])
    with pytest.raises(EvaluationError, match="at least two sequences"):
        leaving([alpha])


def test_evaluation_tells_what_became_of_every_absence(root, weights, tmp_path):
    report = evaluate(root, tmp_path, leave=True, weights=weights, device="cpu", progress=False)
    behaviour = report["behaviour"]
    assert behaviour["absences"] == 3 and 0 <= behaviour["false_tracking_rate"] <= 1
    assert {"lost_s", "lost_in_time", "back_s", "back_in_time"} < behaviour.keys()
    assert sum(row["frames"] for row in report["calibration"]) == sum(
        round(entry["present_fraction"] * entry["frames"]) for entry in report["per_sequence"].values())
    assert "What a confidence is worth" in (tmp_path / "report.html").read_text(encoding="utf-8")
