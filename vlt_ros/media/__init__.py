# SPDX-License-Identifier: Apache-2.0
"""Images in and out: videos, folders and cameras as frames; drawing, film and contact sheet for people."""

from vlt_ros.media.drawing import ContactSheet, Shown, VideoFile, annotate, make_folder, save_image
from vlt_ros.media.errors import MediaError
from vlt_ros.media.sources import Frame, Source, open_source

__all__ = ["ContactSheet", "Frame", "MediaError", "Shown", "Source", "VideoFile", "annotate", "make_folder",
           "open_source", "save_image"]
