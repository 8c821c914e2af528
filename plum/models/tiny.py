"""The smallest PLUM: for tests and smoke runs, never for numbers."""

from plum.config import (
    FeedbackConfig,
    LanguageConfig,
    LlavaConfig,
    LoraConfig,
    ModelConfig,
    SamConfig,
    SpecialTokensConfig,
    TaggerConfig,
    VisionConfig,
)


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
