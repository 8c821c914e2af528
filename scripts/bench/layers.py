"""Times the decoder's layers under the caller's attention: transformers' registry against a loop written by hand.

python scripts/bench/layers.py [--widths 256,1024,2048] [--tokens 32,256] [--layers 8] [--repeats 9]

`registry` is `Backbone.run_layers`, which runs the stock decoder of any family; `loop` does LLaMA's layers one by one,
as PLUM did while LLaMA was its only decoder. Both attend through the same function. The ways take turns in one process;
the numbers are medians of CPU seconds. The last line is JSON: by width and number of tokens, both times, `ratio` (loop
/ registry; 1 or more: the registry is not slower) and the largest deviation of a state.
"""

import json
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from jsonargparse import CLI
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention
from transformers.models.llama.modeling_llama import apply_rotary_pos_emb

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from plum.config import LanguageConfig, LlavaConfig, SpecialTokensConfig, VisionConfig
from plum.models.backbones.llava import LlavaBackbone, build_llava

HEAD = 64


def main(
    *, widths: str = "256,1024,2048", tokens: str = "32,256", layers: int = 8, repeats: int = 9, seed: int = 0
) -> None:
    """Print a table, and one JSON line last.

    Args:
        widths: Of the decoder's states.
        tokens: Numbers of tokens of a call.
        layers: Of the decoder.
        repeats: Timed calls of each way, in turn.
        seed: Of weights and states.
    """
    result: dict[str, dict[str, float]] = {}
    print(f"{'width':>8}{'tokens':>8}{'loop':>12}{'registry':>12}{'ratio':>8}")
    for width in map(int, widths.split(",")):
        torch.manual_seed(seed)
        backbone = build(width, layers)
        for number in map(int, tokens.split(",")):
            found = compare(backbone, number, repeats)
            result[f"{width} wide, {number} tokens"] = found
            times = f"{1000 * found['loop_seconds']:>10.2f}ms{1000 * found['registry_seconds']:>10.2f}ms"
            print(f"{width:>8}{number:>8}{times}{found['ratio']:>8.2f}")
    print(json.dumps({"threads": torch.get_num_threads(), "layers": layers, **result}))


def build(width: int, layers: int) -> LlavaBackbone:
    """Build a LLaVA whose decoder has random weights of the given width."""
    heads = width // HEAD
    language = LanguageConfig(64, width, 11 * width // 4, layers, heads, heads)
    vision = VisionConfig(16, 8, 24, 48, 1, 2, select_layer=-1, fit="stretch")
    tokens = SpecialTokensConfig(image=3, pad=0, eos=2)
    return build_llava(LlavaConfig(vision, language, special_tokens=tokens), None).eval()


@torch.inference_mode()
def compare(backbone: LlavaBackbone, tokens: int, repeats: int) -> dict[str, float]:
    """Time both ways over the same states."""
    embeddings, positions = torch.randn(tokens, backbone.hidden_size), torch.arange(tokens)

    def registry() -> Tensor:
        return backbone.run_layers(embeddings, positions, attend)

    def loop() -> Tensor:
        return run_layers(backbone, embeddings, positions)

    deviation = float((registry() - loop()).abs().max())
    ways: dict[str, Callable[[], Tensor]] = {"loop": loop, "registry": registry}
    times: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            started = time.process_time()
            way()
            times[name].append(time.process_time() - started)
    seconds = {f"{name}_seconds": statistics.median(values) for name, values in times.items()}
    ratio = seconds["loop_seconds"] / seconds["registry_seconds"]
    return {**seconds, "ratio": ratio, "deviation": deviation}


def attend(_layer: int, queries: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """Attend causally among [n, heads, d]."""
    query, key, value = (states.transpose(0, 1)[None] for states in (queries, keys, values))
    return scaled_dot_product_attention(query, key, value, is_causal=True)[0].transpose(0, 1)


def run_layers(backbone: LlavaBackbone, embeddings: Tensor, positions: Tensor) -> Tensor:
    """Run LLaMA's layers one by one over [n, D]."""
    model = backbone.stock.model.language_model
    cosine, sine = model.rotary_emb(embeddings, positions[None])  # [1, n, d]
    states = embeddings
    for number, layer in enumerate(model.layers):
        attention, normed = layer.self_attn, layer.input_layernorm(states)
        queries, keys, values = (
            project(normed).unflatten(-1, (-1, attention.head_dim))  # [n, heads, d]
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        queries, keys = apply_rotary_pos_emb(queries, keys, cosine[0], sine[0], unsqueeze_dim=1)
        states = states + attention.o_proj(attend(number, queries, keys, values).flatten(1))
        states = states + layer.mlp(layer.post_attention_layernorm(states))
    return model.norm(states)


if __name__ == "__main__":
    CLI(main, as_positional=False)
