"""Train a grounded multimodal model: `deepspeed train.py --config configs/plum_tiny_stage0.yaml [--key value ...]`.

Any key of the YAML can be overridden (`--optimizer.learning_rate 1e-4`); unknown keys are refused. Running the same
command again resumes its run; `--overwrite` starts it anew. `bash scripts/train.sh CONFIG` chooses GPUs and nodes.

Exit status: 0 when the run is finished, 1 after an error. A run that was stopped has saved a checkpoint and ends with
130 (Ctrl-C), 143 (SIGTERM) or 75 (SIGUSR1, or `max_minutes` is over).
"""

import sys

from plum.cli.train import run_training


def main() -> None:
    """Command line entry."""
    sys.exit(run_training(sys.argv[1:]))


if __name__ == "__main__":
    main()
