"""One multiple-choice question whose choices a model sees all at once."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from partonomy.benchmarks.listwise import REFUSED, ParsedReply, listwise_turns, parse_reply, shuffled_order
from partonomy.evaluation.model_api import GroundedModel, ReplyingModel, ReplyRefused, Turn
from partonomy.evaluation.records import ListwiseAnswer
from partonomy.metrics.multiple_choice import ChoiceSelection


@dataclass(frozen=True)
class ListwiseChoice:
    """The model's answer and, in the question's own order, the index of the choice that it names."""

    answer: ListwiseAnswer
    index: int | None

    @property
    def selection(self) -> ChoiceSelection | None:
        """The choice, the same under every selector."""
        return None if self.index is None else ChoiceSelection(self.index, self.index, self.index)


def answer_listwise(
    model: GroundedModel, image: np.ndarray, turns: Sequence[Turn], choices: Sequence[str], order_key: str
) -> ListwiseChoice:
    """Show the choices in a shuffled order and read the reply.

    Args:
        model: The model; without `reply` it is asked to `generate`.
        image: uint8 RGB (H, W, 3).
        turns: The conversation up to the question.
        choices: Its answers.
        order_key: Decides the order, see `shuffled_order`.
    """
    order = shuffled_order(order_key, len(choices))
    shown = [choices[index] for index in order]
    asked = listwise_turns(turns, shown)
    try:
        reply = model.reply(image, asked) if isinstance(model, ReplyingModel) else model.generate(image, asked).text
        parsed = parse_reply(reply, shown)
    except ReplyRefused as refusal:
        reply, parsed = str(refusal), ParsedReply(None, REFUSED)
    index = None if parsed.position is None else order[parsed.position]
    return ListwiseChoice(ListwiseAnswer(order, reply, parsed.problem), index)
