"""The smallest PLUM and a random batch for it, for tests and smoke runs, never for results."""

from dataclasses import replace

import torch

from plum.config import (
    AdaptationConfig,
    CalicoConfig,
    CorrespondenceConfig,
    DinoConfig,
    FeedbackConfig,
    LanguageConfig,
    LlavaConfig,
    LoraConfig,
    ModelConfig,
    QFormerConfig,
    Sam2Config,
    SamConfig,
    SegTokenConfig,
    SpecialTokensConfig,
    TaggerConfig,
    VisionConfig,
)
from plum.inputs.bio_labels import Tag
from plum.inputs.image_transforms import segmenter_input
from plum.structures import IGNORE_INDEX, TEXT_ONLY, Batch, ConversationImages, SpanBounds

TINY_TOKENS = SpecialTokensConfig(image=3, pad=0, eos=2, suppressed=(0, 3))
"""Special tokens of `tiny_batch`."""
NUM_RESERVED_TOKENS = 4
PROMPT_LENGTH = 6
ANSWER_LENGTH = 12


def tiny_model_config(
    vocab_size: int,
    special_tokens: SpecialTokensConfig | None = None,
    lora: LoraConfig | None = None,
    feedback: FeedbackConfig | None = None,
    tagger: TaggerConfig | None = None,
) -> ModelConfig:
    """Return a configuration of about 0.1 M parameters: D 32, 4 image tokens, SAM at 32 px with a 4 x 4 grid.

    Args:
        vocab_size: V.
        special_tokens: None leaves them to `with_special_tokens`.
        lora: None: no adapters.
        feedback: None: on, 4 heads.
        tagger: None: bidirectional, 4 heads.
    """
    return ModelConfig(
        llava=LlavaConfig(
            vision=VisionConfig(
                image_size=16,
                patch_size=8,
                hidden_size=24,
                intermediate_size=48,
                num_layers=2,
                num_heads=2,
                fit="stretch",
            ),
            language=LanguageConfig(
                vocab_size=vocab_size,
                hidden_size=32,
                intermediate_size=64,
                num_layers=2,
                num_heads=4,
                num_key_value_heads=4,
                max_positions=512,
            ),
            conversation="plain",
            special_tokens=special_tokens,
        ),
        sam=SamConfig(
            image_size=32,
            patch_size=8,
            encoder_dim=32,
            encoder_depth=2,
            encoder_heads=2,
            encoder_global_blocks=(1,),
            encoder_window_size=3,
            prompt_dim=16,
            mask_in_channels=16,
            decoder_depth=2,
            decoder_heads=2,
            decoder_mlp_dim=32,
            position_init="sincos",
        ),
        tagger=tagger or TaggerConfig(num_heads=4, feedforward_dim=64),
        feedback=feedback or FeedbackConfig(num_heads=4),
        lora=lora,
    )


def tiny_sam2_config() -> Sam2Config:
    """Return a SAM 2 of about 30,000 parameters: 64 px, a 4 x 4 grid, C 16, four stages with one global block."""
    backbone = {
        "hidden_size": 8,
        "blocks_per_stage": [1, 1, 2, 1],
        "embed_dim_per_stage": [8, 16, 24, 32],
        "num_attention_heads_per_stage": [1, 1, 2, 2],
        "window_size_per_stage": [4, 4, 4, 2],
        "global_attention_blocks": [3],
    }
    return Sam2Config(
        model_type="sam2",
        image_size=64,
        prompt_dim=16,
        decoder_heads=2,
        decoder_mlp_dim=32,
        vision={"backbone_channel_list": [32, 24, 16, 8], "backbone_config": backbone},
    )


def tiny_calico_config(
    vocab_size: int,
    special_tokens: SpecialTokensConfig | None = None,
    lora: LoraConfig | None = None,
    calico: CalicoConfig | None = None,
) -> ModelConfig:
    """Return the configuration of a tiny CALICO: as `tiny_model_config`, with 3 tokens an image and a layer adapted.

    Args:
        vocab_size: V.
        special_tokens: None leaves them to `with_special_tokens`.
        lora: None: no adapters.
        calico: None: all parts, with DINOv2 of two layers.
    """
    config = tiny_model_config(vocab_size, special_tokens, lora, FeedbackConfig(is_enabled=False))
    calico = calico or CalicoConfig(
        embedding_size=20,
        qformer=QFormerConfig(num_layers=2, num_heads=2, intermediate_size=40),
        dino=DinoConfig(image_size=32, patch_size=8, hidden_size=16, num_layers=2, num_heads=2, use_swiglu=False),
        correspondence=CorrespondenceConfig(num_heads=2),
        adaptation=AdaptationConfig(num_modules=1),
    )
    vision = replace(config.of_llava.vision, num_query_tokens=None if calico.qformer is None else 3)
    return replace(
        config,
        system="calico",
        calico=calico,
        tagger=None,
        seg_token=SegTokenConfig(),
        llava=replace(config.of_llava, vision=vision, projector="linear"),
    )


def tiny_batch(
    config: ModelConfig,
    spans_of_conversations: tuple[int, ...],
    generator: torch.Generator,
    conversations_per_image: int = 1,
) -> Batch:
    """Return random conversations, images and masks that fit a tiny model.

    Args:
        config: from `tiny_model_config`, with TINY_TOKENS.
        spans_of_conversations: spans (up to 4) of each conversation; TEXT_ONLY (-1): no image and no span.
        generator: source of all randomness.
        conversations_per_image: number of successive conversations that share an image and their beginning. Image i has
            20 + 2 i by 32 pixels.
    """
    pictured = [row for row, count in enumerate(spans_of_conversations) if count != TEXT_ONLY]
    num_patches, vocab_size = config.of_llava.vision.num_image_tokens, config.language.vocab_size
    length = 1 + num_patches + PROMPT_LENGTH + ANSWER_LENGTH
    answer = slice(length - ANSWER_LENGTH, length)
    shape = (len(spans_of_conversations), length)
    input_ids = torch.randint(NUM_RESERVED_TOKENS, vocab_size, shape, generator=generator)
    input_ids[pictured, 1 : 1 + num_patches] = TINY_TOKENS.image
    images = [pictured[i : i + conversations_per_image] for i in range(0, len(pictured), conversations_per_image)]
    for rows in images:
        input_ids[rows, 0] = int(input_ids[rows[0], 0])
    labels, tags = torch.full(shape, IGNORE_INDEX), torch.full(shape, IGNORE_INDEX)
    labels[:, answer], tags[:, answer] = input_ids[:, answer], Tag.O
    starts = [(row, answer.start + 3 * i) for row in pictured for i in range(spans_of_conversations[row])]
    bounds = torch.tensor(starts, dtype=torch.long).reshape(-1, 2)
    tags[bounds[:, 0], bounds[:, 1]], tags[bounds[:, 0], bounds[:, 1] + 1] = Tag.B, Tag.I
    image_index = torch.full(shape[:1], TEXT_ONLY)
    for image, rows in enumerate(images):
        image_index[rows] = image
    frames = tuple(segmenter_input(config.sam).frame(20 + 2 * i, 32) for i in range(len(images)))
    clip_side, sam_side = config.of_llava.vision.image_size, config.sam.image_size
    grid = sam_side // config.sam.patch_size
    return Batch(
        sample_ids=tuple(f"tiny-{row}" for row in range(shape[0])),
        input_ids=input_ids,
        attention_mask=torch.ones(shape, dtype=torch.long),
        labels=labels,
        tags=tags,
        spans=SpanBounds(bounds[:, 0], bounds[:, 1], bounds[:, 1] + 2, image_index[bounds[:, 0]]),
        clip_pixels=torch.randn(len(images), 3, clip_side, clip_side, generator=generator),
        sam_pixels=torch.randn(len(images), 3, sam_side, sam_side, generator=generator),
        frames=frames,
        shown=ConversationImages(
            image_index[:, None], (num_patches,) * len(images), torch.full(shape[:1], answer.start - 1)
        ),
        masks=tuple(torch.rand(frames[image_index[row]].original, generator=generator) > 0.5 for row, _ in starts),
        ignore_masks=(None,) * len(images),
        part_maps=torch.zeros(len(images), grid, grid, dtype=torch.long),
    )
