"""Train a grounded multimodal model: `deepspeed train.py --config configs/plum_tiny_stage0.yaml [--key value ...]`.

Any key of the YAML can be overridden (`--optimizer.learning_rate 1e-4`); unknown keys are refused. Running the same
command again resumes its run. `bash scripts/train.sh CONFIG` chooses GPUs and nodes.
"""

import logging
import os
import sys

from plum.training.config_file import load_train_config
from plum.training.run import train


def main() -> None:
    """Command line entry."""
    is_main = os.environ.get("RANK", "0") == "0"
    logging.basicConfig(level=logging.INFO if is_main else logging.ERROR, format="%(message)s")
    logging.getLogger("plum.data.sources").setLevel(logging.INFO if is_main else logging.WARNING)  # replaced images
    try:
        config = load_train_config(sys.argv[1:])
    except ValueError as error:
        sys.exit(f"train.py: {error}")
    train(config)


if __name__ == "__main__":
    main()
