"""Tables from the names of LLaVA's tensors in published checkpoints to plum's names.

There is one two-column table per published layout: transformers' names (llava-hf), as its versions 4 and 5 write them,
and the original LLaVA code's (liuhaotian), with or without CLIP, with one or two projector layers. `{}` is a layer's
number. A name that is in no table is an error, so that nothing is skipped silently.
"""

import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType
from typing import Literal

LANGUAGE_KEYS = (
    "embed_tokens.weight",
    "layers.{}.input_layernorm.weight",
    "layers.{}.self_attn.q_proj.weight",
    "layers.{}.self_attn.k_proj.weight",
    "layers.{}.self_attn.v_proj.weight",
    "layers.{}.self_attn.o_proj.weight",
    "layers.{}.post_attention_layernorm.weight",
    "layers.{}.mlp.gate_proj.weight",
    "layers.{}.mlp.up_proj.weight",
    "layers.{}.mlp.down_proj.weight",
    "norm.weight",
)
VISION_KEYS = (
    "embeddings.class_embedding",
    "embeddings.patch_embedding.weight",
    "embeddings.position_embedding.weight",
    *(f"{norm}.{kind}" for norm in ("pre_layrnorm", "post_layernorm") for kind in ("weight", "bias")),
    *(
        f"encoder.layers.{{}}.{module}.{kind}"
        for module in (
            "layer_norm1",
            *(f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")),
            "layer_norm2",
            "mlp.fc1",
            "mlp.fc2",
        )
        for kind in ("weight", "bias")
    ),
)
OWN_NETWORK = "llava.network."
OWN_LANGUAGE = f"{OWN_NETWORK}model.language_model."
OWN_VISION = f"{OWN_NETWORK}model.vision_tower."
OWN_PROJECTOR = f"{OWN_NETWORK}model.multi_modal_projector."
EMBEDDING = f"{OWN_LANGUAGE}embed_tokens.weight"
HEAD = f"{OWN_NETWORK}lm_head.weight"
_LAYER_NUMBER = re.compile(r"(?:(?<=\blayers\.)|(?<=\blayer\.))\d+(?=\.)")


@dataclass(frozen=True)
class Dropped:
    """Tensors that are left out: their published name, or a prefix of it, and why.

    Attributes:
        name: with `{}` for a layer's number; a prefix unless `is_whole`.
        reason: shown to the user.
        is_whole: the name has nothing after it.
    """

    name: str
    reason: str
    is_whole: bool = False

    @property
    def label(self) -> str:
        """The name for messages."""
        return self.name if self.is_whole else f"{self.name}*"


def describe_dropped(rows: Iterable[Dropped | None]) -> tuple[str, ...]:
    """List what is left out, with the reasons, from the row of each tensor (None: it is kept)."""
    counts = Counter(row for row in rows if row is not None)
    return tuple(f"Left out: {row.label} ({count} tensors): {row.reason}" for row, count in counts.items())


DROPPED_LANGUAGE = (
    Dropped("layers.{}.self_attn.rotary_emb.inv_freq", "frequencies, which follow from the configuration", True),
)
DROPPED_VISION = (Dropped("embeddings.position_ids", "0, 1, 2, ..., saved by older versions", True),)
DROPPED_CLIP = tuple(
    Dropped(prefix, "of CLIP's text side, which LLaVA does not have")
    for prefix in ("text_model.", "text_projection.", "visual_projection.", "logit_scale")
)


@dataclass(frozen=True)
class Layout:
    """One published naming scheme.

    Attributes:
        name: name in messages.
        table: (published name, our name) with `{}` for a layer's number.
        anchors: published names by which the layout is recognised; all are in the table.
        dropped: what is left out.
        has_vision: whether the CLIP tower is included.
        projector: "linear", "mlp2x_gelu", or None if there is none.
    """

    name: str
    table: tuple[tuple[str, str], ...]
    anchors: tuple[str, ...]
    dropped: tuple[Dropped, ...]
    has_vision: bool = True
    projector: Literal["linear", "mlp2x_gelu"] | None = "mlp2x_gelu"

    @property
    def own_names(self) -> Mapping[str, str]:
        """Published pattern to our pattern."""
        return MappingProxyType(dict(self.table))

    @property
    def published_names(self) -> Mapping[str, str]:
        """Our pattern to the published pattern: the table's inverse."""
        inverse = {own: published for published, own in self.table}
        assert len(inverse) == len(self.table), f"two names of {self.name} stand for one tensor"
        return MappingProxyType(inverse)

    def own_name(self, published: str) -> str | None:
        """Return our name of a published tensor, None if it is left out.

        Raises:
            ValueError: the layout has no such name.
        """
        pattern, number = _split(published)
        if pattern in self.own_names:
            return self.own_names[pattern].replace("{}", number)
        if self.reason_to_drop(published) is not None:
            return None
        raise ValueError(f"unknown tensor {published!r}: {self.name} has no such name (another model, or adapters?)")

    def reason_to_drop(self, published: str) -> Dropped | None:
        """Return the row of a tensor that is left out."""
        pattern, _ = _split(published)
        return next(
            (row for row in self.dropped if (pattern == row.name if row.is_whole else pattern.startswith(row.name))),
            None,
        )

    def published_name(self, own: str) -> str:
        """Return the published name of one of our tensors."""
        pattern, number = _split(own)
        return self.published_names[pattern].replace("{}", number)


def _split(name: str) -> tuple[str, str]:
    """Return a name with `{}` in place of its layer's number, and that number ("" without one)."""
    found = _LAYER_NUMBER.search(name)
    return (name, "") if found is None else (f"{name[: found.start()]}{{}}{name[found.end() :]}", found.group())


def _rows(keys: Iterable[str], published: str, own: str) -> list[tuple[str, str]]:
    return [(published + key, own + key) for key in keys]


def _layout(name: str, language: str, head: str, vision: str | None, projector: tuple[str, ...]) -> Layout:
    """Build a layout from the prefixes of its parts; `projector` names one or two layers."""
    rows = _rows(LANGUAGE_KEYS, language, OWN_LANGUAGE) + [(f"{head}weight", HEAD)]
    for number, layer in enumerate(projector, start=1):
        rows += _rows(("weight", "bias"), layer, f"{OWN_PROJECTOR}linear_{number}.")
    dropped = [replace(row, name=language + row.name) for row in DROPPED_LANGUAGE]
    anchors = [language + LANGUAGE_KEYS[0], f"{projector[-1]}weight"]
    if vision is not None:
        rows += _rows(VISION_KEYS, vision, OWN_VISION)
        dropped += [replace(row, name=vision + row.name) for row in DROPPED_VISION]
        anchors.append(vision + VISION_KEYS[0])
    return Layout(
        name,
        tuple(rows),
        tuple(anchors),
        tuple(dropped),
        has_vision=vision is not None,
        projector="linear" if len(projector) == 1 else "mlp2x_gelu",
    )


def _two_layers(prefix: str) -> tuple[str, str]:
    return f"{prefix}linear_1.", f"{prefix}linear_2."


_ORIGINAL_CLIP = "model.vision_tower.vision_tower.vision_model."
_LINEAR, _MLP = ("model.mm_projector.",), ("model.mm_projector.0.", "model.mm_projector.2.")
LAYOUTS = (
    *(
        _layout(f"llava-hf ({versions})", language, head, f"{model}vision_tower.{tower}", _two_layers(projector))
        for versions, language, head, model, tower, projector in (
            ("transformers 4", "language_model.model.", "language_model.lm_head.", "", "vision_model.",
             "multi_modal_projector."),
            ("saved by transformers 5", "language_model.model.", "language_model.lm_head.", "", "",
             "multi_modal_projector."),
            ("names of transformers 4.52 and later", "model.language_model.", "lm_head.", "model.", "vision_model.",
             "model.multi_modal_projector."),
            ("names of transformers 5", "model.language_model.", "lm_head.", "model.", "",
             "model.multi_modal_projector."),
        )
    ),
    _layout("original LLaVA with CLIP, two projector layers", "model.", "lm_head.", _ORIGINAL_CLIP, _MLP),
    _layout("original LLaVA with CLIP, one projector layer", "model.", "lm_head.", _ORIGINAL_CLIP, _LINEAR),
    _layout("original LLaVA without CLIP, two projector layers", "model.", "lm_head.", None, _MLP),
    _layout("original LLaVA without CLIP, one projector layer", "model.", "lm_head.", None, _LINEAR),
)  # fmt: skip
"""Layouts with CLIP come first: a checkpoint's layout is the first whose anchors are all present."""

CLIP_LAYOUTS = tuple(
    Layout(
        name,
        tuple(_rows(VISION_KEYS, prefix, OWN_VISION)),
        (prefix + VISION_KEYS[0],),
        (*(replace(row, name=prefix + row.name) for row in DROPPED_VISION), *DROPPED_CLIP),
        projector=None,
    )
    for name, prefix in (("CLIP", "vision_model."), ("CLIP vision tower of transformers 5", ""))
)


def detect_layout(names: Iterable[str], layouts: tuple[Layout, ...], where: str) -> Layout:
    """Return the layout whose anchors are all among a checkpoint's names.

    Raises:
        ValueError: there is none; the message says which anchors of the nearest layout are missing.
    """
    found = set(names)
    missing = [[anchor for anchor in layout.anchors if anchor not in found] for layout in layouts]
    nearest = min(range(len(layouts)), key=lambda i: len(missing[i]) / len(layouts[i].anchors))
    if missing[nearest]:
        raise ValueError(
            f"{where}: the names match no known layout; the nearest is {layouts[nearest].name!r}, which also has "
            f"{missing[nearest]} (first names found: {sorted(found)[:3]})"
        )
    return next(layout for layout, lacks in zip(layouts, missing, strict=True) if not lacks)
