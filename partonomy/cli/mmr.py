"""`python -m partonomy build-mmr`: builds MMR-like questions (not the published MMR) about a part data set."""

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

import numpy as np

from partonomy.datasets.sources.mmr import FOLDER
from partonomy.datasets.store import ANNOTATIONS_FILE, load_dataset
from partonomy.files import hash_files
from partonomy.locks import lock_folder
from partonomy.models.chat_endpoint import ChatSettings, EndpointError, build_chat_model
from partonomy.models.contract import ReplyRefused, Role, Turn
from partonomy.questions.mmr.build import NOTE, BuildState, FileCounts, build_file, build_mmr, find_build, rejected_file
from partonomy.questions.mmr.chat import Ask, ChatMaker, NoReply
from partonomy.questions.mmr.pairs import PairMaker
from partonomy.questions.mmr.templates import DEFAULT_FUNCTIONS, TemplateMaker, load_functions

PAPER_OPTIONS = '{"temperature": 0.7, "max_tokens": 850}'
CACHE_FOLDER = "answer_cache"
NUM_SHOWN = 20
DEFAULT_QUESTIONS = 3
"""Question-answer pairs per image; the paper asks GPT-4V for three to five."""


def build_mmr_like(
    dataset: str,
    output: str,
    *,
    split: Literal["train", "val", "test"],
    seed: int | None = None,
    questions_per_image: int | None = None,
    functions: str | None = None,
    endpoint: str | None = None,
    model_name: str | None = None,
    api_key_env: str | None = None,
    answer_cache: str | None = None,
    image_format: str | None = None,
    request_options: str | None = None,
    overwrite: bool = False,
) -> None:
    """Build MMR-like data (not the published MMR): implicit questions about objects and parts, in MMR's schema.

    The questions come from templates and a table of functions or, with --endpoint, from a chat model whose
    question-answer pairs are filtered by the paper's three criteria.

    Args:
        dataset: Folder of a data set (partonomy build).
        output: Root of the MMR layout to write to: MMR/MMR_SPLIT.json, images linked below refer_seg/.
        split: train, val (writes the three test files, too) or test (writes only the test files).
        seed: Templates: random seed; default 0.
        questions_per_image: Templates: questions per image; default 3.
        functions: Templates: YAML file with the functions of parts and objects; default the packaged one.
        endpoint: Chat model: address, e.g. http://localhost:8000/v1.
        model_name: Chat model: name of the model to request from the endpoint.
        api_key_env: Chat model: environment variable that holds the key.
        answer_cache: Chat model: folder of cached answers, used to resume an interrupted build; default next to MMR/.
        image_format: Chat model: png or jpeg; default png.
        request_options: Chat model: JSON options of every request; default the paper's.
        overwrite: Replace files that were made with other settings.
    """
    root = Path(output)
    data = load_dataset(Path(dataset))
    of_templates = {"seed": seed, "questions_per_image": questions_per_image, "functions": functions}
    of_chat = {"model_name": model_name, "api_key_env": api_key_env, "answer_cache": answer_cache}
    of_chat |= {"image_format": image_format, "request_options": request_options}
    maker: PairMaker
    if endpoint is None:
        _refuse(of_chat, "needs --endpoint")
        table = DEFAULT_FUNCTIONS if functions is None else Path(functions)
        count = DEFAULT_QUESTIONS if questions_per_image is None else questions_per_image
        maker = TemplateMaker(load_functions(table), hash_files([table]), seed or 0, count)
    else:
        _refuse(of_templates, "applies only to templates: leave it out with --endpoint")
        if model_name is None:
            raise ValueError("--endpoint needs --model_name")
        chat = ChatSettings(endpoint, model_name, image_format or "png", request_options or PAPER_OPTIONS)
        cache = root / CACHE_FOLDER if answer_cache is None else Path(answer_cache)
        maker = ChatMaker(_ask_endpoint(chat, api_key_env, cache), data.image_root, vars(chat))
    settings = {"dataset": data.name, "annotations_sha256": hash_files([Path(dataset) / ANNOTATIONS_FILE])}
    with lock_folder(root / FOLDER):  # for all splits, because val and test write the same three files
        state = find_build(root, split, maker, settings)
        if state is BuildState.DONE:
            print(f"{root}: {split} is already built with these settings, nothing to do")
            return
        if state is BuildState.OTHER and not overwrite:
            raise FileExistsError(f"{build_file(root, split)}: {state.value}; pass --overwrite or another --output")
        counts = build_mmr(data, maker, root, split, settings)
    print(f"{root}: {NOTE}")
    for name, one in counts.items():
        _print_counts(name, one)
    print(f"rejected pairs, one by one: {rejected_file(root, split)}")


def _ask_endpoint(settings: ChatSettings, key_variable: str | None, cache: Path) -> Ask:
    """Return the chat endpoint as a callback that caches its replies."""
    model = build_chat_model(settings, key_variable, cache)

    def ask(image: np.ndarray, prompt: str) -> str:
        try:
            return model.reply(image, (Turn(Role.USER, prompt),))
        except ReplyRefused as error:
            raise NoReply(f"refused: {error}") from error
        except EndpointError as error:
            raise NoReply(str(error)) from error

    return ask


def _refuse(flags: Mapping[str, object], reason: str) -> None:
    for flag, value in flags.items():
        if value is not None:
            raise ValueError(f"--{flag} {reason}")


def _print_counts(name: str, counts: FileCounts) -> None:
    kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(counts.by_kind.items()))
    several = sum(count for number, count in counts.by_targets.items() if number > 1)
    total = sum(counts.by_kind.values())
    print(f"  MMR_{name}.json: {total} questions about {counts.num_images} images")
    print(f"    {kinds}; {several} with several targets")
    if counts.without_question:
        print(f"    {counts.without_question} images without a question are left out")
    for (criterion, reason), count in sorted(counts.rejected.items()):
        print(f"    rejected, {criterion}: {reason}: {count}")
    for category, count in counts.not_askable.most_common(NUM_SHOWN):
        print(f"    not asked about (no known function): {category} ({count} annotations)")
    if len(counts.not_askable) > NUM_SHOWN:
        print(f"    and {len(counts.not_askable) - NUM_SHOWN} more categories, listed in build.json")
    for purpose, count in counts.withheld.most_common(NUM_SHOWN):
        print(f"    not asked in {count} images (further targets may serve it, or too many do): to {purpose}")
    if len(counts.withheld) > NUM_SHOWN:
        print(f"    and {len(counts.withheld) - NUM_SHOWN} more purposes, listed in build.json")
