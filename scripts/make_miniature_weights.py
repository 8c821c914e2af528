"""LLaVA and SAM of a few hundred thousand random weights, in the files that are published (scripts/miniature_path.sh).

`python scripts/make_miniature_weights.py --output weights` writes weights/llava-miniature (a llava-hf folder with CLIP
inside) and weights/sam_miniature.pth, for `python -m plum convert-llava`; their sizes are in
configs/overlays/miniature.yaml.
"""

import argparse
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

import sentencepiece
import torch
import yaml
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from plum.data.conversation import TEMPLATES
from plum.data.readers.label_maps import NAMES_FILE
from plum.data.sources import wordings
from plum.models.sam import ImageEncoderViT, MaskDecoder, PromptEncoder, TwoWayTransformer

VOCABULARY = 500
"""Pieces; the converter appends `<image>` and padding and grows the embeddings to 512 rows."""
PLACEHOLDER = 7
"""Stands for the image in the stock model's ids: the vocabulary has no `<image>`."""
SAM_SIZE, SAM_GRID, SAM_WIDTH, SAM_PROMPT = 64, 4, 64, 32


def write_llava(folder: Path) -> None:
    """A llava-hf folder: safetensors, config.json, SentencePiece tokenizer."""
    vision = CLIPVisionConfig(
        image_size=28,
        patch_size=14,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=3,
        num_attention_heads=2,
    )
    text = LlamaConfig(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=1024,
        rms_norm_eps=1e-5,
    )
    config = LlavaConfig(
        vision_config=vision,
        text_config=text,
        image_token_index=PLACEHOLDER,
        projector_hidden_act="gelu",
        vision_feature_layer=-2,
        vision_feature_select_strategy="default",
        image_seq_length=4,
    )
    LlavaForConditionalGeneration(config).save_pretrained(folder)
    (folder / "tokenizer.model").write_bytes(train_sentencepiece())
    settings = {"tokenizer_class": "LlamaTokenizer", "bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"pad_token": None}), encoding="utf-8")


def train_sentencepiece() -> bytes:
    """A tokenizer of LLaMA's kind (BPE, bytes for unknown characters) on what templates, wordings and classes say."""
    names: dict[str, Sequence[str]] = yaml.safe_load(NAMES_FILE.read_text(encoding="utf-8"))
    texts = [template.opening + template.before_answer for template in TEMPLATES.values()]
    texts += [name for group in names.values() for name in group]
    texts += [text for value in vars(wordings).values() if isinstance(value, tuple) for text in value]
    written = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(text for text in texts for _ in range(3)),
        model_writer=written,
        vocab_size=VOCABULARY,
        model_type="bpe",
        byte_fallback=True,
        character_coverage=1.0,
        split_digits=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    return written.getvalue()


def write_sam(path: Path) -> None:
    """`sam_vit_*.pth` of segment-anything's own modules."""
    modules = {
        "image_encoder": ImageEncoderViT(
            img_size=SAM_SIZE,
            patch_size=SAM_SIZE // SAM_GRID,
            embed_dim=SAM_WIDTH,
            depth=2,
            num_heads=2,
            out_chans=SAM_PROMPT,
            norm_layer=lambda width: torch.nn.LayerNorm(width, eps=1e-6),
            use_rel_pos=True,
            window_size=2,
            global_attn_indexes=(1,),
        ),
        "prompt_encoder": PromptEncoder(SAM_PROMPT, (SAM_GRID, SAM_GRID), (SAM_SIZE, SAM_SIZE), mask_in_chans=16),
        "mask_decoder": MaskDecoder(
            transformer_dim=SAM_PROMPT,
            transformer=TwoWayTransformer(depth=2, embedding_dim=SAM_PROMPT, num_heads=8, mlp_dim=64),
            iou_head_hidden_dim=SAM_PROMPT,  # as in SAM, the prompt's width
        ),
    }
    state = {f"{prefix}.{name}": value for prefix, one in modules.items() for name, value in one.state_dict().items()}
    torch.save(state, path)


def main() -> None:
    """Write both and say how they are converted."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--output", required=True, type=Path, help="folder for both")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    llava, sam = arguments.output / "llava-miniature", arguments.output / "sam_miniature.pth"
    if llava.exists() or sam.exists():
        parser.error(f"{arguments.output} holds miniature weights already")
    torch.manual_seed(arguments.seed)
    llava.mkdir(parents=True)
    write_llava(llava)
    write_sam(sam)
    print(f"python -m plum convert-llava {llava} DESTINATION --sam {sam} --conversation llava_llama_2")


if __name__ == "__main__":
    main()
