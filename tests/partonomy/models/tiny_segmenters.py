"""Model folders of transformers' open-vocabulary detectors and segmenters with random weights, made offline."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, processors
from transformers import (
    BertConfig,
    BertTokenizerFast,
    CLIPSegConfig,
    CLIPSegForImageSegmentation,
    CLIPTextConfig,
    GroundingDinoConfig,
    GroundingDinoForObjectDetection,
    MMGroundingDinoConfig,
    MMGroundingDinoForObjectDetection,
    Owlv2Config,
    Owlv2ForObjectDetection,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Sam2Config,
    Sam2HieraDetConfig,
    Sam2MaskDecoderConfig,
    Sam2Model,
    Sam2PromptEncoderConfig,
    Sam2VideoConfig,
    Sam2VideoModel,
    Sam2VisionConfig,
    Sam3Config,
    Sam3Model,
    SamConfig,
    SamMaskDecoderConfig,
    SamModel,
    SamPromptEncoderConfig,
    SamVisionConfig,
    SwinConfig,
)
from transformers.models.grounding_dino.image_processing_pil_grounding_dino import GroundingDinoImageProcessorPil
from transformers.models.owlv2.image_processing_pil_owlv2 import Owlv2ImageProcessorPil
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

WORDS = ("wheel", "wing", "tail", "fin", "door", "propeller", "engine", "hull", "mast", "rudder", "left", "the")
SCALE = 6.0
"""Factor on the random weights of the layers that decide, so that phrases and places matter."""


def save_grounding_dino(folder: Path, is_mm: bool = False) -> Path:
    """Grounding DINO: a Swin backbone of two feature maps, BERT of one layer, two decoder layers (heads are tied).

    MM-Grounding-DINO has the same configuration.
    """
    special = ["[PAD]"] + [f"[unused{number}]" for number in range(99)] + ["[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    letters = [chr(code) for code in range(ord("a"), ord("z") + 1)]
    vocabulary = {word: number for number, word in enumerate(special)}  # [CLS] is 101 and [SEP] 102, as in BERT
    for word in (*letters, *(f"##{letter}" for letter in letters), *WORDS):
        vocabulary.setdefault(word, len(vocabulary))
    vocabulary |= {f"[unused{number}]": number for number in range(len(vocabulary), 1012)} | {".": 1012, "?": 1029}
    vocabulary |= {f"[unused{number}]": number for number in range(1013, 1029)}
    tokenizer = BertTokenizerFast(vocab=vocabulary, do_lower_case=True)
    torch.manual_seed(0)
    config = (MMGroundingDinoConfig if is_mm else GroundingDinoConfig)(
        backbone_config=SwinConfig(
            image_size=64, patch_size=4, embed_dim=8, depths=[1, 1], num_heads=[1, 1], window_size=4,
            out_features=["stage1", "stage2"],
        ),
        text_config=BertConfig(
            vocab_size=1030, hidden_size=16, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
        ),
        d_model=32, encoder_layers=1, encoder_ffn_dim=32, encoder_attention_heads=4, decoder_layers=2,
        decoder_ffn_dim=32, decoder_attention_heads=4, num_queries=12, num_feature_levels=3,
    )  # fmt: skip
    model = MMGroundingDinoForObjectDetection(config) if is_mm else GroundingDinoForObjectDetection(config)
    with torch.no_grad():
        for layer in (model.model.text_projection, model.model.enc_output):
            layer.weight *= SCALE
        for head in (model.bbox_embed[0].layers[-1], model.model.encoder_output_bbox_embed.layers[-1]):
            torch.nn.init.normal_(head.weight, std=0.5)
    _save(model, folder)
    tokenizer.save_pretrained(folder)
    GroundingDinoImageProcessorPil(size={"shortest_edge": 48, "longest_edge": 80}).save_pretrained(folder)
    return folder


def save_sam2(folder: Path) -> Path:
    """SAM 2: 64 x 64 pixels, four stages; no stage begins with a block of global attention."""
    torch.manual_seed(1)
    backbone = Sam2HieraDetConfig(
        image_size=[64, 64], hidden_size=8, blocks_per_stage=[1, 1, 2, 1], embed_dim_per_stage=[8, 16, 32, 64],
        num_attention_heads_per_stage=[1, 1, 2, 2], window_size_per_stage=[4, 4, 4, 2], global_attention_blocks=[3],
        window_positional_embedding_background_size=[4, 4],
    )  # fmt: skip
    vision = Sam2VisionConfig(
        backbone_config=backbone,
        backbone_channel_list=[64, 32, 16, 8],
        backbone_feature_sizes=[[16, 16], [8, 8], [4, 4]],
        fpn_hidden_size=32,
    )
    decoder = Sam2MaskDecoderConfig(hidden_size=32, mlp_dim=32, num_attention_heads=2, iou_head_hidden_dim=16)
    prompts = Sam2PromptEncoderConfig(hidden_size=32, image_size=64, patch_size=16, mask_input_channels=4)
    config = Sam2Config(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
    model = Sam2Model(config)
    with torch.no_grad():
        for name, parameter in model.mask_decoder.named_parameters():
            if "weight" in name and parameter.dim() > 1:
                parameter.mul_(SCALE)
    return _save(model, folder)


def save_sam2_video(folder: Path, image_model: Path) -> Path:
    """The published form of SAM 2: a video model, here around the weights of an image model."""
    model = Sam2Model.from_pretrained(image_model)
    parts = {name: getattr(model.config, name).to_dict() for name in model.config.sub_configs}
    config = Sam2VideoConfig(
        **parts, image_size=64, memory_attention_hidden_size=32, memory_attention_num_layers=1,
        memory_attention_feed_forward_hidden_size=32, memory_attention_rope_feat_sizes=[4, 4],
        memory_encoder_hidden_size=32, memory_encoder_output_channels=16, memory_fuser_embed_dim=32,
        memory_fuser_intermediate_dim=32, memory_fuser_num_layers=1, mask_downsampler_embed_dim=32,
    )  # fmt: skip
    video = Sam2VideoModel(config)
    assert not video.load_state_dict(model.state_dict(), strict=False).unexpected_keys
    return _save(video, folder)


def save_sam1(folder: Path) -> Path:
    """The first SAM, to be refused."""
    vision = SamVisionConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, image_size=32, patch_size=16, output_channels=8,
        mlp_dim=8, global_attn_indexes=[0], window_size=2,
    )  # fmt: skip
    prompts = SamPromptEncoderConfig(hidden_size=8, image_size=32, patch_size=16, mask_input_channels=4)
    decoder = SamMaskDecoderConfig(hidden_size=8, mlp_dim=8, num_attention_heads=1, iou_head_hidden_dim=8)
    config = SamConfig(vision_config=vision, prompt_encoder_config=prompts, mask_decoder_config=decoder)
    return _save(SamModel(config), folder)


def save_sam3(folder: Path) -> Path:
    """SAM 3: 56 x 56 pixels in 4 x 4 patches, 10 queries."""
    torch.manual_seed(2)
    size = {"hidden_size": 32, "num_attention_heads": 2}
    layers = size | {"num_layers": 1, "intermediate_size": 32}
    config = Sam3Config(
        vision_config={
            "backbone_config": {
                "model_type": "sam3_vit_model", "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2,
                "num_attention_heads": 2, "image_size": 56, "patch_size": 14, "window_size": 2,
                "global_attn_indexes": [1], "pretrain_image_size": 28,
            },
            "fpn_hidden_size": 32,
            "backbone_feature_sizes": [[16, 16], [8, 8], [4, 4]],
        },
        text_config={
            "model_type": "clip_text_model", "vocab_size": 64, "hidden_size": 16, "intermediate_size": 32,
            "projection_dim": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 8,
            "bos_token_id": 3, "eos_token_id": 4, "pad_token_id": 4, "initializer_range": 0.5,
        },
        geometry_encoder_config=layers,
        detr_encoder_config=layers,
        detr_decoder_config=layers | {"num_queries": 10},
        mask_decoder_config=size,
    )  # fmt: skip
    model = Sam3Model(config)
    with torch.no_grad():
        for part in (model.text_projection, model.mask_decoder.instance_projection, model.dot_product_scoring):
            for parameter in part.parameters():
                parameter.mul_(4 * SCALE)
        model.detr_decoder.query_embed.weight.normal_(std=2.0)
    _save(model, folder)
    clip_tokenizer(8).save_pretrained(folder)
    return folder


def save_clipseg(folder: Path) -> Path:
    """CLIPSeg: 32 x 32 pixels in 4 x 4 patches."""
    torch.manual_seed(3)
    config = CLIPSegConfig(
        text_config=_clip_text(8),
        vision_config={
            "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 3, "num_attention_heads": 2,
            "image_size": 32, "patch_size": 8, "initializer_range": 0.5,
        },
        projection_dim=16, reduce_dim=8, extract_layers=[0, 1, 2], decoder_num_attention_heads=2,
        decoder_intermediate_size=16, conditional_layer=0,
    )  # fmt: skip
    model = CLIPSegForImageSegmentation(config)
    with torch.no_grad():
        for parameter in model.decoder.parameters():
            parameter.normal_(std=0.5)
        model.clip.text_model.embeddings.token_embedding.weight.mul_(SCALE)
    _save(model, folder)
    clip_tokenizer(8).save_pretrained(folder)
    ViTImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def save_owlv2(folder: Path) -> Path:
    """OWLv2: 32 x 32 pixels in 4 x 4 patches, texts of at most 6 tokens."""
    torch.manual_seed(4)
    config = Owlv2Config(
        text_config=_clip_text(6),
        vision_config={
            "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2,
            "image_size": 32, "patch_size": 8, "initializer_range": 0.5,
        },
        projection_dim=16,
    )  # fmt: skip
    model = Owlv2ForObjectDetection(config)
    with torch.no_grad():
        for parameter in model.class_head.parameters():
            parameter.normal_(std=0.7)
        model.owlv2.text_model.embeddings.token_embedding.weight.mul_(SCALE)
        for parameter in model.box_head.parameters():
            parameter.normal_(std=0.3)
    _save(model, folder)
    clip_tokenizer(6).save_pretrained(folder)
    Owlv2ImageProcessorPil(size={"height": 32, "width": 32}).save_pretrained(folder)
    return folder


def clip_tokenizer(max_length: int) -> PreTrainedTokenizerFast:
    """A tokenizer of whole words and letters with CLIP's frame of begin and end tokens, lower case."""
    words = ["!", "#", "$", "<|startoftext|>", "<|endoftext|>", "<unk>", *WORDS]  # OWLv2 skips texts that begin with 0
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    backend.normalizer = normalizers.Lowercase()
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    backend.post_processor = processors.TemplateProcessing(
        single="<|startoftext|> $A <|endoftext|>", special_tokens=[("<|startoftext|>", 3), ("<|endoftext|>", 4)]
    )
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<|startoftext|>", eos_token="<|endoftext|>", pad_token="<|endoftext|>",
        unk_token="<unk>", model_max_length=max_length,
    )  # fmt: skip


def _clip_text(max_length: int) -> dict[str, object]:
    config = CLIPTextConfig(
        vocab_size=64, hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
        max_position_embeddings=max_length, bos_token_id=3, eos_token_id=4, pad_token_id=4, initializer_range=0.5,
    )  # fmt: skip
    return {key: value for key, value in config.to_dict().items() if key != "model_type"}


def _save(model: PreTrainedModel, folder: Path) -> Path:
    model.save_pretrained(folder)
    return folder
