# SPDX-License-Identifier: Apache-2.0
"""Open-vocabulary detectors that propose where a sentence's target is: Grounding DINO and OWLv2, optional.

Liu et al., "Grounding DINO", ECCV 2024; Minderer et al., "Scaling Open-Vocabulary Object Detection" (OWLv2), NeurIPS
2023, through transformers. They are large and slow, and see one picture at a time: a tracker asks one once a sweep of
its search and checks what it proposes with its own network.
"""

from __future__ import annotations

import math
import re
from pathlib import Path

import cv2
import numpy as np
import torch

from vlt_ros.networks.checkpoints import WeightsError

# transformers' names of the kinds that are known, and a published one of each for the message that one is missing.
KINDS = {"grounding-dino": "IDEA-Research/grounding-dino-tiny", "owlv2": "google/owlv2-base-patch16-ensemble"}
# Smaller boxes, in pixels a side, are no target.
MIN_SIDE = 2.0

Box = tuple[float, float, float, float]


class Grounder:
    """A detector of a sentence's target; see :func:`load_grounder`. It runs in float32."""

    def __init__(self, model, processor, device: torch.device) -> None:
        self.model, self.processor, self.device = model.to(device, torch.float32).eval(), processor, device
        config = model.config
        # OWLv2 cannot take more word pieces than it has positions (16).
        self._max_words = min(config.text_config.max_position_embeddings, getattr(config, "max_text_len", 256))

    def to(self, device: torch.device | str) -> None:
        """Move it to another device."""
        self.model.to(device)
        self.device = torch.device(device)

    @torch.inference_mode()
    def ground(self, image: np.ndarray, text: str) -> list[tuple[Box, float]]:
        """Where a sentence's target may be, best first; only what the detector's own threshold lets through.

        Args:
            image: BGR uint8 (H, W, 3). text: the sentence.

        Returns:
            boxes x, y, width, height in pixels, cut to the image, each with its confidence in [0, 1].
        """
        height, width = image.shape[:2]
        # Grounding DINO takes full stops for ends of phrases, and was trained on lower case.
        phrase = " ".join(text.lower().replace(".", " ").split())
        inputs = self.processor(images=[cv2.cvtColor(image, cv2.COLOR_BGR2RGB)], text=[[phrase]], truncation=True,
                                max_length=self._max_words, return_tensors="pt").to(self.device)
        outputs = self.model(**inputs)
        found = self.processor.post_process_grounded_object_detection(outputs, target_sizes=[(height, width)])[0]
        proposals = []
        for corners, confidence in zip(found["boxes"].tolist(), found["scores"].tolist(), strict=True):
            if not math.isfinite(sum(corners) + confidence):
                continue
            left, top, right, bottom = (min(max(value, 0.0), float(limit)) for value, limit
                                        in zip(corners, (width, height, width, height), strict=True))
            if right - left >= MIN_SIDE and bottom - top >= MIN_SIDE:
                proposals.append(((left, top, right - left, bottom - top), confidence))
        return sorted(proposals, key=lambda proposal: -proposal[1])


def load_grounder(name: str, device: torch.device | str = "cpu") -> Grounder:
    """A detector that is on this machine already; nothing is downloaded, no code and no pickle that it may hold is run.

    Args:
        name: a folder as transformers saves it, or a hub id (OWNER/NAME) that is in the hub's cache.
        device: where it runs, the tracker's network's.

    Raises:
        WeightsError: it is not there (the message has the command that fetches it), damaged, or of another kind.
    """
    from safetensors import SafetensorError
    from transformers import AutoConfig, AutoModelForZeroShotObjectDetection, AutoProcessor
    from transformers.utils import logging

    folder, fetch = _find(name)
    local = {"local_files_only": True, "trust_remote_code": False}
    level = logging.get_verbosity()
    logging.set_verbosity_error()           # it tells of torchvision, which is not needed
    logging.disable_progress_bar()
    try:
        kind = AutoConfig.from_pretrained(folder, **local).model_type
        if kind not in KINDS:
            raise WeightsError(f"grounder {folder} is a {kind}: known are {', '.join(KINDS)}")
        model, report = AutoModelForZeroShotObjectDetection.from_pretrained(
            folder, use_safetensors=True, output_loading_info=True, **local)
        lacking = sorted(report["missing_keys"])
        if lacking:
            raise WeightsError(f"grounder {folder} lacks {len(lacking)} tensors, {lacking[0]} first: {fetch}")
        grounder = Grounder(model, AutoProcessor.from_pretrained(folder, **local), torch.device(device))
        # What it lacks for its first picture is said now, not when the first command comes.
        grounder.ground(np.zeros((64, 96, 3), np.uint8), "the target")
    except ImportError as error:
        package = re.search(r"pip install (\S+)", str(error))
        raise WeightsError(f"grounder {folder} needs a package that is not installed: pip install "
                           f"{package[1].strip('`') if package else error.name or 'vlt-ros[grounder]'}") from error
    except WeightsError:
        raise
    except (OSError, ValueError, RuntimeError, KeyError, TypeError, AttributeError, SafetensorError) as error:
        reason = " ".join(str(error).split())[:200]
        raise WeightsError(f"grounder {folder} cannot be read ({reason}): {fetch}") from error
    finally:
        logging.set_verbosity(level)
    return grounder


def _find(name: str) -> tuple[Path, str]:
    """The folder of a grounder, and what to do when it is of no use."""
    folder = Path(name).expanduser()
    is_id = re.fullmatch(r"[\w-]+/[\w.-]+", name) is not None
    if folder.is_dir() or not is_id:
        fetch = f"fetch one once with: hf download {KINDS['grounding-dino']} --local-dir {folder}"
        if not (folder / "config.json").is_file():
            raise WeightsError(f"grounder folder {folder} has no config.json: {fetch}" if folder.is_dir() else
                               f"grounder folder {folder} is missing: {fetch}")
        return folder, fetch
    from huggingface_hub import constants, snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError

    fetch = f"fetch it once with: hf download {name}"
    try:
        return Path(snapshot_download(name, local_files_only=True)), fetch
    except (LocalEntryNotFoundError, HfHubHTTPError, OSError, ValueError) as error:
        cached = Path(constants.HF_HUB_CACHE) / f"models--{name.replace('/', '--')}"
        raise WeightsError(f"grounder {name} is neither a folder nor in the hub's cache as {cached}: "
                           f"{fetch}") from error
