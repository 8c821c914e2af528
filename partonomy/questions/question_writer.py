"""Writes questions as they are made, and resumes after a kill to byte-identical files.

While a build runs, its questions are in `questions.jsonl.tmp`. The first line of `build.progress.tmp` identifies the
build. Each step adds a line: the number of images done, the size and sha256 of their questions, and the counts. The
next run of the same build finds the last step whose bytes are on disk, truncates the files after it, and continues with
the next image.
"""

import hashlib
import json
import logging
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType

import msgspec

from partonomy.datasets.store import PARTIAL_QUESTIONS_FILE, PROGRESS_FILE, QUESTIONS_FILE
from partonomy.questions.image_questions import SkippedQuestion, SkipReason
from partonomy.structures import QuestionType

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class MadeQuestions:
    """The questions of a few consecutive images as lines of the file, and the types that could not be asked."""

    num_images: int
    lines: tuple[bytes, ...]
    question_types: tuple[QuestionType, ...]
    skipped: tuple[SkippedQuestion, ...]


class QuestionWriter:
    """Writes `questions.jsonl` of a folder in steps that survive the process.

    Args:
        folder: the existing data set folder.
        inputs: hash of everything that the questions depend on; an unfinished file with another hash is discarded.

    Attributes:
        num_images: number of images done; the build continues with the image at this index.
        num_questions: number of questions written, by type.
        skipped: number of images for which a type could not be asked, by type and reason.
    """

    def __init__(self, folder: Path, inputs: str) -> None:
        self.num_images = 0
        self.num_questions: Counter[QuestionType] = Counter()
        self.skipped: Counter[SkippedQuestion] = Counter()
        self._num_bytes = 0
        self._digest = hashlib.sha256()
        self._final, self._partial = folder / QUESTIONS_FILE, folder / PARTIAL_QUESTIONS_FILE
        self._progress = folder / PROGRESS_FILE
        for path in (self._partial, self._progress):
            path.touch()
        self._questions_file = self._partial.open("r+b")
        self._progress_file = self._progress.open("r+b")
        self._restore(json.dumps({"inputs": inputs}).encode() + b"\n")

    def __enter__(self) -> "QuestionWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._questions_file.close()
        self._progress_file.close()

    def write(self, made: MadeQuestions) -> None:
        """Append one step: first its questions, so that the step's line only refers to bytes that are on disk."""
        content = b"".join(made.lines)
        self._questions_file.write(content)
        self._questions_file.flush()
        self._digest.update(content)
        self._num_bytes += len(content)
        self.num_images += made.num_images
        self.num_questions.update(made.question_types)
        self.skipped.update(made.skipped)
        step = {
            "num_images": self.num_images,
            "num_bytes": self._num_bytes,
            "sha256": self._digest.hexdigest(),
            "num_questions": self.num_questions,
            "skipped": skipped_to_json(self.skipped),
        }
        self._progress_file.write(json.dumps(step).encode() + b"\n")
        self._progress_file.flush()

    @property
    def sha256(self) -> str:
        """Return the sha256 of the questions written so far."""
        return self._digest.hexdigest()

    def finish(self) -> None:
        """Rename the file to its final name. The progress file stays until `remove_progress`."""
        self._questions_file.flush()
        os.fsync(self._questions_file.fileno())
        self.__exit__(None, None, None)
        self._partial.replace(self._final)

    def remove_progress(self) -> None:
        """Delete the progress file once the build is complete."""
        self._progress.unlink()

    def _restore(self, header: bytes) -> None:
        """Restore the finished steps of an earlier run of the same build, and truncate both files after them."""
        lines = self._progress_file.readlines()
        num_kept = 0
        if lines[:1] == [header]:
            num_kept = len(header)
            for line in lines[1:]:
                if not self._take_step(line):
                    break
                num_kept += len(line)
            if self.num_images:
                logger.info("%s: resuming after %d images", self._partial.parent, self.num_images)
        for file, size in ((self._questions_file, self._num_bytes), (self._progress_file, num_kept)):
            file.seek(size)
            file.truncate()
        if not num_kept:
            self._progress_file.write(header)
            self._progress_file.flush()

    def _take_step(self, line: bytes) -> bool:
        """Restore one step; False if its line is incomplete or its questions differ from those on disk."""
        step = _parse_step(line)
        if step is None:
            return False
        block = self._questions_file.read(step.num_bytes - self._num_bytes)
        digest = self._digest.copy()
        digest.update(block)
        if digest.hexdigest() != step.sha256:
            return False
        self._digest = digest
        self._num_bytes = step.num_bytes
        self.num_images = step.num_images
        self.num_questions = Counter(step.num_questions)
        self.skipped = skipped_from_json(step.skipped)
        return True


def withdraw_questions(folder: Path) -> None:
    """Move the questions of a data set that is about to be rebuilt aside, so that nobody reads them meanwhile.

    If they belong to a build that was killed just before it wrote `build.json`, that build finds and continues them.
    """
    final, partial = folder / QUESTIONS_FILE, folder / PARTIAL_QUESTIONS_FILE
    if final.is_file() and not partial.is_file():
        final.replace(partial)
    final.unlink(missing_ok=True)


class _Step(msgspec.Struct):
    """A line of the progress file."""

    num_images: int
    num_bytes: int
    sha256: str
    num_questions: dict[QuestionType, int]
    skipped: list[tuple[QuestionType, SkipReason, int]]


def _parse_step(line: bytes) -> _Step | None:
    if not line.endswith(b"\n"):
        return None
    try:
        return msgspec.json.decode(line, type=_Step)
    except ValueError:  # a power cut can leave a block of zeros
        return None


def skipped_to_json(skipped: Mapping[SkippedQuestion, int]) -> list[list[object]]:
    """Convert the types that could not be asked, with their reasons and counts, to JSON."""
    return [[key.question_type, key.reason, count] for key, count in skipped.items()]


def skipped_from_json(rows: Sequence[tuple[QuestionType, SkipReason, int]]) -> Counter[SkippedQuestion]:
    """Read the result of `skipped_to_json`."""
    return Counter({SkippedQuestion(kind, reason): count for kind, reason, count in rows})
