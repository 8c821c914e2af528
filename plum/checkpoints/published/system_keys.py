"""Tables from the tensor names of published systems with heads (LISA, M2SA, GLaMM, PLUM's authors) to plum's names.

Each is LLaVA in its original layout (see `llava_keys.py`) with SAM and heads beside it, so a table of prefixes is added
to LLaVA's. Sources: dvlab-research/LISA (`model/LISA.py`), jdg900/MMR (`compress_vit`), mbzuai-oryx/groundingLMM
(`model/GLaMM.py`), AnselBlume/partonomy (`model/PLUM.py`, `model/mask_feedback.py`).
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from plum.checkpoints.published.llava_keys import LAYOUTS, Dropped, Layout, detect_layout
from plum.checkpoints.published.llava_tokenizer import Marks
from plum.checkpoints.published.sam_weights import OWN_PREFIX as OWN_SAM
from plum.config import Conversation
from plum.inputs.conversation import IMAGE_END, IMAGE_START
from plum.models.systems.seg_token import PHRASE_END, PHRASE_START, SEG_TOKEN

ORIGINAL_LAYOUTS = tuple(layout for layout in LAYOUTS if layout.name.startswith("original"))
PEFT_PREFIX, PEFT_BASE = "base_model.model.", ".base_layer."
"""What peft puts before every name of a model with adapters, and, in newer versions, into that of an adapted matrix."""
_ADAPTER = re.compile(r"(?P<target>.+)\.lora_(?P<side>[AB])(\.default)?\.weight")
POOLER_INPUT = "feedback.pooler.in_proj."
"""torch's joint projection of queries, keys and values, which plum keeps apart."""
POOLER_PARTS = {
    f"{POOLER_INPUT}{kind}": tuple(f"feedback.pooler.{part}_projection.{kind}" for part in ("query", "key", "value"))
    for kind in ("weight", "bias")
}
V0_FILES = ("pytorch_model-visual_model.bin", "pytorch_model-text_hidden_fcs.bin")
"""Files beside LLaVA's in folders of LISA's first code."""
_HEAD, _OWN_HEAD = "model.text_hidden_fcs.0.", "query_projection.layers."
FEEDBACK_PREFIX = "mask_pooler."


@dataclass(frozen=True)
class SystemLayout:
    """The names of one published system.

    Attributes:
        name: name in messages.
        system: plum's system.
        anchor: prefix of names by which the system is recognised.
        prefixes: (published prefix, our prefix) of what LLaVA's tables lack; the first that fits counts.
        dropped: what is left out, besides what LLaVA's layout leaves out.
        aliases: (published prefix, our prefix) of second names of tensors, which must be equal to the first.
        marks: tokens that its training adds.
        conversation: its prompt.
        llava: the layout of its LLaVA.
    """

    name: str
    system: Literal["lisa", "m2sa", "plum"]
    anchor: str
    prefixes: tuple[tuple[str, str], ...]
    marks: Marks
    conversation: Conversation
    dropped: tuple[Dropped, ...] = ()
    aliases: tuple[tuple[str, str], ...] = ()
    llava: Layout = ORIGINAL_LAYOUTS[-1]

    @property
    def has_phrase_tags(self) -> bool:
        """Whether answers have tags around phrases."""
        return PHRASE_START in self.marks.tokens

    def own_name(self, published: str) -> str | None:
        """Return our name of a published tensor; None for adapters and for what is left out.

        Raises:
            ValueError: the system has no such name.
        """
        name = plain_name(published)
        if self.reason_to_drop(name) is not None or self.alias_of(name) is not None or adapter_of(name) is not None:
            return None
        for prefix, own in self.prefixes:
            if name.startswith(prefix):
                return own + name.removeprefix(prefix)
        return self.llava.own_name(name)

    def published_name(self, own: str) -> str:
        """Return the published name of one of our tensors."""
        for prefix, ours in self.prefixes:
            if own.startswith(ours):
                return prefix + own.removeprefix(ours)
        return self.llava.published_name(own)

    def reason_to_drop(self, published: str) -> Dropped | None:
        """Return the row of a tensor that is left out."""
        name = plain_name(published)
        own = next((row for row in self.dropped if name.startswith(row.name)), None)
        return own or self.llava.reason_to_drop(name)

    def alias_of(self, published: str) -> str | None:
        """Return our name of the tensor that a published name repeats."""
        name = plain_name(published)
        found = next(((prefix, own) for prefix, own in self.aliases if name.startswith(prefix)), None)
        return None if found is None else found[1] + name.removeprefix(found[0])


def plain_name(published: str) -> str:
    """Return a name without what peft adds."""
    return published.removeprefix(PEFT_PREFIX).replace(PEFT_BASE, ".")


@dataclass(frozen=True)
class AdapterName:
    """The matrix that an adapter changes, by its published name, and which of its two factors a tensor is."""

    target: str
    side: Literal["A", "B"]


def adapter_of(published: str) -> AdapterName | None:
    """Return what a tensor of an adapter changes; None if it is not of an adapter."""
    found = _ADAPTER.fullmatch(plain_name(published))
    return None if found is None else AdapterName(f"{found['target']}.weight", "A" if found["side"] == "A" else "B")


_IMAGE_MARKS = (IMAGE_START, IMAGE_END)
_LISA_MARKS = Marks((SEG_TOKEN, *_IMAGE_MARKS), (SEG_TOKEN,), is_stripped=True)
_GLAMM_MARKS = Marks(
    (*_IMAGE_MARKS, "<bbox>", "<point>", SEG_TOKEN, PHRASE_START, PHRASE_END),
    (SEG_TOKEN, PHRASE_START, PHRASE_END),
    is_stripped=True,
)
_SAM = ("model.visual_model.", OWN_SAM)
_FUSION = ("model.visual_model.mask_decoder.compress_vit.", f"{OWN_SAM}early_fusion.layers.")
_DOWNSCALING = f"{OWN_SAM}prompt_encoder.mask_downscaling."
_TEACHER = Dropped("teacher_llm.", "a copy of the language model for a loss of the training")
_UNUSED = Dropped(f"{FEEDBACK_PREFIX}mask_modulator.projections.2.", "a layer that the authors' code never runs")
_OFF = Dropped(
    FEEDBACK_PREFIX, "mask feedback, which the authors' evaluation turns off on loading; --feedback keeps it"
)
_ALIASES = (
    (f"{FEEDBACK_PREFIX}prompt_encoder.", f"{OWN_SAM}prompt_encoder."),
    # A slice of a Sequential keeps the numbers of its layers.
    *((f"{FEEDBACK_PREFIX}block1.0.{layer}.", f"{_DOWNSCALING}{layer}.") for layer in (0, 1)),
    *((f"{FEEDBACK_PREFIX}block2.0.{layer}.", f"{_DOWNSCALING}{layer}.") for layer in (3, 4)),
    (f"{FEEDBACK_PREFIX}final_conv.", f"{_DOWNSCALING}6."),
)

LISA = SystemLayout("LISA", "lisa", _HEAD, ((_HEAD, _OWN_HEAD), _SAM), _LISA_MARKS, "llava_v1_im_start_end")
M2SA = SystemLayout(
    "M2SA", "m2sa", _FUSION[0], ((_HEAD, _OWN_HEAD), _FUSION, _SAM), _LISA_MARKS, "llava_v1_im_start_end"
)
GLAMM = SystemLayout(
    "GLaMM",
    "lisa",
    "model.grounding_encoder.",
    ((_HEAD, _OWN_HEAD), ("model.grounding_encoder.", OWN_SAM)),
    _GLAMM_MARKS,
    "glamm",
    dropped=(Dropped("model.region_encoder.", "acts on boxes in the question only, which plum does not have"),),
)
GLAMM_FOR_CALICO = replace(
    GLAMM,
    dropped=(
        *GLAMM.dropped,
        Dropped("model.mm_projector.", "projects CLIP's tokens; CALICO's f_image projects the Q-Former's"),
        Dropped("model.vision_tower.", "CLIP; CALICO reads images with EVA-CLIP"),
    ),
)
PLUM = SystemLayout(
    "PLUM (authors' code)",
    "plum",
    "model.token_to_mask_fcs.",
    (
        (_HEAD, _OWN_HEAD),
        ("bio_encoder.encoder.layers.0.", "tagger.block."),
        ("model.token_to_mask_fcs.0.0.", "tagger.mlp.0."),
        ("model.token_to_mask_fcs.0.2.", "tagger.classifier."),
        (f"{FEEDBACK_PREFIX}queries", "feedback.pooler.location_queries"),
        (f"{FEEDBACK_PREFIX}attn.in_proj_", POOLER_INPUT),
        (f"{FEEDBACK_PREFIX}attn.out_proj.", "feedback.pooler.output_projection."),
        (f"{FEEDBACK_PREFIX}mask_modulator.projections.", "feedback.encoder.modulations."),
        _SAM,
    ),
    Marks(_IMAGE_MARKS, (), is_stripped=False),
    "llava_v1_im_start_end",
    dropped=(_TEACHER, _UNUSED),
    aliases=_ALIASES,
)
PLUM_WITHOUT_FEEDBACK = replace(PLUM, dropped=(_TEACHER, _OFF))
SYSTEM_LAYOUTS = (PLUM, GLAMM, M2SA, LISA)
"""In the order in which they are tried: M2SA has LISA's names too."""

_IMPORT = (
    "Its predictions can be imported: python -m partonomy import-predictions FILE --questions QUESTIONS --output RUN "
    "--name NAME (docs/import_predictions.md shows how its own environment writes FILE)"
)
REFUSED = {
    "model.out_mm_projector.": "PixelLM, whose own mask decoder (two levels, no SAM) plum does not have",
    "model.image_feature_neck.": "PixelLM, whose own mask decoder (two levels, no SAM) plum does not have",
    "grounding_encoder.sam2_model.": "Sa2VA, whose language model and SAM 2 plum does not have",
    "bio_cross_attn.": "PLUM trained with use_cross_attn_bio, whose queries attend to the image, which plum's do not",
}
"""Prefixes of names of systems that are recognised, and why they are not converted."""
_CALICO_MODULES = re.compile(r"q_?former|query_tokens|dino|eva_?clip|correspondence|adaptation|\bcam\b|\bcem\b", re.I)
"""Parts of names by which CALICO's own release is suspected; its layout is not known."""
NUM_GROUPS_SHOWN = 8
V0 = (
    "a checkpoint of LISA's first code (-v0), which places image tokens in the vocabulary and is not converted; use "
    "the -v1 of the same size (xinlai/LISA-7B-v1, LISA-13B-llama2-v1)"
)


def detect_system(published: Iterable[str], where: Path, has_lisa_config: bool) -> SystemLayout:
    """Recognise a system by the names of its tensors.

    Args:
        published: all names.
        where: folder or file, for messages.
        has_lisa_config: config.json has LISA's `train_mask_decoder` and `out_dim`.

    Returns:
        The system, its LLaVA's layout still open (see `with_llava`).

    Raises:
        ValueError: the system is none of those that are converted; the message names it if it is known.
    """
    folder = where if where.is_dir() else where.parent
    names = [plain_name(name) for name in published]
    is_v0 = any((folder / file).is_file() for file in V0_FILES)
    if is_v0 or any(name.startswith(("lm.", "visual_model.", "text_hidden_fcs.")) for name in names):
        raise ValueError(f"{where} is {V0}")
    for prefix, what in REFUSED.items():
        if any(name.startswith(prefix) for name in names):
            raise ValueError(f"{where} is {what}. {_IMPORT}")
    if groups := sorted({".".join(name.split(".")[:3]) for name in names if _CALICO_MODULES.search(name)}):
        raise ValueError(
            f"{where} looks like CALICO's own release, or like one of its towers: it has {groups[:NUM_GROUPS_SHOWN]}"
            f"{f' and {len(groups) - NUM_GROUPS_SHOWN} more' if len(groups) > NUM_GROUPS_SHOWN else ''}. The layout of "
            "that release is not known, so it is not converted. To start CALICO from its parts: python -m plum convert "
            f"GLAMM_FOLDER NEW_FOLDER --system calico --blip BLIP_FOLDER --dino DINO_FOLDER. {_IMPORT}"
        )
    found = next((row for row in SYSTEM_LAYOUTS if any(name.startswith(row.anchor) for name in names)), None)
    if found is None and has_lisa_config:
        raise ValueError(
            f"{where}: config.json says that it is like LISA (train_mask_decoder, out_dim), but it has no tensor "
            f"{_HEAD}*: an incomplete download?"
        )
    if found is None:
        raise ValueError(
            f"{where} has no heads of {', '.join(row.name for row in SYSTEM_LAYOUTS)} (first names found: "
            f"{sorted(names)[:3]}). LLaVA alone: python -m plum convert-llava. Another system: {_IMPORT[0].lower()}"
            f"{_IMPORT[1:]}"
        )
    return found


def with_llava(system: SystemLayout, published: Iterable[str], where: Path) -> SystemLayout:
    """Return the system with the layout of its LLaVA, recognised by the names that it shares with LLaVA.

    Raises:
        ValueError: LLaVA's tensors are in no known layout.
    """
    llava = detect_layout(map(plain_name, published), ORIGINAL_LAYOUTS, str(where))
    return replace(system, llava=llava)
