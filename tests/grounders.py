# SPDX-License-Identifier: Apache-2.0
"""The real detectors' classes at their smallest, with random weights and real processors, saved as users have them."""

from __future__ import annotations

import json
from pathlib import Path

import torch


def _randomised(model, scale: float = 0.1):
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += scale * torch.randn(parameter.shape, generator=generator)
    return model.eval()


def grounding_dino(folder: Path) -> Path:
    """A Grounding DINO with MiniLM's package's BERT vocabulary."""
    from transformers import (
        BertTokenizerFast,
        GroundingDinoConfig,
        GroundingDinoForObjectDetection,
        GroundingDinoImageProcessor,
        GroundingDinoProcessor,
        SwinConfig,
    )

    from vlt_ros.networks.text import minilm_folder

    swin = SwinConfig(image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=2,
                      out_features=["stage2", "stage3", "stage4"])
    text = {"model_type": "bert", "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
            "intermediate_size": 32, "max_position_embeddings": 64}
    config = GroundingDinoConfig(
        backbone_config=swin, text_config=text, d_model=32, num_queries=12, encoder_layers=1, encoder_ffn_dim=32,
        encoder_attention_heads=2, decoder_layers=2, decoder_ffn_dim=32, decoder_attention_heads=2, max_text_len=64,
        num_feature_levels=4)
    torch.manual_seed(0)
    _randomised(GroundingDinoForObjectDetection(config)).save_pretrained(folder)
    tokenizer = BertTokenizerFast.from_pretrained(minilm_folder())
    image = GroundingDinoImageProcessor(size={"shortest_edge": 64, "longest_edge": 96})
    GroundingDinoProcessor(image, tokenizer).save_pretrained(folder)
    return folder


def owlv2(folder: Path) -> Path:
    """An OWLv2 whose CLIP tokenizer knows letters only."""
    from transformers import CLIPTokenizer, Owlv2Config, Owlv2ForObjectDetection, Owlv2ImageProcessor, Owlv2Processor

    folder.mkdir(parents=True, exist_ok=True)
    letters = [chr(c) for c in range(33, 127)]
    words = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({word: i for i, word in enumerate(words)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    tokenizer = CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=16)
    common = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = Owlv2Config(
        text_config=common | {"vocab_size": len(words), "max_position_embeddings": 16,
                              "bos_token_id": len(words) - 2, "eos_token_id": len(words) - 1,
                              "pad_token_id": len(words) - 1},
        vision_config=common | {"image_size": 48, "patch_size": 16}, projection_dim=16)
    torch.manual_seed(0)
    _randomised(Owlv2ForObjectDetection(config), scale=0.03).save_pretrained(folder)
    Owlv2Processor(Owlv2ImageProcessor(size={"height": 48, "width": 48}), tokenizer).save_pretrained(folder)
    return folder


MAKERS = {"grounding-dino": grounding_dino, "owlv2": owlv2}
