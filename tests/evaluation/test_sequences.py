# SPDX-License-Identifier: Apache-2.0
import numpy as np
import pytest

from vlt_ros.evaluation.sequences import SequenceError, read_sequences


def test_reads_images_video_and_every_separator(sequences):
    alpha, beta = read_sequences(sequences)
    assert (alpha.name, len(alpha), alpha.text) == ("alpha", 12, "the bright square")
    assert (beta.name, len(beta), beta.text) == ("beta", 5, "the other thing")
    assert alpha.boxes[11].tolist() == [54, 31, 16, 14] and beta.boxes[4].tolist() == [26, 24, 16, 14]
    assert not alpha.absent.any()
    for sequence in (alpha, beta):
        for image, (x, y, w, h) in zip(sequence.images(), sequence.boxes.astype(int), strict=True):
            assert image.shape == (72, 96, 3)
            assert image[y:y + h, x:x + w].mean() > 130, "image and box belong together"


def test_the_folder_of_one_sequence_is_that_sequence(sequences):
    assert [s.name for s in read_sequences(sequences / "beta")] == ["beta"]


@pytest.mark.parametrize("line", ["1,2,3,4", "1\t2\t3\t4", "1 2  3 4", "1, 2, 3, 4", " 1.0,2.0 3e0\t4 "])
def test_box_separators(write_sequence, tmp_path, line):
    write_sequence(tmp_path / "s", frames=1)
    (tmp_path / "s" / "groundtruth.txt").write_text(f"{line}\n\n")
    assert read_sequences(tmp_path)[0].boxes.tolist() == [[1, 2, 3, 4]]


def test_absent_frames(write_sequence, tmp_path):
    write_sequence(tmp_path / "s", frames=5)
    (tmp_path / "s" / "groundtruth.txt").write_text("1,2,3,4\nnan,nan,nan,nan\n0,0,0,0\n1,2,3,4\n1,2,3,4\n")
    assert read_sequences(tmp_path)[0].absent.tolist() == [False, True, True, False, False]
    (tmp_path / "s" / "absent.txt").write_text("0\n0\n0\n1\n0\n")
    assert read_sequences(tmp_path)[0].absent.tolist() == [False, True, True, True, False]


def test_language_is_optional_until_it_is_needed(write_sequence, tmp_path):
    write_sequence(tmp_path / "s", text="")
    assert read_sequences(tmp_path)[0].text == ""


def broken(name, content):
    return lambda folder: (folder / name).write_bytes(content)


@pytest.mark.parametrize(("spoil", "message"), [
    (broken("groundtruth.txt", b"1,2,3,4\n1,2,3\n" * 3),
     r"s/groundtruth.txt line 2: '1,2,3' is not a box; write four numbers x,y,w,h"),
    (broken("groundtruth.txt", b"1,2,3,4\n\n" + b"1,2,3,4\n" * 4),
     r"s/groundtruth.txt line 2: '' is not a box"),
    (broken("groundtruth.txt", b"1,2,3,x\n" * 6), r"s/groundtruth.txt line 1: '1,2,3,x' is not a box"),
    (broken("groundtruth.txt", b""), r"s/groundtruth.txt is empty; it needs one line x,y,w,h"),
    (broken("groundtruth.txt", b"\xff\xfe\x00"), r"cannot read .*s/groundtruth.txt: .*UTF-8"),
    (broken("groundtruth.txt", b"1,2,3,4\n" * 5),
     r"s/img has 6 images but .*s/groundtruth.txt has 5 lines; there must be one box a frame"),
    (broken("absent.txt", b"0\n" * 5), r"s/absent.txt has 5 lines but .*s/groundtruth.txt has 6"),
    (broken("absent.txt", b"0\n0\n2\n0\n0\n0\n"), r"s/absent.txt line 3: '2' is neither 0 nor 1"),
    (lambda folder: (folder / "groundtruth.txt").unlink(),
     r"s/groundtruth.txt is missing; every sequence needs it"),
    (lambda folder: (folder / "img").rename(folder / "frames"), r"s has neither img/ nor video.mp4"),
    (lambda folder: [f.unlink() for f in (folder / "img").iterdir()], r"s/img has no images"),
])
def test_one_clear_error_names_file_and_line(write_sequence, tmp_path, spoil, message):
    write_sequence(tmp_path / "s", frames=6)
    spoil(tmp_path / "s")
    with pytest.raises(SequenceError, match=message):
        read_sequences(tmp_path)


def test_images_that_do_not_fit_are_an_error_not_a_shift(write_sequence, tmp_path):
    write_sequence(tmp_path / "s", frames=6)
    (tmp_path / "s" / "img" / "3.png").write_bytes(b"broken")
    with pytest.raises(SequenceError, match=r"s/img: frame 2 cannot be decoded; replace the file"):
        list(read_sequences(tmp_path)[0].images())
    write_sequence(tmp_path / "v", frames=6, video=True)
    for lines, message in ((5, "more than 5 images"), (7, "has 6 images")):
        (tmp_path / "v" / "groundtruth.txt").write_text("1,2,3,4\n" * lines)
        message = rf"v/video.mp4 .*{message} but .*v/groundtruth.txt has {lines} lines"
        with pytest.raises(SequenceError, match=message):
            list(read_sequences(tmp_path / "v")[0].images())


def test_roots_without_sequences(write_sequence, tmp_path):
    with pytest.raises(SequenceError, match="no sequences in .*each needs a folder NAME with img/ or"):
        read_sequences(tmp_path)
    with pytest.raises(SequenceError, match="nothing is not a folder"):
        read_sequences(tmp_path / "nothing")
    (tmp_path / "results").mkdir()
    write_sequence(tmp_path / "s", frames=2)
    assert [s.name for s in read_sequences(tmp_path)] == ["s"], "other folders are no sequences"


def test_boxes_are_floats(write_sequence, tmp_path):
    write_sequence(tmp_path / "s", frames=2)
    assert read_sequences(tmp_path)[0].boxes.dtype == np.float64
