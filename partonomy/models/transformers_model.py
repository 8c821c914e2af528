"""Image-text-to-text checkpoints of transformers, which score given answers and reply in text.

The checkpoint's own chat template renders the prompt. If the architecture allows it (`REUSES_PROMPT`), image and prompt
are read once for all choices; otherwise the choices are one batch of whole conversations. Both give the same numbers.
Such models tag no parts and make no masks; those metrics are null.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from safetensors import SafetensorError
from torch import Tensor
from transformers import (
    CONFIG_MAPPING,
    AutoModelForImageTextToText,
    BatchFeature,
    LogitsProcessorList,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    ProcessorMixin,
    __version__,
)

from partonomy.models.contract import Generation, Role, Turn
from partonomy.models.finite_values import LogitsWatch, require_no_nan
from partonomy.models.processors import load_processor
from partonomy.structures import CharSpan, ChoiceScore

Message = dict[str, Any]


@dataclass(frozen=True)
class EncodedChoice:
    """A finished conversation as text, and its tokens after those shared with the prompt.

    Attributes:
        text: The whole conversation, end token included.
        num_shared: Number of the prompt's tokens that begin the conversation; all of them, unless the tokenizer merges
            the prompt's last characters with the answer's first.
        answer_ids: The tokens after the shared ones: the answer and its end token.
    """

    text: str
    num_shared: int
    answer_ids: tuple[int, ...]


class ChatPrompt:
    """Renders conversations with images at their beginning.

    Args:
        processor: The checkpoint's processor; must have a chat template.
        end_tokens: Texts of the tokens that end an answer; the first is added if the template writes none.

    Raises:
        ValueError: There is no chat template, or no end token.
    """

    def __init__(self, processor: ProcessorMixin, end_tokens: Sequence[str]) -> None:
        if not getattr(processor, "chat_template", None):
            raise ValueError(
                "the checkpoint has no chat template, so its conversation format is unknown; use the instruction-"
                "tuned variant, or put its chat_template.jinja into the folder"
            )
        if not end_tokens:
            raise ValueError("the checkpoint's tokenizer has no end token, without which no answer is complete")
        self._processor = processor
        self._tokenizer: PreTrainedTokenizerBase = processor.tokenizer
        self._end_tokens = tuple(end_tokens)

    def render(self, turns: Sequence[Turn], num_images: int = 1) -> str:
        """Render the conversation up to the assistant's answer, with an unexpanded placeholder per image."""
        messages = _messages(turns, num_images)
        return str(self._processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False))

    def render_answer(self, turns: Sequence[Turn], answer: str, num_images: int = 1) -> str:
        """Render the conversation with its answer and end token.

        The template positions the answer: after the prompt that generation would continue, with the template's own
        white space. Text that the template writes after the end token is left out, because no model generates it.
        Templates without an end token (LLaVA-1.5's) get the tokenizer's.

        Raises:
            ValueError: The template changes or drops the answer.
        """
        prompt = self.render(turns, num_images)
        messages = [*_messages(turns, num_images), _message(Role.ASSISTANT, answer)]
        whole = str(self._processor.apply_chat_template(messages, add_generation_prompt=False, tokenize=False))
        # Some templates add to the prompt a text that a finished conversation lacks (such as an empty reasoning block).
        rest = whole[len(prompt) :] if whole.startswith(prompt) else answer
        start = rest.find(answer)
        if start < 0:
            raise ValueError(f"the checkpoint's chat template does not repeat the answer {answer!r} verbatim")
        tail = rest[start + len(answer) :]
        ends = [tail.index(token) + len(token) for token in self._end_tokens if tail.strip().startswith(token)]
        return prompt + rest[:start] + answer + (tail[: ends[0]] if ends else self._end_tokens[0])

    def encode(self, text: str) -> list[int]:
        """Tokenize a rendered text; its image placeholder is not expanded."""
        ids: list[int] = self._tokenizer(text, add_special_tokens=self.adds_special_tokens(text))["input_ids"]
        return ids

    def encode_choice(self, turns: Sequence[Turn], answer: str) -> EncodedChoice:
        """Tokenize an answer as part of the conversation's whole text."""
        text = self.render_answer(turns, answer)
        prompt_ids, whole_ids = self.encode(self.render(turns)), self.encode(text)
        num_shared = common_prefix(prompt_ids, whole_ids)
        return EncodedChoice(text, num_shared, tuple(whole_ids[num_shared:]))

    def adds_special_tokens(self, text: str) -> bool:
        """Whether the tokenizer has to prepend its begin token; False if the template has written it."""
        begin = self._tokenizer.bos_token
        return begin is None or not text.startswith(begin)


def text_positions(
    prompt_ids: Sequence[int], expanded_ids: Sequence[int], image_token_id: int | None
) -> tuple[int, ...]:
    """Return the positions of an expanded prompt's text, without the image's tokens and the processor's additions.

    Args:
        prompt_ids: The prompt with one placeholder.
        expanded_ids: The prompt as the model reads it.
        image_token_id: The placeholder, if the configuration names it.
    """
    start = common_prefix(prompt_ids, expanded_ids)
    longest_end = min(len(prompt_ids), len(expanded_ids)) - start
    num_end = min(common_prefix(prompt_ids[::-1], expanded_ids[::-1]), longest_end)
    inside = range(start, len(expanded_ids) - num_end)
    return tuple(
        position for position, token in enumerate(expanded_ids) if position not in inside and token != image_token_id
    )


def common_prefix(first: Sequence[int], second: Sequence[int]) -> int:
    """Return the length of the common prefix of two sequences."""
    for index, (left, right) in enumerate(zip(first, second, strict=False)):
        if left != right:
            return index
    return min(len(first), len(second))


def _messages(turns: Sequence[Turn], num_images: int) -> list[Message]:
    """Put the images before the first question; several are named, so that a text can refer to them."""
    messages = [_message(turn.role, turn.text) for turn in turns]
    opening: list[Message] = []
    for number in range(num_images):
        opening.append({"type": "image"})
        if num_images > 1:
            opening.append({"type": "text", "text": f"(IMAGE{number + 1})\n"})
    messages[0]["content"] = [*opening, *messages[0]["content"]]
    return messages


def _message(role: Role, text: str) -> Message:
    return {"role": role.value, "content": [{"type": "text", "text": text}]}


REUSES_PROMPT = frozenset(
    {"llava", "llava_onevision", "idefics3", "smolvlm", "internvl", "qwen2_vl", "qwen2_5_vl", "qwen3_vl", "gemma3"}
)
"""Model types whose prompt cache is continued with several answers at once, because the tests show that this changes
nothing. An image is then encoded once per question instead of once per choice. The states of linear attention (Qwen3.5)
cannot be repeated for several answers."""


class TransformersModel:
    """Adapts a transformers checkpoint to the model contract.

    Args:
        model: A model in any dtype, on any device; switched to evaluation mode.
        processor: The same checkpoint's processor, with a chat template.
        name: Shown in results.
        reuses_prompt: Whether image and prompt are read once for all choices.
        max_new_tokens: Maximum length of the model's own answer.
    """

    def __init__(
        self, model: PreTrainedModel, processor: ProcessorMixin, name: str, reuses_prompt: bool, max_new_tokens: int
    ) -> None:
        self.name = name
        self._max_new_tokens = max_new_tokens
        self.dtype, self.device = str(model.dtype).removeprefix("torch."), str(model.device)
        self._model = model.eval()
        self._processor = processor
        tokenizer = processor.tokenizer
        if tokenizer.pad_token is None:
            tokenizer.pad_token = tokenizer.eos_token
        tokenizer.padding_side = "right"
        self._prompt = ChatPrompt(processor, _end_tokens(model, processor))
        self._reuses_prompt = reuses_prompt

    @torch.inference_mode()
    def score_choices(self, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str]) -> list[ChoiceScore]:
        """Return one score per choice.

        The conversation's score covers all text tokens except the first, which has no predecessor. Image tokens are not
        scored.

        Args:
            image: uint8 RGB (H, W, 3).
            turns: The conversation up to the user's last words.
            choices: One or more answers to it.

        Raises:
            ModelUnavailable: The model's logits are NaN or infinite.
        """
        prompt = self._prompt.render(turns)
        encoded = [self._prompt.encode_choice(turns, choice) for choice in choices]
        prompt_ids = self._prompt.encode(prompt)
        inputs = self._process([prompt], image)
        expanded = inputs["input_ids"][0].tolist()
        text = text_positions(prompt_ids, expanded, getattr(self._model.config, "image_token_id", None))
        is_whole = all(choice.num_shared == len(prompt_ids) for choice in encoded)
        if self._reuses_prompt and is_whole:
            scores = self._continue_prompt(inputs, text, encoded)
        else:
            num_dropped = [len(prompt_ids) - choice.num_shared for choice in encoded]
            scores = self._read_all(image, text, encoded, [len(expanded) - dropped for dropped in num_dropped])
        require_no_nan(torch.tensor([score.conversation_log_prob for score in scores]), self.name)
        return scores

    def segment(self, image: np.ndarray, turns: Sequence[Turn], answer: str, spans: Sequence[CharSpan]) -> np.ndarray:
        """Not supported; raises NotImplementedError."""
        raise NotImplementedError("image-text-to-text checkpoints return no masks")

    def generate(self, image: np.ndarray, turns: Sequence[Turn]) -> Generation:
        """Not supported: an answer is scored by its tagged parts and masks, and this model returns neither."""
        raise NotImplementedError("image-text-to-text checkpoints tag no parts")

    @torch.inference_mode()
    def reply(self, image: np.ndarray, turns: Sequence[Turn]) -> str:
        """Answer greedily, in text alone.

        Raises:
            ModelUnavailable: The model's logits are NaN or infinite.
        """
        inputs = self._process([self._prompt.render(turns)], image)
        watch = LogitsWatch(self.name)
        ids = self._model.generate(
            **inputs,
            max_new_tokens=self._max_new_tokens,
            do_sample=False,
            logits_processor=LogitsProcessorList([watch]),
        )
        watch.check()
        new_ids = ids[0, inputs["input_ids"].shape[1] :]
        return str(self._processor.tokenizer.decode(new_ids, skip_special_tokens=True)).strip()

    def _process(self, texts: Sequence[str], image: np.ndarray) -> BatchFeature:
        """Return the model inputs of rendered texts about one image."""
        inputs = self._processor(
            text=list(texts),
            images=[[Image.fromarray(image)] for _ in texts],
            padding=True,
            return_tensors="pt",
            add_special_tokens=self._prompt.adds_special_tokens(texts[0]),
        )
        return inputs.to(self._model.device, dtype=self._model.dtype)

    def _continue_prompt(
        self, inputs: BatchFeature, text: Sequence[int], choices: Sequence[EncodedChoice]
    ) -> list[ChoiceScore]:
        """Read image and prompt once, then all answers as continuations of the prompt."""
        output = self._model(**inputs, use_cache=True)
        prompt_ids = inputs["input_ids"][0]
        prompt_log_probs = _next_token_log_probs(output.logits[0, :-1], prompt_ids[1:])
        in_prompt = _sum_at(prompt_log_probs, text)
        first = output.logits[0, -1:]  # [1, V]: predicts the first token of every answer
        cache = output.past_key_values
        cache.batch_repeat_interleave(len(choices))
        # Answers are padded on the right, where no answer token attends, so continuations need no attention mask.
        pad = int(self._processor.tokenizer.pad_token_id)
        width = max(len(choice.answer_ids) for choice in choices)
        rows = [[*choice.answer_ids, *[pad] * (width - len(choice.answer_ids))] for choice in choices]
        answers = torch.tensor(rows, device=prompt_ids.device)  # [N, L]
        logits = self._model(input_ids=answers, past_key_values=cache, use_cache=True).logits  # [N, L, V]
        scores = []
        for row, choice in enumerate(choices):
            num_tokens = len(choice.answer_ids)
            predictions = torch.cat([first, logits[row, : num_tokens - 1]])
            answer = float(_next_token_log_probs(predictions, answers[row, :num_tokens]).sum())
            scores.append(ChoiceScore(answer, num_tokens, in_prompt + answer, _count(text) + num_tokens))
        return scores

    def _read_all(
        self, image: np.ndarray, text: Sequence[int], choices: Sequence[EncodedChoice], starts: Sequence[int]
    ) -> list[ChoiceScore]:
        """Read every finished conversation with its image as one batch; `starts` are the answers' first positions."""
        inputs = self._process([choice.text for choice in choices], image)
        logits = self._model(**inputs).logits  # [N, T, V]
        scores = []
        for row, (choice, start) in enumerate(zip(choices, starts, strict=True)):
            end = start + len(choice.answer_ids)
            ids = inputs["input_ids"][row, :end]
            if ids[start:].tolist() != list(choice.answer_ids) or int(inputs["attention_mask"][row].sum()) != end:
                raise ValueError(f"the processor tokenizes the answer differently than its tokenizer: {choice.text!r}")
            log_probs = _next_token_log_probs(logits[row, : end - 1], ids[1:])
            answer = float(log_probs[start - 1 :].sum())
            kept = [position for position in text if position < start]
            in_prompt = _sum_at(log_probs, kept)
            num_tokens = len(choice.answer_ids)
            scores.append(ChoiceScore(answer, num_tokens, in_prompt + answer, _count(kept) + num_tokens))
        return scores


def load_transformers_model(
    checkpoint: str, device: str, max_new_tokens: int, dtype: str = "auto"
) -> TransformersModel:
    """Load a checkpoint folder; download nothing and run no code from it.

    Args:
        checkpoint: Folder with config.json, safetensors weights, processor and chat template.
        device: "cpu", "cuda", "cuda:1", ...
        max_new_tokens: Maximum length of the model's own answer.
        dtype: "auto" (bfloat16 on a CUDA GPU, float32 elsewhere), or torch's name of a dtype.

    Raises:
        ValueError: The architecture is not one of transformers' own, or something is missing.
    """
    folder = Path(checkpoint)
    _check_architecture(folder)
    usual = torch.bfloat16 if device.startswith("cuda") else torch.float32
    chosen = usual if dtype == "auto" else getattr(torch, dtype)
    try:
        processor = load_processor(folder)
        model = AutoModelForImageTextToText.from_pretrained(
            folder, local_files_only=True, dtype=chosen, use_safetensors=True
        )
    except ImportError as error:
        raise ValueError(f"{folder} needs a package that is not installed: {error}") from error
    except SafetensorError as error:
        raise ValueError(f"{folder}: a weight file is damaged ({error}); download it again") from error
    if getattr(processor, "tokenizer", None) is None:
        raise ValueError(f"{folder} has no processor of text and images (processor_config.json)")
    reuses_prompt = model.config.model_type in REUSES_PROMPT
    model.to(torch.device(device))  # type: ignore[arg-type]  # transformers' wrapper of it is annotated wrongly
    return TransformersModel(model, processor, f"transformers:{folder.resolve().name}", reuses_prompt, max_new_tokens)


def _check_architecture(folder: Path) -> None:
    path = folder / "config.json"
    if not path.is_file():
        raise ValueError(f"{folder} is not a transformers checkpoint: it has no config.json")
    model_type = json.loads(path.read_text(encoding="utf-8")).get("model_type")
    if model_type not in CONFIG_MAPPING:
        raise ValueError(
            f"{path}: the model type {model_type!r} is unknown to transformers {__version__}; code that comes with a "
            "checkpoint is not run"
        )


def _end_tokens(model: PreTrainedModel, processor: ProcessorMixin) -> tuple[str, ...]:
    """Return the tokens that end an answer as text, the tokenizer's own first."""
    ids = model.generation_config.eos_token_id if model.generation_config is not None else None
    listed = ids if isinstance(ids, list) else [] if ids is None else [ids]
    tokens = [processor.tokenizer.eos_token, *processor.tokenizer.convert_ids_to_tokens(listed)]
    return tuple(dict.fromkeys(token for token in tokens if token))


def _next_token_log_probs(logits: Tensor, targets: Tensor) -> Tensor:
    """Return the log-probabilities (nats, float64 [T]) of targets [T] under logits [T, V]."""
    return logits.float().log_softmax(-1).gather(1, targets[:, None].to(logits.device))[:, 0].double()


def _sum_at(log_probs: Tensor, positions: Sequence[int]) -> float:
    """Sum over token positions; `log_probs[i]` belongs to the token at position i + 1."""
    index = torch.tensor([position - 1 for position in positions if position > 0], dtype=torch.long)
    return float(log_probs[index.to(log_probs.device)].sum())


def _count(positions: Sequence[int]) -> int:
    return sum(position > 0 for position in positions)
