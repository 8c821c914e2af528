"""Configuration of a run. jsonargparse reads YAML into these dataclasses; unknown or missing keys are errors."""

from dataclasses import dataclass, field
from typing import Literal

from plum.config import ModelConfig, Quantization

PRETEXT_NEEDS_SAM = (
    "part_pretext trains SAM's upscaling convolutions on its embedding alone, which SAM 2's decoder "
    "(model.sam.model_type) never reads without its finer maps: set part_pretext to null"
)
"""Why only SAM has the pretext."""


@dataclass(frozen=True)
class LossConfig:
    """Weights and forms of the losses (paper, Table 6)."""

    language: float = 1.0
    """Weight of the next-token cross-entropy."""
    bio: float = 2.0
    """Must be 0 in systems without a tagger."""
    kl: float = 0.1
    """0 skips the teacher's forward pass; systems with [SEG] tokens have no teacher."""
    mask_overlap: float = 8.0
    """Weight of the overlap loss, whatever its form."""
    mask_bce: float = 2.0
    """Weight of the pixel loss, whatever its form."""
    pixel_loss: Literal["bce", "focal"] = "bce"
    """`bce`: binary cross-entropy (PLUM, LISA, GLaMM). `focal`: focal loss (named in CALICO's paper with the weights of
    LISA and GLaMM, whose code has BCE)."""
    focal_alpha: float = 0.25
    """Weight of true pixels; others have 1 - alpha."""
    focal_gamma: float = 2.0
    """Exponent of the focal loss; 0 weighs easy and hard pixels alike."""
    overlap: Literal["focal_tversky", "dice"] = "focal_tversky"
    """Form of the overlap loss: Focal-Tversky (PLUM) or Dice (LISA, M2SA)."""
    tversky_alpha: float = 0.7
    """Weight of false negatives."""
    tversky_beta: float = 0.3
    """Weight of false positives."""
    tversky_gamma: float = 0.75
    """Exponent of 1 - Tversky index."""
    dice_scale: float = 1000.0
    """Divisor of the pixel sums in the Dice loss, which sets the weight of its epsilon (LISA: 1000)."""
    bio_class_weights: tuple[float, float, float] = (0.1, 1.0, 1.0)
    """Weights of the classes O, B, I; with `model.tagger.scheme` binary, a token in a phrase weighs as B. A CRF
    (`model.tagger.use_crf`) weighs all tokens alike, because its loss is of whole sequences."""
    bio_form: Literal["cross_entropy", "hinge"] = "cross_entropy"
    """Form of the BIO loss: `cross_entropy` (paper, section 4), or the multi-class `hinge` loss. A CRF has its own
    form, the negative log-likelihood of the tags."""
    bio_margin: float = 1.0
    """Margin of the hinge loss, in logits; ignored by the other forms."""
    kl_sigma: float = 1.0
    """Width of the Gaussians around the student's and the teacher's states."""
    kl_reduction: Literal["mean", "sum", "authors"] = "mean"
    """What becomes of the squared distances to the teacher. `sum`: paper, section 4 (states pooled over a span, sum
    over D). `authors`: their code (not pooled, mean over a span's tokens and D); the weight 0.1 belongs to it. `mean`:
    this project's (pooled, mean over D)."""
    bio_scope: Literal["answer", "all"] = "answer"
    """Tokens of the BIO loss. `answer`: those of tagged answers (paper, section 4: "the output sequence"). `all`:
    every token of a conversation with phrases, with prompt, image patches and padding as O (authors' code)."""


@dataclass(frozen=True)
class TrainableConfig:
    """The modules that are trained. Other modules that a system adds to LLaVA and SAM are always trained."""

    language_model: Literal["frozen", "lora", "full"] = "lora"
    """Train nothing, the adapters, or all weights of the language model."""
    vision_tower: bool = False
    """Train LLaVA's vision tower."""
    projector: bool = False
    """Train LLaVA's projector."""
    qformer: bool = False
    """CALICO's Q-Former; frozen in the paper, trained where nothing is pre-trained."""
    dino: bool = False
    """CALICO's DINOv2; frozen in the paper, trained where nothing is pre-trained."""
    embeddings: bool = False
    """Train embed_tokens and lm_head in full. Paper, A.1: all components but CLIP and the projector are trainable
    (Table 6 lists only the adapters); the authors' code trains both matrices. With adapters it needs
    `model.lora.train_embeddings`. Systems with [SEG] tokens, and runs that add tokens, need it."""
    sam_image_encoder: bool = False
    """Train SAM's image encoder."""
    sam_mask_decoder: bool = True
    """Train SAM's mask decoder."""
    sam_prompt_encoder: bool = True
    """Paper, Table 6: 'decoder + prompt-enc.'."""
    query_projection: bool = True
    """Train the projection of spans or [SEG] states to SAM's prompts. CALICO's 29 M trained parameters leave no room
    for it: it comes trained from GLaMM, and false keeps it."""


@dataclass(frozen=True)
class OptimizerConfig:
    """AdamW, linear warm-up, then linear or cosine decay to zero (paper, A.1)."""

    learning_rate: float = 3e-4
    """Peak learning rate, after the warm-up."""
    betas: tuple[float, float] = (0.9, 0.95)
    """AdamW's decay rates of the two moments."""
    weight_decay: float = 0.0
    """AdamW's weight decay, of matrices; vectors have none."""
    warmup_updates: int = 100
    """Updates over which the learning rate rises linearly."""
    decay: Literal["linear", "cosine"] = "linear"
    """Decay of the learning rate to zero after the warm-up."""
    gradient_clip: float = 1.0
    """Largest norm of the gradient of all trained weights; a larger one is scaled down."""


@dataclass(frozen=True)
class EngineConfig:
    """The engine that computes updates, and its settings."""

    kind: Literal["deepspeed", "ddp", "plain"] = "deepspeed"
    """`ddp` runs any number of ranks with torch's DistributedDataParallel, without DeepSpeed: every rank holds the
    whole optimizer state. `plain` runs one process in fp32. All have the same losses to rounding."""
    precision: Literal["bf16", "fp32"] = "bf16"
    """Dtype of weights and activations; in bf16 the optimizer keeps float32 copies."""
    micro_batch_size: int = 6
    """Images per rank and micro-batch."""
    accumulation: int = 10
    """Micro-batches per update."""
    zero_stage: int = 2
    """ZeRO stage of `kind` deepspeed. 2 shards the optimizer state and the accumulated gradients, which are reduced
    after every micro-batch. 1 shards only the optimizer state; gradients are reduced once per update (for slow links
    between nodes). 3 is refused: control flow depends on the data (docs/train/full_scale.md)."""
    reduce_bucket_size: int = 50_000_000
    """Number of elements that DeepSpeed reduces at once, in a buffer of that size or of all that is trained, if that is
    less; a larger tensor is reduced alone."""
    gradient_checkpointing: bool = True
    """Recompute activations in the backward pass: less memory, more time."""
    base_quantization: Quantization = "none"
    """Quantization of the frozen language model under the adapters (plum/models/backbones/quantization.py); unverified
    on CUDA. It requires trainable.language_model lora, save_model trained and init_from, because the saved weights are
    applied to the unquantized base."""
    num_workers: int = 2
    """Number of data-loading processes per rank; 0 loads one batch ahead in a thread of the rank's own process."""
    timeout_minutes: float = 30.0
    """How long a rank waits for the others before it gives up, so that a hang becomes an error. It must cover the
    conversion of a checkpoint for another number of ranks, for which all wait."""


@dataclass(frozen=True)
class SourceConfig:
    """One data source of a training mixture."""

    kind: Literal[
        "explanatory",
        "part_referring",
        "part_semantic",
        "part_vqa",
        "part_status",
        "semantic",
        "referring",
        "llava_instruct",
        "reasoning",
        "mmr",
        "mixed_parts",
        "grounded_answers",
    ]
    """Selects the class in plum.data.sources that makes the samples."""
    path: str = ""
    """Folder in partonomy's own form, for `explanatory`, `mixed_parts` and the part sources; the other kinds read
    `dataset_dir`."""
    weight: float = 1.0
    """Share of the mixture, relative to the other sources; for a grouped source, relative to its group."""
    question_types: tuple[str, ...] = ()
    """For `explanatory`: question types to use; empty for all in the folder."""
    dataset: str = ""
    """For `semantic`: ade20k, cocostuff, mapillary; for `referring`: refclef, refcoco, refcoco+, refcocog."""
    targets: Literal["authors", "lists"] = "authors"
    """For `semantic` and `part_semantic`. authors: each class, or each annotated instance of an object or part, is
    asked on its own, as in the loaders of LISA and PLUM. lists: this project's own form, several names or all parts of
    an object in one answer, instances united (plum/data/sources/part_semantic.py)."""
    targets_per_question: int = 1
    """For `semantic`, `part_semantic` and `referring`: most targets of one question; M2SA: 3."""
    answers: Literal["authors", "the_target"] = "authors"
    """For `reasoning`. authors: the answer is the target's name, where the data have one, else the instruction's own
    words. the_target: this project's former answer, "It is the target." (partonomy/benchmarks/reason_seg.py)."""
    legacy_unaligned_qa: bool = False
    """For `mmr`: pair questions and answers as M2SA's loader does, which pairs most of them wrongly
    (plum/data/sources/mmr.py)."""
    group: str = ""
    """Name of the source's group in `DataConfig.groups`; empty for none."""


@dataclass(frozen=True)
class GroupConfig:
    """A share of the mixture that the available sources of the group divide among them."""

    name: str
    """Name that the sources of the group have as `group`."""
    weight: float
    """Share of the mixture, relative to the other groups and to sources without one."""


@dataclass(frozen=True)
class DataConfig:
    """The training mixture."""

    sources: tuple[SourceConfig, ...]
    """Data sources and their shares of the mixture."""
    groups: tuple[GroupConfig, ...] = ()
    """Shares of the mixture that several sources divide among them."""
    dataset_dir: str | None = None
    """Root of the downloads in LISA's layout (`python -m plum data-status` shows it)."""
    allow_missing: bool = False
    """Skip sources whose files are missing, with a warning; the rest of their group takes over their share."""
    max_text_tokens: int = 512
    """Longest conversation in text tokens. Paper, A.1: text is truncated to 512 tokens. Authors' code: 512 positions,
    255 of them image patches, and it may cut inside a phrase. Here image tokens do not count, and `llava_instruct`
    leaves out whole exchanges at the end; a longer conversation of another source is an error."""
    conversations_per_image: int = 3
    """Maximum number of conversations that share one image (and its encoding) in a sample."""
    wordings: Literal["plum", "lisa"] = "plum"
    """Of `semantic`, `part_semantic`, `referring` and `reasoning`. lisa: the kinds of questions and answers of LISA's
    and M2SA's loaders, in our own words: answers hold a mark for each target and often not its name. For systems with
    [SEG]."""
    sampling: Literal["epoch", "replacement"] = "epoch"
    """How records are drawn within a source. epoch: each once before any again. replacement: each draw is independent,
    as in the loaders of LISA, M2SA and PLUM's stage 0."""
    group_by_length: int = 0
    """Number of successive samples to sort into micro-batches of similar length, to reduce padding; a multiple of
    ranks x engine.micro_batch_size, or 0 for no grouping. Grouping changes which samples share a micro-batch, within
    which losses are averaged (plum/data/length_groups.py). Short conversations then weigh as much as long ones, which
    may cost more than padding does (docs/LOG.md)."""
    spread_lengths: int = 0
    """Number of samples that the ranks process together (ranks x engine.micro_batch_size), to spread by length, so that
    no rank gets all long ones while the others wait; 0 keeps the drawn order. The samples of an update stay the
    same."""
    exclude_images: tuple[str, ...] = ()
    """Question folders or files whose images are excluded from training (the benchmark's validation images)."""
    count_images: tuple[str, ...] = ()
    """Question folders or files whose images stay in training but are counted at its start (the paper's setting)."""
    sam_feature_cache: str | None = None
    """Folder that caches the frozen SAM encoder's embeddings (at full size 4 MB per image in float32, 2 MB in
    bfloat16; SAM 2: 88 and 44 MB, or 17 and 8 MB with a frozen mask decoder). The losses stay the same."""
    sam_feature_cache_gb: float | None = None
    """Maximum size of that folder in GB, beyond which nothing is added; None for no limit."""


@dataclass(frozen=True)
class PretextConfig:
    """Per-pixel part classification on both vision towers (plum/training/part_pretext.py)."""

    weight: float = 1.0
    """Weight of the whole pretext beside the other losses."""
    token_weight: float = 1.0
    """Weight of the image tokens' loss within the pretext. The language loss also trains LLaVA's tower, but not SAM's;
    the larger its weight, the larger this one should be."""
    warmup_updates: int = 0
    """Number of initial updates without mask decoding, in which towers, language model and tagger learn at lower
    cost."""
    queries_per_image: int = 0
    """Maximum number of parts per image that SAM's decoder segments during these updates, from one learned query per
    class."""
    query_weight: float = 0.25
    """Weight of those masks' losses (themselves weighted as in `LossConfig`) within the pretext."""
    phrase_weight: float = 1.0
    """Weight of the distance between a phrase's query and the learned query of its class, within the pretext of these
    updates. It is ignored without `queries_per_image`, because nothing then trains the learned queries."""


@dataclass(frozen=True)
class ValidationConfig:
    """Held-out images on which a run is scored while it trains. The weights that it saves are the best ones."""

    sources: tuple[SourceConfig, ...]
    """Data of images that the run does not train on."""
    every: int = 100
    """Number of updates between validations; each follows a checkpoint. The weights before the first update and after
    the last one are validated, too."""
    limit: int = 200
    """Largest number of images of a validation. Each is scored once, for any number of ranks."""
    metric: Literal["micro_giou", "loss"] = "micro_giou"
    """What makes weights the best: the mean IoU of the masks of given phrases, or the weighted loss."""
    patience: int = 0
    """Number of validations in a row without a better one that end the run; 0 never does."""


@dataclass(frozen=True)
class TrainConfig:
    """One training run."""

    run_dir: str
    """Folder for everything that the run writes; never overwritten."""
    model: ModelConfig
    data: DataConfig
    init_from: str | None = None
    """Folder of a saved model whose weights start this run (new optimizer, new schedule)."""
    reset_modules: tuple[str, ...] = ()
    """Modules of the model to initialize afresh although `init_from` has them (names as in GroundedLMM)."""
    new_token_rows: Literal["mean", "normal"] = "mean"
    """First embedding and output rows of tokens that the run adds to the vocabulary. `mean`: the mean of the text
    tokens' rows (transformers since 4.46). `normal`: drawn with deviation 0.02 (LISA, M2SA and the code of PLUM's
    authors, through transformers 4.31)."""
    tokenizer: str | None = None
    """Tokenizer folder; None for the one in `init_from`."""
    num_updates: int = 500
    """Number of optimizer updates."""
    losses: LossConfig = field(default_factory=LossConfig)
    trainable: TrainableConfig = field(default_factory=TrainableConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    engine: EngineConfig = field(default_factory=EngineConfig)
    validation: ValidationConfig | None = None
    """Scores during training; None for none, and the last weights are saved."""
    part_pretext: PretextConfig | None = None
    """Not part of PLUM: only the tiny recipe, which trains both vision towers from scratch, uses it."""
    seed: int = 42
    """Seed of data order, initial weights and dropout."""
    log_every: int = 10
    """Number of updates between lines of the metrics."""
    save_every: int = 500
    """Number of updates between checkpoints."""
    save_every_minutes: float | None = None
    """Time between checkpoints, in addition to `save_every`; None to save by updates alone."""
    keep_checkpoints: int = 2
    """Number of newest checkpoints that are kept; the older one serves if the newest turns out to be damaged."""
    max_minutes: float | None = None
    """Time limit of one start. The run saves a checkpoint before it and ends with status 75; the same command goes
    on."""
    stop_after_skipped: int = 5
    """Number of consecutive updates without a finite loss and gradient that end the run; fewer are skipped and
    counted."""
    save_model: Literal["full", "trained"] = "full"
    """Weights to save in `run_dir`/model at the end: all of them, or only the trained ones, with the path of
    `init_from`."""
    trackers: tuple[Literal["tensorboard", "wandb", "trackio"], ...] = ()
    """Services that show the metrics, which `run_dir`/metrics.jsonl has in any case. Each needs its package."""
    tracker_project: str = "plum"
    """Project of Weights & Biases and Trackio that holds the run."""
    tensorboard: bool = False
    """Earlier name of `trackers: [tensorboard]`; both have the same effect."""

    @property
    def all_trackers(self) -> tuple[str, ...]:
        """The trackers of the run, in whichever way they are named."""
        earlier = ("tensorboard",) if self.tensorboard else ()
        return tuple(dict.fromkeys((*self.trackers, *earlier)))
