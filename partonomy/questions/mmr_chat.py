"""MMR-like pairs from any chat model behind a callback, filtered by the paper's criteria (section 3.1, 3.2).

MMR-like, not the published MMR: its prompt was shown to GPT-4V and its pairs were read by people.
"""

from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from partonomy.benchmarks.multi_target_items import Kind
from partonomy.datasets.mmr import MmrQuestion
from partonomy.images import load_image
from partonomy.questions.mmr_filters import Criterion, Fault, find_faults
from partonomy.questions.mmr_pairs import UNANSWERED, MadePairs, Rejection, reject
from partonomy.questions.mmr_prompt import listed_targets, prompt_hash, write_prompt
from partonomy.questions.mmr_replies import read_pair, split_reply
from partonomy.questions.mmr_scene import Scene, kind_of, read_scene
from partonomy.structures import AnnotatedImage

Ask = Callable[[np.ndarray, str], str]
"""Shows an image, uint8 RGB (H, W, 3), with a prompt and returns the reply; raises NoReply for this image alone."""


class NoReply(RuntimeError):
    """The model did not answer about one image; it may about others."""


class ChatMaker:
    """Makes pairs by asking a chat model once an image.

    Args:
        ask: the model. It should keep its answers: a build that was stopped asks from the beginning.
        image_root: of the data set.
        settings: what decides the replies, as JSON values (the model's name, how it is asked).
    """

    def __init__(self, ask: Ask, image_root: Path, settings: Mapping[str, object]) -> None:
        self._ask = ask
        self._image_root = image_root
        self.settings: Mapping[str, object] = {"maker": "chat", "prompt_sha256": prompt_hash(), **settings}

    def make(self, image: AnnotatedImage, kind: Kind | None) -> MadePairs:
        """See `PairMaker`.

        Raises:
            FileNotFoundError, ValueError: the image cannot be read; names it.
        """
        scene = read_scene(image)
        if not listed_targets(scene, kind):
            return MadePairs()
        pixels = load_image(self._image_root / image.file_name, image.height, image.width)
        try:
            reply = self._ask(pixels, write_prompt(scene, kind))
        except NoReply as error:
            return MadePairs(rejections=(Rejection(UNANSWERED, str(error), image.file_name, ""),))
        return judge_reply(reply, scene, kind)


def judge_reply(reply: str, scene: Scene, kind: Kind | None) -> MadePairs:
    """Read a reply and keep the pairs without a fault."""
    pairs = split_reply(reply)
    if not pairs:
        fault = Fault(Criterion.CLARITY, "the reply has no pair in the form asked for", reply[:80])
        return MadePairs(rejections=(reject("", "", fault),))
    questions: list[MmrQuestion] = []
    rejections: list[Rejection] = []
    asked: set[str] = set()
    for raw in pairs:
        read = read_pair(raw, scene, f"{scene.image.image_id}:{len(questions)}")
        faults = [*read.faults, *find_faults(read.question, scene)]
        if raw.question in asked:
            faults.append(Fault(Criterion.CLARITY, "the question was asked before", raw.question))
        if kind is not None and read.question.targets and kind_of(read.question) is not kind:
            faults.append(Fault(Criterion.COHERENCE, f"the targets are not {kind.value}", raw.answer))
        asked.add(raw.question)
        rejections += [reject(raw.question, raw.answer, fault) for fault in faults]
        if not faults:
            questions.append(read.question)
    return MadePairs(tuple(questions), tuple(rejections))
