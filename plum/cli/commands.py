"""The commands of `python -m plum`: each is a function, in a module of this package that its own help alone imports."""

from typing import Final

from partonomy.cli.programs import Command, Program

COMMANDS: Final[dict[str, Command]] = {
    command.name: command
    for command in (
        Command(
            "train",
            "train:train",
            example="--config configs/plum_tiny_stage0.yaml --optimizer.learning_rate 1e-4",
            fill="train:add_keys",
        ),
        Command(
            "finetune",
            "finetune:finetune",
            example="--data instances.json --images photos --object_name car \\\n"
            "      --init_from runs/quickstart/model --output runs/mine",
        ),
        Command(
            "segment",
            "segment:segment",
            example="--checkpoint runs/quickstart/model --image photo.jpg \\\n"
            "      --question 'Which parts are visible?' --output out",
        ),
        Command("chat", "chat:chat", example="--checkpoint runs/quickstart/model --image photo.jpg"),
        Command("demo", "demo:demo", example="--checkpoint runs/quickstart/model"),
        Command(
            "train-tokenizer",
            "train_tokenizer:train_tokenizer",
            example="--datasets data/synthetic/train --output data/tokenizer",
        ),
        Command(
            "teacher-forced",
            "teacher_forced:teacher_forced",
            example="--checkpoint runs/quickstart/model --data data/synthetic/validation \\\n"
            "      --output runs/quickstart/teacher_forced.json",
        ),
        Command(
            "export",
            "export:export",
            ("source", "destination"),
            "runs/mine/run plum-mine-bf16 --dtype bfloat16 --max_shard_size 5GB",
        ),
        Command("push", "push:push", ("folder", "name"), "runs/quickstart/model my-name/my-model"),
        Command("pull", "pull:pull", ("name", "folder"), "my-name/my-model models/my-model"),
        Command(
            "predict",
            "predict:predict",
            ("images",),
            "photos --checkpoint runs/quickstart/model \\\n"
            "      --question 'Which parts are visible?' --output out/photos",
        ),
        Command("data-status", "data_status:data_status", example="--root dataset --missing"),
        Command(
            "convert",
            "convert:convert",
            ("source", "destination"),
            "weights/LISA-7B-v1 weights/lisa_7b --clip weights/clip-vit-large-patch14",
        ),
        Command(
            "convert-llava",
            "convert_llava:convert_llava",
            ("source", "destination"),
            "weights/llava-v1.5-7b-hf weights/plum_7b_base --sam weights/sam_vit_h_4b8939.pth",
        ),
        Command(
            "validate",
            "validate:validate",
            example="partonomy --checkpoint runs/quickstart/model --questions data/mine --output runs/mine",
            fill="validate:add_benchmarks",
        ),
        Command("retention", "retention:retention", ("runs",), "runs/textvqa runs/gqa runs/pope"),
        Command("mmr-tables", "mmr_tables:mmr_tables", ("runs",), "runs/mmr_val runs/refcocom --format markdown"),
        Command("doctor", "doctor:doctor", example="--config configs/plum_13b_0shot.yaml --gpus 8"),
        Command(
            "costs", "costs:costs", ("configs",), "configs/plum_7b_0shot.yaml configs/plum_13b_0shot.yaml --gpus 8"
        ),
    )
}
"""Name of each command -> the command."""

PROGRAM: Final = Program(
    name="plum",
    package="plum.cli",
    description="PLUM: train, use, validate, export and prepare models.",
    commands=tuple(COMMANDS.values()),
    example="segment --help",
)
