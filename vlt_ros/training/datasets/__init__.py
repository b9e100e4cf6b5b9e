# SPDX-License-Identifier: Apache-2.0
"""The data sets that the field trains on, in their official layouts, all read into one form.

Only lists and annotations are read at the start, pictures when a sample wants them. What a data set lacks or holds
broken is left out and counted in one line of the log; what it cannot do without is a :class:`DataSetError`.
"""

from __future__ import annotations

from pathlib import Path

from vlt_ros.training.datasets import pictures, videos
from vlt_ros.training.datasets.form import DataSet, DataSetError, Frames, Picture, Thing, Video, is_heldout, part
from vlt_ros.training.datasets.given import stills_and_clips

READERS = {"lasot": videos.lasot, "lasotext": videos.lasotext, "got10k": videos.got10k,
           "trackingnet": videos.trackingnet, "tnl2k": videos.tnl2k, "otb99": videos.otb99, "webuav": videos.webuav,
           "coco": pictures.coco, "refcoco": pictures.refcoco, "refcoco+": pictures.refcoco_plus,
           "refcocog": pictures.refcocog, "clips": videos.clips}

__all__ = ["READERS", "DataSet", "DataSetError", "Frames", "Picture", "Thing", "Video", "is_heldout", "part",
           "read_datasets", "stills_and_clips"]


def read_datasets(roots: dict[str, str | Path]) -> list[DataSet]:
    """Read the data sets {name: folder}; names: the keys of :data:`READERS`.

    Raises:
        DataSetError: an unknown name, or something needed is missing.
    """
    unknown = sorted(set(roots) - set(READERS))
    if unknown:
        raise DataSetError(f"data sets {unknown} are unknown: known are {', '.join(READERS)}")
    return [READERS[name](Path(root).expanduser()) for name, root in roots.items()]
