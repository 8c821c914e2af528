"""Measure what training has done to a model's language.

`python scripts/text_retention.py RUN/model --output FILE` compares the model with its adapters to the model without
them, which is the base. Both read two kinds of text without an image: real English prose on which no run trains (the
descriptions of data sets in scikit-learn, which requirements.txt pins), and the base's own greedy answers to general
questions in the model's chat format. With `--data`, they also read the answers to held-out questions about images.
"""

import argparse
import json
import math
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy, kl_div

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from partonomy.files import write_text_atomically
from partonomy.models.contract import Role, Turn
from plum.checkpoints.store import LoadedModel, load_pretrained
from plum.inference.partonomy_adapter import resolve_device
from plum.inference.predictor import Predictor
from plum.inference.teacher_forced import evaluate_teacher_forced
from plum.models.backbones.lora import adapters_off
from plum.structures import ConversationImages

PROSE_PACKAGE, PROSE_FILES = "sklearn", "datasets/descr/*.rst"
MIN_WORDS = 30
"""Words of the shortest paragraph that counts as prose; shorter ones are headings and entries of lists."""
PROSE_MARKS = ("..", ":", "-", "*", "=", "|", ">>>", "#")
"""How a paragraph that is no prose begins: directives, fields, lists, tables, code and targets."""
QUESTIONS = (
    "What is the capital of France?",
    "Explain in two sentences how an airplane stays in the air.",
    "Write a short letter to a friend about a walk in the rain.",
    "Why is the sky blue?",
    "Name three parts of a bicycle and say what each is for.",
    "What is the difference between a lake and a river?",
)
"""General questions. None is of a form that a training source has."""


@dataclass(frozen=True)
class TextResult:
    """How the trained model and its base predict the same tokens."""

    num_tokens: int
    base_perplexity: float
    trained_perplexity: float
    """exp of the mean nats per token."""
    divergence: float
    """KL divergence of next-token distributions, KL(base || trained), in nats, mean over tokens."""
    same_choice: float
    """Share of tokens at which both find the same next token most likely."""


@dataclass(frozen=True)
class WrittenPair:
    """Greedy answers to one question."""

    question: str
    base: str
    trained: str


@dataclass(frozen=True)
class HeldOutAnswers:
    """Perplexity of given answers to held-out questions of one kind."""

    kind: str
    num_tokens: int
    base_perplexity: float
    trained_perplexity: float


@dataclass(frozen=True)
class Retention:
    """What the program writes."""

    prose: TextResult
    chat: TextResult
    held_out: tuple[HeldOutAnswers, ...]
    answers: tuple[WrittenPair, ...]


def prose_paragraphs() -> list[str]:
    """Return the paragraphs of prose, each on one line, in a fixed order.

    Raises:
        FileNotFoundError: scikit-learn has no such files.
    """
    found = find_spec(PROSE_PACKAGE)
    files = [] if found is None or found.origin is None else sorted(Path(found.origin).parent.glob(PROSE_FILES))
    if not files:
        raise FileNotFoundError(f"{PROSE_PACKAGE} has no {PROSE_FILES}: install the release that requirements.txt pins")
    paragraphs = [part for file in files for part in file.read_text(encoding="utf-8").split("\n\n")]
    lines = [" ".join(part.split()) for part in paragraphs if not part.lstrip().startswith(PROSE_MARKS)]
    return [line for line in lines if len(line.split()) >= MIN_WORDS]


class _Sums:
    """Sums over tokens."""

    def __init__(self) -> None:
        self.tokens, self.same = 0, 0
        self.base, self.trained, self.divergence = 0.0, 0.0, 0.0

    def add(self, base: Tensor, trained: Tensor, targets: Tensor) -> None:
        """Add K tokens: logits [K, V] of both, and the ids [K] that they predict."""
        is_text = torch.isfinite(base[0])  # the image placeholder is never text
        base_log, trained_log = (logits[:, is_text].double().log_softmax(-1) for logits in (base, trained))
        self.tokens += len(targets)
        self.base += float(cross_entropy(base.double(), targets, reduction="sum"))
        self.trained += float(cross_entropy(trained.double(), targets, reduction="sum"))
        self.divergence += float(kl_div(trained_log, base_log, reduction="sum", log_target=True))
        self.same += int((base_log.argmax(-1) == trained_log.argmax(-1)).sum())

    def result(self) -> TextResult:
        """Return the means."""
        base, trained = math.exp(self.base / self.tokens), math.exp(self.trained / self.tokens)
        return TextResult(self.tokens, base, trained, self.divergence / self.tokens, self.same / self.tokens)


class RetentionMeter:
    """Compares a model with its own base.

    Args:
        loaded: a saved model with adapters, unmerged.

    Raises:
        ValueError: it has no adapters, so there is no base to compare with.
    """

    def __init__(self, loaded: LoadedModel) -> None:
        if loaded.config.lora is None:
            raise ValueError("the model has no adapters, so its base is not in it: name a run's model, not an export")
        self.loaded = loaded
        self.predictor = Predictor(loaded.model, loaded.tokenizer, loaded.config)

    @torch.inference_mode()
    def prose(self, paragraphs: Sequence[str]) -> TextResult:
        """Compare on plain text, without any chat format; the first token of a paragraph is not predicted."""
        sums = _Sums()
        for paragraph in paragraphs:
            self._add(sums, self.loaded.tokenizer(paragraph)["input_ids"], 1)
        return sums.result()

    @torch.inference_mode()
    def chat(self, questions: Sequence[str], max_new_tokens: int) -> tuple[TextResult, tuple[WrittenPair, ...]]:
        """Compare on the base's own answers, given to both, and return what each answers by itself."""
        sums, pairs = _Sums(), []
        for question in questions:
            turns = (Turn(Role.USER, question),)
            trained = self.predictor.write(None, turns, max_new_tokens)
            with adapters_off(self.loaded.model.backbone.network):
                base = self.predictor.write(None, turns, max_new_tokens)
            prompt = self.predictor.answers.prompt(turns, ()).input_ids
            end = (self.loaded.model.backbone.special_tokens.eos,) if base.finish_reason == "stop" else ()
            self._add(sums, [*prompt, *base.token_ids, *end], len(prompt))
            pairs.append(WrittenPair(question, base.text, trained.text))
        return sums.result(), tuple(pairs)

    def held_out(self, folder: str, kinds: Sequence[str], limit: int) -> tuple[HeldOutAnswers, ...]:
        """Compare on given answers to questions about held-out images."""
        trained = evaluate_teacher_forced(self.loaded, folder, kinds, limit)
        with adapters_off(self.loaded.model.backbone.network):
            base = evaluate_teacher_forced(self.loaded, folder, kinds, limit)
        return tuple(
            HeldOutAnswers(
                one.kind, one.num_answer_tokens, math.exp(other.next_token_loss), math.exp(one.next_token_loss)
            )
            for one, other in zip(trained, base, strict=True)
        )

    def _add(self, sums: _Sums, text: Sequence[int], start: int) -> None:
        """Add the tokens from `start` of a text without an image."""
        ids = torch.tensor([text], device=self.predictor.device)
        sums.add(self._logits(ids, start, is_base=True), self._logits(ids, start, is_base=False), ids[0, start:])

    def _logits(self, ids: Tensor, start: int, *, is_base: bool) -> Tensor:
        """Return the logits [T - start, V] that predict the tokens from `start`."""
        backbone = self.loaded.model.backbone
        shown = ConversationImages.no_image(1, ids.device)
        with adapters_off(backbone.network) if is_base else nullcontext():
            states = backbone.hidden_states(ids, torch.ones_like(ids), shown, backbone.no_images())
        return backbone.token_logits(states[0, start - 1 : -1])


def measure(
    meter: RetentionMeter, data: str | None, kinds: Sequence[str], limit: int, max_new_tokens: int
) -> Retention:
    """Measure a model.

    Args:
        meter: of the model.
        data: folder of held-out questions in partonomy's own form; None: none.
        kinds: kinds of held-out conversations.
        limit: largest number of their images per kind.
        max_new_tokens: length of the answers to general questions.

    Raises:
        FileNotFoundError: the folder, or scikit-learn's texts, do not exist.
        ValueError: a file is damaged.
    """
    chat, answers = meter.chat(QUESTIONS, max_new_tokens)
    held_out = () if data is None else meter.held_out(data, kinds, limit)
    return Retention(meter.prose(prose_paragraphs()), chat, held_out, answers)


def show(retention: Retention) -> str:
    """Return the figures as lines."""
    lines = [f"{'text':<16}{'tokens':>8}{'base':>9}{'trained':>9}{'KL':>9}{'same':>8}"]
    for name, one in (("prose", retention.prose), ("chat", retention.chat)):
        perplexities = f"{one.base_perplexity:>9.3f}{one.trained_perplexity:>9.3f}"
        lines.append(f"{name:<16}{one.num_tokens:>8}{perplexities}{one.divergence:>9.4f}{one.same_choice:>8.1%}")
    lines += [
        f"{one.kind:<16}{one.num_tokens:>8}{one.base_perplexity:>9.3f}{one.trained_perplexity:>9.3f}"
        for one in retention.held_out
    ]
    lines.append("base, trained: perplexity; KL: KL(base || trained) in nats per token; same: share of equal choices")
    for pair in retention.answers:
        lines += ["", f"Question: {pair.question}", f"  base:    {pair.base}", f"  trained: {pair.trained}"]
    return "\n".join(lines)


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("checkpoint", type=Path, help="folder of a saved model with adapters, such as RUN/model")
    parser.add_argument("--output", required=True, type=Path, help="JSON file to write")
    parser.add_argument("--data", help="folder of held-out questions (default: none)")
    parser.add_argument("--kinds", default="explanatory", help="kinds of held-out conversations")
    parser.add_argument("--limit", type=int, default=10, help="largest number of held-out images per kind")
    parser.add_argument("--max_new_tokens", type=int, default=48, help="length of the answers to general questions")
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, ...")
    given = parser.parse_args()
    try:
        meter = RetentionMeter(load_pretrained(given.checkpoint, resolve_device(given.device)))
        retention = measure(meter, given.data, given.kinds.split(","), given.limit, given.max_new_tokens)
    except (OSError, ValueError) as error:
        sys.exit(f"error: {error}")
    write_text_atomically(given.output, json.dumps(asdict(retention), indent=2) + "\n")
    print(show(retention))


if __name__ == "__main__":
    main()
