# SPDX-License-Identifier: Apache-2.0
"""Picture data sets in their official layouts: COCO, and RefCOCO, RefCOCO+, RefCOCOg on COCO's photographs."""

from __future__ import annotations

import io
import json
import os
import pickle
from pathlib import Path

import numpy as np

from vlt_ros.training.datasets.form import DataSet, DataSetError, Omissions, Picture, need

# Whose split of each RefCOCO the field uses; the first that is there.
REFERENCE_SPLITS = {"refcoco": ("unc", "google"), "refcoco+": ("unc",), "refcocog": ("umd", "google")}


# What the entries of an instances file must have for the others to be read: keys and kinds of values.
_ENTRIES = {"images": {"id": (int, str), "file_name": str}, "categories": {"id": (int, str), "name": str},
            "annotations": {key: (int, str, type(None)) for key in ("id", "image_id", "category_id")}}


def _plain(entry, kinds: dict) -> bool:
    return isinstance(entry, dict) and all(isinstance(entry.get(key), kind) for key, kind in kinds.items())


def _read_instances(path: Path) -> dict:
    """COCO's instances JSON: lists images, annotations, categories.

    Raises:
        DataSetError: it is no such file.
    """
    try:
        content = json.loads(path.read_bytes())
        if (all(isinstance(content[part], list) for part in _ENTRIES)
                and all(_plain(one, kinds) for part, kinds in _ENTRIES.items() for one in content[part])):
            return content
    except (ValueError, KeyError, TypeError, OSError):
        pass
    raise DataSetError(f"{path} is no COCO instances file (images, annotations, categories): download it again")


def _sound(box) -> bool:
    """Whether this is x, y, width, height of some area."""
    numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(value, (int, float)) for value in box)
    return numbers and bool(np.isfinite(box).all()) and min(box[2:]) > 0


def _pictures(instances: dict, folder: Path, omissions: Omissions, truth: Path,
              texts: dict[int, tuple[str, ...]] | None = None) -> list[Picture]:
    """Pictures with at least one object that can be a target.

    Args:
        instances: see :func:`_read_instances`. folder: of the pictures. truth: the file that the annotations are of.
        texts: sentences by annotation; None gives PJVLT's for COCO, category and supercategory.
    """
    categories = {one["id"]: (one["name"], (f"{one['name']} {one.get('supercategory') or ''}".strip(),))
                  for one in instances["categories"]}
    there = set(os.listdir(folder))
    boxed: dict[int, list[dict]] = {}
    for annotation in instances["annotations"]:
        boxed.setdefault(annotation.get("image_id"), []).append(annotation)
    pictures = []
    for image in instances["images"]:
        annotations = boxed.get(image["id"], ())
        if texts is not None and not any(annotation.get("id") in texts for annotation in annotations):
            continue
        file = folder / image["file_name"]
        if image["file_name"] not in there:
            omissions.add("pictures left out without a file", file)
            continue
        boxes, names, own, crowds = [], [], [], set()
        for annotation in annotations:
            box = annotation.get("bbox")
            if annotation.get("category_id") not in categories:
                omissions.add("objects left out without a known category", truth)
                continue
            if not _sound(box):
                omissions.add("objects left out without a sound box", truth)
                continue
            name, sentences = categories[annotation["category_id"]]
            if annotation.get("iscrowd"):
                omissions.add("crowds that are no target", truth)
                crowds.add(len(boxes))
            boxes.append(box)
            names.append(name)
            own.append(sentences if texts is None else texts.get(annotation["id"], ()))
        if any(own[k] for k in range(len(boxes)) if k not in crowds):
            pictures.append(Picture(str(file), np.array(boxes, float), tuple(names), tuple(own), frozenset(crowds)))
        else:
            omissions.add("pictures left out without an object", file)
    return pictures


def _folder(*candidates: Path) -> Path:
    """The first folder that is there.

    Raises:
        DataSetError: none is; the message names the first.
    """
    for candidate in candidates:
        if candidate.is_dir():
            return candidate
    others = " or ".join(str(candidate) for candidate in candidates[1:])
    raise DataSetError(f"{candidates[0]} is missing: put the photographs there (or in {others})")


def coco(root: Path) -> DataSet:
    """COCO (Lin et al., ECCV 2014), the training part of 2017 or, where that is missing, of 2014.

    ROOT/{annotations/instances_train2017.json, train2017/ or images/train2017/}, as the COCO API and PyTracking read
    it. Sentence: category and supercategory (PJVLT, section IV.A). Crowds are no targets.

    Raises:
        DataSetError: the annotations or the folder of photographs are missing, or nothing can be used.
    """
    year = 2014 if (root / "annotations" / "instances_train2014.json").is_file() and \
        not (root / "annotations" / "instances_train2017.json").is_file() else 2017
    truth = need(root / "annotations" / f"instances_train{year}.json",
                 "give the folder of COCO, the one with annotations in it")
    folder = _folder(root / f"train{year}", root / "images" / f"train{year}")
    omissions = Omissions()
    pictures = _pictures(_read_instances(truth), folder, omissions, truth)
    return _dataset("coco", root, pictures, omissions, describes=False)


def _dataset(name: str, root: Path, pictures: list[Picture], omissions: Omissions, describes: bool) -> DataSet:
    objects = sum(len(picture.names) - len(picture.crowds) for picture in pictures)
    omissions.report(f"{name}: {len(pictures)} pictures, {objects} objects in {root}")
    if not pictures:
        raise DataSetError(f"{root} holds no picture of {name} that can be used: the log line before says why")
    return DataSet(name, name, pictures=pictures, describes=describes, boxed="every")


class _PlainUnpickler(pickle.Unpickler):
    """Containers and numbers and strings alone: a pickle may otherwise run any code."""

    _PLAIN = frozenset({"set", "frozenset", "list", "dict", "tuple", "int", "float", "complex", "bool", "str", "bytes"})

    def find_class(self, module: str, name: str):
        if module in ("builtins", "__builtin__") and name in self._PLAIN:
            return super().find_class("builtins", name)
        raise pickle.UnpicklingError(f"it wants {module}.{name}")


def read_references(path: Path) -> list[dict]:
    """The list in refs(*).p, read without running anything that the file might hold.

    Raises:
        DataSetError: it is unreadable, or holds more than plain containers.
    """
    try:
        # The files were written by Python 2: its byte strings are read as Latin-1, which never fails.
        references = _PlainUnpickler(io.BytesIO(path.read_bytes()), encoding="latin1").load()
    except Exception as error:      # a broken pickle may raise anything
        raise DataSetError(f"{path} is no list of references ({error}): download it again") from error
    if not isinstance(references, list):
        raise DataSetError(f"{path} is no list of references but a {type(references).__name__}: download it again")
    return references


def _refcoco(name: str, root: Path) -> DataSet:
    """RefCOCO, RefCOCO+ (Yu et al., ECCV 2016) or RefCOCOg (Mao et al., CVPR 2016), the training part.

    ROOT/NAME/{refs(SPLIT).p, instances.json} and COCO's train2014 in ROOT/images/mscoco/images/train2014 (or
    ROOT/images/train2014, ROOT/train2014), as the REFER API reads it; splits: :data:`REFERENCE_SPLITS`. Every
    object of a photograph is read, those that phrases refer to with their phrases.

    Raises:
        DataSetError: a file or the folder of photographs is missing or of another form, or nothing can be used.
    """
    remedy = f"give the folder of the REFER data, the one with {name} in it"
    wanted = [root / name / f"refs({split}).p" for split in REFERENCE_SPLITS[name]]
    refs = next((path for path in wanted if path.is_file()), wanted[0])
    references = read_references(need(refs, remedy))
    truth = need(root / name / "instances.json", remedy)
    folder = _folder(root / "images" / "mscoco" / "images" / "train2014", root / "images" / "train2014",
                     root / "train2014")
    instances, omissions = _read_instances(truth), Omissions()
    known = {annotation.get("id"): annotation for annotation in instances["annotations"]}
    texts: dict[int, tuple[str, ...]] = {}
    for reference in references:
        if not isinstance(reference, dict) or reference.get("split") != "train":
            continue
        annotation = known.get(reference.get("ann_id"))
        phrases = [" ".join(str(one.get("sent") or one.get("raw") or "").split())
                   for one in reference.get("sentences") or () if isinstance(one, dict)]
        phrases = [phrase for phrase in phrases if phrase]
        if annotation is None:
            omissions.add("references left out without an object", refs)
        elif not phrases:
            omissions.add("references left out without a phrase", refs)
        else:
            texts[annotation["id"]] = texts.get(annotation["id"], ()) + tuple(phrases)
    return _dataset(name, root, _pictures(instances, folder, omissions, truth, texts), omissions, describes=True)


def refcoco(root: Path) -> DataSet:
    """RefCOCO: see :func:`_refcoco`."""
    return _refcoco("refcoco", root)


def refcoco_plus(root: Path) -> DataSet:
    """RefCOCO+, whose phrases say no places: see :func:`_refcoco`."""
    return _refcoco("refcoco+", root)


def refcocog(root: Path) -> DataSet:
    """RefCOCOg, whose phrases are long: see :func:`_refcoco`."""
    return _refcoco("refcocog", root)
