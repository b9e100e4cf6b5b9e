# SPDX-License-Identifier: Apache-2.0
"""Video data sets in their official layouts: LaSOT, LaSOText, GOT-10k, TrackingNet, TNL2K, OTB99-Lang, WebUAV-3M.

Layouts, splits and labels are those that PyTracking (ltr/dataset), OSTrack (lib/train/dataset), the GOT-10k toolkit,
JointNLT and UVLTrack (the language files) read; class sentences follow PJVLT, section IV.A.
"""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from tqdm import tqdm

from vlt_ros.training.datasets.files import make_video, read_labels, read_sentence
from vlt_ros.training.datasets.form import DataSet, DataSetError, Omissions, Video, need

# Numbers of the videos of each class that LaSOT's protocol II tests on; the other sixteen of twenty are for training.
_LASOT_TEST = """
airplane 1 9 13 15, basketball 1 6 7 11, bear 2 4 6 17, bicycle 2 7 9 18, bird 2 3 15 17, boat 3 4 12 17,
book 3 10 11 19, bottle 1 12 14 18, bus 2 5 17 19, car 2 6 9 17, cat 1 3 18 20, cattle 2 7 12 13,
chameleon 3 6 11 20, coin 3 6 7 18, crab 3 6 12 18, crocodile 3 4 10 14, cup 1 4 7 17, deer 4 8 10 14,
dog 1 7 15 19, drone 2 7 13 15, electricfan 1 10 18 20, elephant 1 12 16 18, flag 2 3 5 9, fox 2 3 5 20,
frog 3 4 9 20, gametarget 1 2 7 13, gecko 1 5 16 19, giraffe 2 10 13 15, goldfish 3 7 8 10, gorilla 4 6 9 13,
guitar 3 8 10 16, hand 2 3 9 16, hat 1 2 5 18, helmet 5 11 13 19, hippo 1 7 9 20, horse 1 4 12 15,
kangaroo 2 5 11 14, kite 4 6 10 15, leopard 1 7 16 20, licenseplate 6 12 13 15, lion 1 5 12 20, lizard 1 3 6 13,
microphone 2 6 14 16, monkey 3 4 9 17, motorcycle 1 3 9 18, mouse 1 8 9 17, person 1 5 10 12, pig 2 10 13 18,
pool 3 7 12 15, rabbit 10 13 17 19, racing 10 15 16 20, robot 1 5 8 19, rubicCube 1 6 14 19, sepia 6 8 13 16,
shark 2 3 5 6, sheep 3 5 7 9, skateboard 3 8 16 19, spider 14 16 18 20, squirrel 8 11 13 19, surfboard 4 5 8 12,
swing 10 14 17 20, tank 6 9 14 16, tiger 4 6 12 18, train 1 7 11 20, truck 3 6 7 16, turtle 5 8 9 16,
umbrella 2 9 17 19, volleyball 1 13 18 19, yoyo 7 15 17 19, zebra 10 14 16 17"""
LASOT_TEST = frozenset(f"{words[0]}-{number}" for words in map(str.split, _LASOT_TEST.split(","))
                       for number in words[1:])

# OTB: David's boxes begin at this frame. Other training videos with more frames than boxes begin at their first.
_OTB_FIRST = {"David": 300}


def _read(name: str, root: Path, entries: list, make, omissions: Omissions, **kind) -> DataSet:
    """The data set of the videos that ``make(entry)`` gives; ``kind``: fields of :class:`DataSet`."""
    progress = tqdm(entries, desc=f"read {name}", unit="video", leave=False, disable=None)
    videos: list[Video] = [video for video in map(make, progress) if video is not None]
    frames = sum(len(video.frames) for video in videos)
    omissions.report(f"{name}: {len(videos)} videos, {frames} frames in {root}")
    if not videos:
        raise DataSetError(f"{root} holds no video of {name} that can be used: the log line before says why")
    return DataSet(name, name, videos=videos, **kind)


def _folders(folder: Path) -> list[Path]:
    return sorted(entry for entry in folder.iterdir() if entry.is_dir())


def _lasot_videos(name: str, root: Path, chosen) -> DataSet:
    need(root, f"give the folder of {name}, the one with a folder for each class")
    entries = [video for one in _folders(root) for video in _folders(one)
               if re.fullmatch(re.escape(one.name) + r"-\d+", video.name)]
    if not entries:
        raise DataSetError(f"{root}/CLASS/CLASS-NUMBER/groundtruth.txt is missing: give the folder of {name}, "
                           "the one with a folder for each class")
    omissions = Omissions()

    def make(video: Path) -> Video | None:
        def gone(count: int):
            labels = [read_labels(video / file, count) for file in ("full_occlusion.txt", "out_of_view.txt")]
            known = [label for label in labels if label is not None]
            return np.any(np.array(known) > 0, axis=0) if known else None

        return make_video(video.name, video / "img", video / "groundtruth.txt", read_sentence(video / "nlp.txt"),
                          omissions, gone=gone, first=1)

    return _read(name, root, [video for video in entries if chosen(video.name)], make, omissions)


def lasot(root: Path) -> DataSet:
    """LaSOT (Fan et al., CVPR 2019), training part of protocol II.

    ROOT/CLASS/CLASS-N/{img/00000001.jpg, groundtruth.txt, full_occlusion.txt, out_of_view.txt, nlp.txt}, as
    PyTracking and OSTrack read it. Videos in ROOT/training_set.txt (it comes with LaSOT) where there is that file,
    otherwise all that protocol II does not test on.

    Raises:
        DataSetError: the folder is missing or holds no video.
    """
    listed = root / "training_set.txt"
    names = set(listed.read_text().split()) if listed.is_file() else None
    return _lasot_videos("lasot", root, lambda name: name in names if names else name not in LASOT_TEST)


def lasotext(root: Path) -> DataSet:
    """LaSOText (Fan et al., IJCV 2021): 150 videos of 15 other classes in LaSOT's layout.

    The field only tests on it: who trains on it gives up its figure as a benchmark.

    Raises:
        DataSetError: the folder is missing or holds no video.
    """
    return _lasot_videos("lasotext", root, lambda name: True)


def got10k_sentence(meta: Path) -> str:
    """PJVLT's sentence for a GOT-10k video: object, motion, major and root class of its meta_info.ini."""
    try:
        lines = meta.read_text(errors="replace").splitlines()
    except OSError:
        return ""
    fields = {key.strip(): value.strip() for key, colon, value in (line.partition(":") for line in lines) if colon}
    words = [fields.get(f"{kind}_class", "") for kind in ("object", "motion", "major", "root")]
    return " ".join(word for word in words if word and word.lower() != "none")


def got10k(root: Path) -> DataSet:
    """GOT-10k (Huang et al., TPAMI 2021), the training part.

    ROOT/train/list.txt names the videos (ROOT may be the folder train itself, as PyTracking wants it);
    VIDEO/{00000001.jpg, groundtruth.txt, absence.label, cover.label, meta_info.ini}, as the GOT-10k toolkit reads it.

    Raises:
        DataSetError: list.txt is missing, or no video can be used.
    """
    train = root if (root / "list.txt").is_file() else root / "train"
    listed = need(train / "list.txt", "give the folder of GOT-10k, the one with train/ in it").read_text().split()
    omissions = Omissions()

    def make(name: str) -> Video | None:
        video = train / name
        if not video.is_dir():
            omissions.add("videos left out as they are listed but not there", video)
            return None

        def gone(count: int):
            absence = read_labels(video / "absence.label", count)
            # The visible share of the target in eighths.
            cover = read_labels(video / "cover.label", count, fill=8)
            if absence is None or cover is None:
                return None if absence is None else absence > 0
            return (absence > 0) | (cover == 0)

        return make_video(name, video, video / "groundtruth.txt", got10k_sentence(video / "meta_info.ini"), omissions,
                          gone=gone, first=1)

    return _read("got10k", root, listed, make, omissions, describes=False)


def trackingnet(root: Path) -> DataSet:
    """TrackingNet (Mueller et al., ECCV 2018), the training sets TRAIN_0 to TRAIN_11 that are there.

    ROOT/TRAIN_K/{anno/VIDEO.txt, frames/VIDEO/0.jpg}, as its own devkit and PyTracking lay it out. The class of a
    video is its sentence; it stands in ROOT/trackingnet_classmap.txt, a line for each video, 'VIDEO<tab>class', which
    comes with PyTracking and OSTrack (data_specs), not with TrackingNet. Without it there are boxes alone.

    Raises:
        DataSetError: there is no TRAIN_K/anno, or no video can be used.
    """
    parts = [root / f"TRAIN_{k}" / "anno" for k in range(12) if (root / f"TRAIN_{k}" / "anno").is_dir()]
    if not parts:
        raise DataSetError(f"{root / 'TRAIN_0' / 'anno'} is missing: give the folder of TrackingNet, "
                           "the one with TRAIN_0 to TRAIN_11 in it")
    omissions, classes = Omissions(), {}
    class_map = root / "trackingnet_classmap.txt"
    try:
        for line in class_map.read_text().splitlines():
            name, _, words = line.partition("\t")
            classes[name.strip()] = words.strip()
    except OSError:
        omissions.add("class map missing, so without sentences: copy it from PyTracking's ltr/data_specs", class_map)

    def make(truth: Path) -> Video | None:
        return make_video(truth.stem, truth.parents[1] / "frames" / truth.stem, truth, classes.get(truth.stem, ""),
                          omissions, first=0)

    return _read("trackingnet", root, sorted(truth for folder in parts for truth in folder.glob("*.txt")), make,
                 omissions, describes=False)


def tnl2k(root: Path) -> DataSet:
    """TNL2K (Wang et al., CVPR 2021), the training part.

    ROOT/TNL2K_train_subset/ (or TNL2K_train/, train/, or ROOT itself), then VIDEO/{imgs/, groundtruth.txt,
    language.txt}, as JointNLT and UVLTrack read it. Names of frames follow no rule and are taken in order; an empty
    box means that the target is gone.

    Raises:
        DataSetError: there is no video in any of these folders, or none can be used.
    """
    need(root, "give the folder of TNL2K, the one with its training subset in it")
    for folder in (root / "TNL2K_train_subset", root / "TNL2K_train", root / "train", root):
        entries = [video for video in _folders(folder) if (video / "imgs").is_dir()] if folder.is_dir() else []
        if entries:
            break
    else:
        raise DataSetError(f"{root / 'TNL2K_train_subset'}/VIDEO/imgs is missing: give the folder of TNL2K, the one "
                           "with its training subset in it")
    omissions = Omissions()

    def make(video: Path) -> Video | None:
        return make_video(video.name, video / "imgs", video / "groundtruth.txt",
                          read_sentence(video / "language.txt"), omissions, empty_is_gone=True)

    return _read("tnl2k", root, entries, make, omissions)


def clips(root: Path) -> DataSet:
    """Clips of one's own, in the layout that ``vlt evaluate`` reads.

    ROOT/VIDEO/{img/, groundtruth.txt, language.txt}, optionally absent.txt (1 where the target is not to be seen).
    Names of frames are taken in order; an empty box means that the target is gone. Pairs go both ways in time.

    Raises:
        DataSetError: there is no such folder in ROOT, or none can be used.
    """
    need(root, "give the folder with a folder for each clip")
    entries = [video for video in _folders(root) if (video / "img").is_dir()]
    if not entries:
        raise DataSetError(f"{root}/VIDEO/img is missing: give the folder with a folder for each clip")
    omissions = Omissions()

    def make(video: Path) -> Video | None:
        def gone(count: int):
            labels = read_labels(video / "absent.txt", count)
            return np.zeros(count, bool) if labels is None else labels > 0

        return make_video(video.name, video / "img", video / "groundtruth.txt",
                          read_sentence(video / "language.txt"), omissions, gone=gone, empty_is_gone=True)

    return _read("clips", root, entries, make, omissions, causal=False)


def otb99(root: Path) -> DataSet:
    """OTB99-Lang (Li et al., "Tracking by Natural Language Specification", CVPR 2017), the training part.

    ROOT/{OTB_query_train/VIDEO.txt, OTB_videos/VIDEO/{img/, groundtruth_rect.txt}}, as JointNLT and UVLTrack read it.
    The sentences choose the videos. VIDEO1 or VIDEO-1 may also stand in OTB_videos/VIDEO as groundtruth_rect.1.txt
    (OTB's own form of two targets in one video).

    Raises:
        DataSetError: OTB_query_train or OTB_videos is missing, or no video can be used.
    """
    remedy = "give the folder of OTB99-Lang (OTB_sentences), the one with OTB_query_train and OTB_videos in it"
    queries, videos = need(root / "OTB_query_train", remedy), need(root / "OTB_videos", remedy)
    omissions = Omissions()

    def make(query: Path) -> Video | None:
        folder, truth = videos / query.stem, "groundtruth_rect.txt"
        target = re.fullmatch(r"(.+?)[-_.]?(\d)", query.stem)
        if not folder.is_dir() and target and (videos / target[1]).is_dir():
            folder, truth = videos / target[1], f"groundtruth_rect.{target[2]}.txt"
        return make_video(query.stem, folder / "img", folder / truth, read_sentence(query), omissions,
                          first=_OTB_FIRST.get(folder.name))

    return _read("otb99", root, sorted(queries.glob("*.txt")), make, omissions)


def webuav(root: Path) -> DataSet:
    """WebUAV-3M (Zhang et al., TPAMI 2023), the training part.

    ROOT/Train/VIDEO/{img/, groundtruth_rect.txt, absent.txt, language.txt}, as its authors' README says. The
    sentences were released on their own and may stand in ROOT/Language/Train/VIDEO/language.txt.

    Raises:
        DataSetError: ROOT/Train is missing, or no video can be used.
    """
    train = need(root / "Train", "give the folder of WebUAV-3M, the one with Train in it")
    omissions = Omissions()

    def make(video: Path) -> Video | None:
        def gone(count: int):
            labels = read_labels(video / "absent.txt", count)
            return None if labels is None else labels > 0

        text = (read_sentence(video / "language.txt")
                or read_sentence(root / "Language" / "Train" / video.name / "language.txt"))
        return make_video(video.name, video / "img", video / "groundtruth_rect.txt", text, omissions, gone=gone)

    return _read("webuav", root, _folders(train), make, omissions)
