"""Run an exported task folder in lmms-eval and compare replies and scores with this project's own.

    python -m venv ENV && ENV/bin/pip install lmms-eval decord msgspec "filelock<3.20"
    ENV/bin/pip install --no-deps .          # this package, which the tasks call
    python -m scripts.bench.lmms_eval_run --lmms_python ENV/bin/python --images 12

Three runs of drawn questions of every type, on CPU and offline:

- choices: a LLaVA with random weights answers in lmms-eval (`llava_hf`) and in `validate_partonomy.py --model
  transformers --choice_protocol listwise`. Of its output matrix only the rows of the letters A to E are kept, so that
  one new token names a choice; a second pass writes longer replies, which name none or several.
- masks: the masks of `--model random` are written as lmms-eval's log and scored by lmms-eval (`from_log`).
- short answers (POPE, TextVQA): lmms-eval's scoring functions and this project's on the same replies: listed ones,
  and those of four families of models with random weights, run as `python -m partonomy run textvqa|pope`.
  `--write_table FILE` keeps lmms-eval's scores, which tests/partonomy/benchmarks/test_lmms_eval_scores.py holds.

The last line is JSON with versions and counts; the status is 1 if a reply or a score differs. lmms-eval 0.7.3 imports
`filelock._api`, which filelock 4 lacks, hence the bound. torchvision must fit torch (`operator torchvision::nms does
not exist` says that it does not); without it, both sides use the image processors that need only PIL.
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from partonomy.__main__ import main as run_command
from partonomy.benchmarks.pope import pope_score
from partonomy.benchmarks.vqa import VqaItem, VqaProtocol, soft_score
from partonomy.harness.summary import Summary
from partonomy.structures import QuestionType
from scripts.bench.lmms_eval_replies import BARE, POPE_REPLIES, TEXTVQA_ANSWERS, TEXTVQA_REPLIES
from scripts.bench.stock_checkpoints import ARCHITECTURES, FAMILIES, keep_tokens, save_llava
from tests.partonomy.benchmarks.vqa_world import textvqa_record, write_pope, write_textvqa
from tests.partonomy.conftest import write_questions
from validate_partonomy import main as validate

TOLERANCE = 1e-12
CHOICES, MASKS = "partonomy_choices", "partonomy_masks"
_VERSIONS = ("lmms_eval", "torch", "transformers", "datasets", "accelerate", "filelock", "numpy", "pillow")
_PRINT_VERSIONS = f"""
import json, platform
from importlib.metadata import version
print(json.dumps({{"python": platform.python_version()}} | {{name: version(name) for name in {_VERSIONS!r}}}))
"""
_SCORE_SHORT_ANSWERS = """
import json, sys
from lmms_eval.tasks.pope import utils as pope
from lmms_eval.tasks.textvqa import utils as textvqa
cases = json.load(sys.stdin)
found = {"pope": [], "textvqa": []}
for reply, answer in cases["pope"]:
    scored = pope.pope_process_results({"question_id": 0, "answer": answer}, [reply])
    found["pope"].append({"reply": reply, "answer": answer, "score": scored["pope_accuracy"]["score"]})
for reply, answers in cases["textvqa"]:
    document = {"question_id": 0, "answers": list(answers)}
    score = textvqa.textvqa_process_results(document, [reply])["exact_match"]
    found["textvqa"].append({"reply": reply, "answers": answers, "score": score})
print(json.dumps(found))
"""


@dataclass(frozen=True)
class Comparison:
    """Counts of what was compared, and the differences in words."""

    num_replies: int
    num_scores: int
    differences: tuple[str, ...]


@dataclass(frozen=True)
class LmmsRun:
    """What lmms-eval wrote: scores by task and metric, and its samples by task, in the order of the documents."""

    scores: Mapping[str, Mapping[str, float]]
    samples: Mapping[str, Sequence[Mapping[str, Any]]]


class Environment:
    """An interpreter with lmms-eval, run offline.

    Args:
        python: the interpreter.
        cache: folder for what lmms-eval's libraries cache.
    """

    def __init__(self, python: Path, cache: Path) -> None:
        self._python = python
        offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "HF_HOME": str(cache), "OMP_NUM_THREADS": "1"}
        hidden = ("PYTHONPATH", "VIRTUAL_ENV")
        self._variables = {key: value for key, value in os.environ.items() if key not in hidden} | offline
        self._folder = cache
        cache.mkdir(parents=True)

    def run(self, arguments: Sequence[str], given: str = "") -> str:
        """Run the interpreter and return its output.

        Raises:
            RuntimeError: it fails; the message is the end of its output.
        """
        done = subprocess.run(
            [str(self._python), *arguments],
            input=given,
            env=self._variables,
            cwd=self._folder,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode:
            raise RuntimeError(
                f"{self._python} {' '.join(arguments)[:200]} failed:\n{(done.stdout + done.stderr)[-4000:]}"
            )
        return done.stdout

    def evaluate(self, tasks: Path, group: str, model: str, model_arguments: str, output: Path, *more: str) -> LmmsRun:
        """Run a group of an exported folder and read what lmms-eval wrote."""
        self.run(
            [
                *("-m", "lmms_eval", "--include_path", str(tasks), "--tasks", group),
                *("--model", model, "--model_args", model_arguments, "--batch_size", "1", "--device", "cpu"),
                *("--log_samples", "--output_path", str(output), *more),
            ]
        )
        (results,) = output.rglob("*_results.json")
        content = json.loads(results.read_text(encoding="utf-8"))["results"]
        scores = {
            task: {name.removesuffix(",none"): value for name, value in found.items() if name.endswith(",none")}
            for task, found in content.items()
        }
        samples = {}
        for path in output.rglob("*_samples_*.jsonl"):
            lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
            samples[path.stem.partition("_samples_")[2]] = sorted(lines, key=lambda line: int(line["doc_id"]))
        return LmmsRun(scores, samples)


def compare_choices(
    environment: Environment, questions: Path, tasks: Path, folder: Path, *, model: Path, limit: int
) -> Comparison:
    """Answer all multiple-choice questions on both sides with at most `limit` new tokens."""
    arguments = f"pretrained={model},dtype=float32,device_map=cpu"
    kwargs = ("--gen_kwargs", f"max_new_tokens={limit}")
    theirs = environment.evaluate(tasks, CHOICES, "llava_hf", arguments, folder / "lmms", *kwargs)
    flags = ["--model", "transformers", "--checkpoint", str(model), "--device", "cpu", "--questions", str(questions)]
    flags += ["--choice_protocol", "listwise", "--max_new_tokens", str(limit), "--output", str(folder / "own")]
    summary = _quietly(flags)
    records = _read_lines(folder / "own" / "records.jsonl")
    own = {
        (record["item_id"], subject): record[f"{subject}_choice"]["listwise"]["reply"]
        for record in records
        for subject in ("parts", "object")
        if record[f"{subject}_choice"]
    }
    differences, num_replies = [], 0
    for task, samples in theirs.samples.items():
        subject = "object" if task.endswith("_object") else "parts"
        for document, sample in zip(_read_lines(tasks / "data" / f"{task}.jsonl"), samples, strict=True):
            num_replies += 1
            reply = own[document["question_id"], subject]
            if sample["filtered_resps"] != reply:
                differences.append(f"{task} {document['question_id']}: {sample['filtered_resps']!r}, own {reply!r}")
    found, num_scores = _compare_scores(theirs, summary)
    if num_replies != len(own):
        differences.append(f"{num_replies} replies in lmms-eval, {len(own)} own")
    return Comparison(num_replies, num_scores, (*differences, *found))


def compare_masks(environment: Environment, questions: Path, tasks: Path, folder: Path) -> Comparison:
    """Score the masks of the random model on both sides."""
    summary = _quietly(["--model", "random", "--questions", str(questions), "--output", str(folder / "own")])
    exported = folder / "predictions.json"
    with contextlib.redirect_stdout(io.StringIO()):
        status = run_command(["export-predictions", str(folder / "own"), "--output", str(exported)])
    assert status == 0, "predictions could not be exported"
    records = _read_lines(folder / "own" / "records.jsonl")
    entries = json.loads(exported.read_text(encoding="utf-8"))
    by_id = {record["item_id"]: entry for record, entry in zip(records, entries, strict=True)}
    logs = folder / "logs"
    logs.mkdir()
    num_replies = 0
    for data in sorted((tasks / "data").glob("*_masks.jsonl")):
        replies = []
        for number, document in enumerate(_read_lines(data)):
            predicted = by_id[document["question_id"]]["predicted_segmentations"]
            masks = [mask for phrase in document["phrases"] for mask in predicted[phrase]]
            replies.append({"doc_id": number, "resps": [[json.dumps({"masks": masks})]]})
        log = {
            "args": {"model": "random", "model_args": "", "limit": None},
            "model_configs": {"task": data.stem},
            "logs": replies,
        }
        (logs / f"{data.stem}.json").write_text(json.dumps(log), encoding="utf-8")
        num_replies += len(replies)
    theirs = environment.evaluate(tasks, MASKS, "from_log", f"logs={logs}", folder / "lmms")
    found, num_scores = _compare_scores(theirs, summary)
    return Comparison(num_replies, num_scores, tuple(found))


def score_short_answers(environment: Environment) -> dict[str, list[dict[str, Any]]]:
    """Return lmms-eval's scores of the listed replies."""
    pope = [(reply, answer) for reply in POPE_REPLIES for answer in ("yes", "no")]
    textvqa = [(reply, answers) for answers in TEXTVQA_ANSWERS for reply in (*TEXTVQA_REPLIES, *answers)]
    return _score(environment, pope, textvqa)


def _score(
    environment: Environment, pope: Sequence[tuple[str, str]], textvqa: Sequence[tuple[str, Sequence[str]]]
) -> dict[str, list[dict[str, Any]]]:
    cases = {"pope": pope, "textvqa": textvqa}
    found: dict[str, list[dict[str, Any]]] = json.loads(
        environment.run(["-c", _SCORE_SHORT_ANSWERS], json.dumps(cases)).splitlines()[-1]
    )
    return found


def compare_short_answers(table: Mapping[str, Sequence[Mapping[str, Any]]]) -> Comparison:
    """Compare lmms-eval's scores with this project's: all of TextVQA, and the replies to POPE that are one word."""
    differences = []
    for case in table["textvqa"]:
        own = soft_score(case["reply"], case["answers"])
        if abs(own - case["score"]) > TOLERANCE:
            differences.append(f"textvqa {case['reply']!r} {case['answers']}: {case['score']}, own {own}")
    for case in table["pope"]:
        own = pope_score(case["reply"], _pope_item(case["answer"]), VqaProtocol.LLAVA_OFFICIAL)
        if case["reply"].strip() in BARE and own != case["score"]:
            differences.append(f"pope {case['reply']!r} {case['answer']}: {case['score']}, own {own}")
    return Comparison(sum(map(len, table.values())), sum(map(len, table.values())), tuple(differences))


def compare_families(environment: Environment, folder: Path) -> Comparison:
    """Run both benchmarks on a model of each family and score its replies in lmms-eval.

    People's answers to TextVQA are made from the model's own replies of a first run, so that scores differ; POPE's
    models say almost nothing but yes and no.
    """
    num_replies, differences = 0, []
    for family in FAMILIES:
        root = _make(folder / family)
        model = ARCHITECTURES[family](root / "model")
        write_textvqa(root)
        first = _answers(model, "textvqa", root, root / "first", 8)
        given = [
            tuple([record["reply"]] * number + ["a cup"] * (10 - number))
            for number, record in enumerate(first, start=1)
        ]
        image_of = ("aa", "bb", "bb")
        write_textvqa(root, [textvqa_record(34602 + i, image_of[i], answers) for i, answers in enumerate(given)])
        own = {"textvqa": _answers(model, "textvqa", root, root / "second", 8)}
        write_pope(root)
        own["pope"] = _answers(keep_tokens(model, ("yes", "no")), "pope", root, root / "pope", 1)
        theirs = _score(
            environment,
            [(record["reply"], record["truths"][0]) for record in own["pope"]],
            [(record["reply"], record["truths"]) for record in own["textvqa"]],
        )
        for name, records in own.items():
            for record, case in zip(records, theirs[name], strict=True):
                is_compared = name == "textvqa" or record["reply"] in BARE
                num_replies += is_compared
                if is_compared and abs(record["score"] - case["score"]) > TOLERANCE:
                    differences.append(f"{family} {name} {record['reply']!r}: {case['score']}, own {record['score']}")
    return Comparison(num_replies, num_replies, tuple(differences))


def _answers(model: Path, benchmark: str, root: Path, output: Path, limit: int) -> list[dict[str, Any]]:
    """Run a benchmark of short answers and return its records."""
    flags = ["--model", "transformers", "--checkpoint", str(model), "--device", "cpu", "--max_new_tokens", str(limit)]
    with contextlib.redirect_stdout(io.StringIO()):
        status = run_command(["run", benchmark, *flags, "--root", str(root), "--output", str(output)])
    assert status == 0, f"{benchmark} did not run"
    return _read_lines(output / "records.jsonl")


def _pope_item(answer: str) -> VqaItem:
    return VqaItem("item", "image", Path("image.jpg"), "Is there a wheel?", (answer,))


def _compare_scores(theirs: LmmsRun, summary: Summary) -> tuple[list[str], int]:
    """Compare every metric that both sides report for a type of question."""
    differences, num_compared = [], 0
    for question_type in QuestionType:
        for suffix in ("", "_object", "_masks"):
            for name, value in theirs.scores.get(f"partonomy_{question_type.value}{suffix}", {}).items():
                own = summary.groups[question_type.value].metrics.get(name)
                if own is None:
                    continue
                num_compared += 1
                if own.value is None or abs(own.value - value) > TOLERANCE:
                    differences.append(f"{question_type.value} {name}: {value}, own {own.value}")
    return differences, num_compared


def _quietly(flags: Sequence[str]) -> Summary:
    with contextlib.redirect_stdout(io.StringIO()):
        summary = validate(flags)
    assert summary is not None
    return summary


def _read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def main(lmms_python: Path, images: int, write_table: Path | None) -> int:
    """Run all comparisons and print their differences and, last, the counts."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        environment = Environment(lmms_python, folder / "cache")
        questions = write_questions(folder, tuple(QuestionType), images)
        tasks = folder / "tasks"
        with contextlib.redirect_stdout(io.StringIO()):
            assert run_command(["export-lmms-eval", str(questions), "--output", str(tasks)]) == 0
        lettered, plain = keep_tokens(save_llava(folder / "lettered")), save_llava(folder / "plain")
        comparisons = {}
        for kind, model, limit in (("letters", lettered, 1), ("long_replies", plain, 32)):
            comparisons[kind] = compare_choices(
                environment, questions, tasks, _make(folder / kind), model=model, limit=limit
            )
        comparisons["masks"] = compare_masks(environment, questions, tasks, _make(folder / "masks"))
        table = score_short_answers(environment)
        comparisons["short_answers"] = compare_short_answers(table)
        comparisons["families"] = compare_families(environment, _make(folder / "families"))
        versions = json.loads(environment.run(["-c", _PRINT_VERSIONS]).splitlines()[-1])
    if write_table is not None:
        content = json.dumps({"lmms_eval": versions["lmms_eval"], **table}, ensure_ascii=False, indent=1)
        write_table.write_text(content + "\n", encoding="utf-8")
    for kind, found in comparisons.items():
        for line in found.differences:
            print(f"{kind}: {line}", file=sys.stderr)
    counts = {
        kind: {"replies": found.num_replies, "scores": found.num_scores, "differences": len(found.differences)}
        for kind, found in comparisons.items()
    }
    print(json.dumps({"versions": versions, **counts}))
    return int(any(found.differences for found in comparisons.values()))


def _make(folder: Path) -> Path:
    folder.mkdir()
    return folder


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lmms_python", type=Path, required=True, help="interpreter of an environment with lmms-eval")
    parser.add_argument("--images", type=int, default=12, help="drawn images, each with a question of every type")
    parser.add_argument("--write_table", type=Path, help="JSON file to write: lmms-eval's scores of short answers")
    given = parser.parse_args()
    raise SystemExit(main(given.lmms_python.absolute(), given.images, given.write_table))
