"""Names and summaries of the commands, which `--help` shows without importing any of them."""

from typing import Final

COMMANDS: Final[dict[str, str]] = {
    "train": "train a model from a configuration; the same program as train.py",
    "finetune": "fine-tune a saved model on your annotated images, score it and write a report",
    "segment": "answer a question about an image and segment the phrases that the answer tags",
    "chat": "chat about an image in the terminal; the model sees all earlier turns",
    "demo": "ask about photos on a web page, and segment any words of the answer",
    "train-tokenizer": "train a byte-level BPE tokenizer on all texts that data sets can yield",
    "teacher-forced": "measure span tags and next-token loss on held-out data",
    "export": "merge a trained model's adapters and save the result",
    "push": "upload a saved model to the Hugging Face Hub, with its model card",
    "pull": "download a model of the Hugging Face Hub to a folder",
    "predict": "ask about many images and write overlays, masks and an HTML page",
    "data-status": "list the data sets that are there, and where to get the others",
    "convert": "convert a published checkpoint of LISA, M2SA, GLaMM or PLUM's authors to a saved model",
    "convert-llava": "convert the published weights of LLaVA, CLIP and SAM",
    "validate": "score a model on a benchmark; same as `python -m partonomy run`, with plum as the default model",
    "retention": "compare VQA scores of runs with and without adapters (Table 5)",
    "mmr-tables": "compare runs with the rows of the MMR paper's Tables 2 to 5 and 8",
    "doctor": "check a run's installation, weights, data and memory before it starts",
    "costs": "memory and FLOPs of configurations (the MMR paper's Table 7)",
}
"""Name of each command -> its summary. Its module in this package has `add_command`."""

PROGRAM: Final = "python -m plum"

EXAMPLES: Final[dict[str, str]] = {
    "train": "--config configs/plum_tiny_stage0.yaml --optimizer.learning_rate 1e-4",
    "finetune": "--data instances.json --images photos --object_name car \\\n"
    "      --init_from runs/quickstart/model --output runs/mine",
    "segment": "--checkpoint runs/quickstart/model --image photo.jpg \\\n"
    "      --question 'Which parts are visible?' --output out",
    "chat": "--checkpoint runs/quickstart/model --image photo.jpg",
    "demo": "--checkpoint runs/quickstart/model",
    "push": "runs/quickstart/model my-name/my-model",
    "pull": "my-name/my-model models/my-model",
    "train-tokenizer": "--datasets data/synthetic/train --output data/tokenizer",
    "teacher-forced": "--checkpoint runs/quickstart/model --data data/synthetic/validation \\\n"
    "      --output runs/quickstart/teacher_forced.json",
    "export": "runs/mine/run plum-mine-bf16 --dtype bfloat16 --max_shard_size 5GB",
    "predict": "photos --checkpoint runs/quickstart/model \\\n"
    "      --question 'Which parts are visible?' --output out/photos",
    "data-status": "--root dataset --missing",
    "convert": "weights/LISA-7B-v1 weights/lisa_7b --clip weights/clip-vit-large-patch14",
    "convert-llava": "weights/llava-v1.5-7b-hf weights/plum_7b_base --sam weights/sam_vit_h_4b8939.pth",
    "validate": "partonomy --checkpoint runs/quickstart/model --questions data/mine --output runs/mine",
    "retention": "runs/textvqa runs/gqa runs/pope",
    "mmr-tables": "runs/mmr_val runs/refcocom --format markdown",
    "doctor": "--config configs/plum_13b_0shot.yaml --gpus 8",
    "costs": "configs/plum_7b_0shot.yaml configs/plum_13b_0shot.yaml --gpus 8",
}
"""Name of each command -> arguments of an example, which its help text shows."""
