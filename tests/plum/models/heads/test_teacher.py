"""The teacher costs one short pass and no weights: counted by hooks on the modules of a training step."""

from collections import Counter
from dataclasses import replace

import torch
from torch import Tensor, nn

from plum.config import LoraConfig
from plum.losses.losses import span_kl_loss
from plum.models.grounded_lmm import GroundedLMM
from plum.models.heads.teacher import span_teacher_states, teacher_states
from plum.models.parameter_counts import count_components
from plum.models.systems.registry import build_model
from plum.models.tiny import TINY_TOKENS, tiny_batch, tiny_model_config
from plum.models.trainable import set_trainable
from plum.structures import TEXT_ONLY, Batch
from plum.train_config import LossConfig, TrainableConfig
from plum.training.objective import Objective

MIXED = (2, TEXT_ONLY, 0, 4, 1)
LENGTH, ANSWER = 23, 12  # tokens of a conversation: 1 + 4 image patches + 6 of the prompt + 12 of the answer


def make_model(lora: LoraConfig | None) -> GroundedLMM:
    torch.manual_seed(0)
    model = build_model(tiny_model_config(40, TINY_TOKENS, lora))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "lora_B" in name:  # zero at the start: the teacher would be the student
                nn.init.normal_(parameter, std=0.3)
    if lora is not None:
        set_trainable(model, TrainableConfig())
    return model


def make_batch(model: GroundedLMM, spans: tuple[int, ...] = MIXED) -> Batch:
    return tiny_batch(model.config, spans, torch.Generator().manual_seed(2))


class Calls:
    """Shapes of what a module is called with, and whether gradients were on."""

    def __init__(self, module: nn.Module) -> None:
        self.shapes: list[tuple[int, ...]] = []
        self.with_gradients: list[bool] = []
        module.register_forward_pre_hook(self._count, with_kwargs=True)

    def _count(self, module: nn.Module, arguments: tuple[object, ...], named: dict[str, object]) -> None:
        tensor = next(one for one in (*arguments, *named.values()) if isinstance(one, Tensor))
        self.shapes.append(tuple(tensor.shape))
        self.with_gradients.append(torch.is_grad_enabled())


def test_a_training_step_runs_each_part_as_often_as_it_must() -> None:
    model = make_model(LoraConfig(rank=2))
    stock, batch = model.llava.stock, make_batch(model)
    clip, sam = Calls(stock.model.vision_tower.embeddings), Calls(model.sam.image_encoder)
    language, head = Calls(stock.model.language_model), Calls(stock.lm_head)
    projector, decoder = Calls(stock.model.multi_modal_projector), Calls(model.sam.mask_decoder.transformer)
    result = Objective(model, LossConfig(kl=0.1))(batch)
    result.total.backward()
    # Four of the five conversations have an image: both towers see each once, and the teacher shares their outputs.
    assert [shape[0] for shape in clip.shapes] == [4]
    assert [shape[0] for shape in projector.shapes] == [4]
    assert sum(shape[0] for shape in sam.shapes) == 4
    # The student reads all five. The teacher reads the three with spans, without gradients, up to the end of the last
    # span: the fourth span of a conversation begins 9 tokens into its answer and is 2 long, 11 + 9 + 2 = 22.
    assert [shape[:2] for shape in language.shapes] == [(5, LENGTH), (3, 22)]
    assert language.with_gradients == [True, False]
    # Vocabulary logits of the supervised tokens alone, of the student alone.
    assert [shape[0] for shape in head.shapes] == [5 * ANSWER]
    assert len(decoder.shapes) == max(MIXED)
    assert result.terms.kl is not None
    assert float(result.terms.kl.detach()) > 0


def test_without_the_kl_term_there_is_no_teacher_pass() -> None:
    model = make_model(LoraConfig(rank=2))
    language = Calls(model.llava.stock.model.language_model)
    assert Objective(model, LossConfig(kl=0.0))(make_batch(model)).terms.kl is None
    assert len(language.shapes) == 1


def test_without_spans_there_is_no_teacher_pass() -> None:
    model = make_model(LoraConfig(rank=2))
    language = Calls(model.llava.stock.model.language_model)
    result = Objective(model, LossConfig(kl=0.1))(make_batch(model, (0, TEXT_ONLY)))
    assert len(language.shapes) == 1
    assert float(result.terms.kl) == 0.0  # type: ignore[arg-type]


def test_there_is_one_copy_of_the_language_model() -> None:
    adapted, plain = make_model(LoraConfig(rank=2)), make_model(None)
    counts = Counter({one.component: one.num_parameters for one in count_components(adapted)})
    expected = Counter({one.component: one.num_parameters for one in count_components(plain)})
    assert counts.pop("llava.lora") > 0
    assert counts == expected
    objective = Objective(adapted, LossConfig(kl=0.1))
    objective(make_batch(adapted))
    held = [*objective.parameters(), *objective.buffers()]
    assert len({tensor.data_ptr() for tensor in held}) == len(held)
    assert sum(p.numel() for p in objective.parameters()) == sum(p.numel() for p in adapted.parameters())


def test_the_short_pass_gives_the_states_of_the_long_one_and_the_same_loss() -> None:
    model = make_model(LoraConfig(rank=2)).eval()
    batch = make_batch(model)
    tokens = model.encode_images(batch.clip_pixels, batch.sam_pixels).tokens
    text = (batch.input_ids, batch.attention_mask, batch.shown)
    whole, short = teacher_states(model.llava, *text, tokens), span_teacher_states(model.llava, batch, tokens)
    assert not short.requires_grad
    ends = {0: 11 + 3 + 2, 3: 22, 4: 11 + 2}  # the conversations with spans
    for row in range(len(MIXED)):
        end = ends.get(row, 0)
        torch.testing.assert_close(short[row, :end], whole[row, :end], atol=1e-5, rtol=1e-5)
        assert not short[row, end:].any()
    student = model.llava.hidden_states(*text, tokens)
    losses = [span_kl_loss(student, states, batch.spans, 1.0, "mean") for states in (whole, short)]
    torch.testing.assert_close(losses[0], losses[1])
    assert float(losses[0].detach()) > 1e-4


def test_a_long_dialogue_does_not_lengthen_the_teachers_pass() -> None:
    """Another conversation's length is no matter, and of a conversation with spans nothing behind the last one."""
    model = make_model(LoraConfig(rank=2))
    batch = make_batch(model, (1, TEXT_ONLY))
    more = 50
    widened = {
        name: nn.functional.pad(getattr(batch, name), (0, more), value=value)
        for name, value in (("input_ids", 7), ("attention_mask", 1), ("labels", -100), ("tags", -100))
    }
    language = Calls(model.llava.stock.model.language_model)
    model(replace(batch, **widened), with_teacher=True)
    assert [shape[:2] for shape in language.shapes] == [(2, LENGTH + more), (1, 13)]


def test_a_common_beginning_is_run_once_by_student_and_teacher() -> None:
    model = make_model(LoraConfig(rank=2))
    batch = tiny_batch(model.config, (1, 2, 4), torch.Generator().manual_seed(2), conversations_per_image=3)
    language = Calls(model.llava.stock.model.language_model)
    model(batch, with_teacher=True)
    common = 5  # a token and four image patches
    spans_end = (13, 16, 22)
    assert [shape[:2] for shape in language.shapes] == [
        (1, common + 3 * (LENGTH - common)),
        (1, common + sum(end - common for end in spans_end)),
    ]
