"""TRL's RewardTrainer on the expanded pairs of a job."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback
from trl import RewardConfig, RewardTrainer


class Clock(TrainerCallback):
    """The time after each optimiser step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.times.append(time.time())


def pairs(rows: list[list[list[int]]]) -> Dataset:
    return Dataset.from_dict(
        {"chosen_ids": [row[0] for row in rows], "rejected_ids": [row[1] for row in rows]}
    )


def main(job: dict[str, Any]) -> None:
    args = RewardConfig(
        output_dir=f"{job['out']}.d",
        use_cpu=True,
        bf16=job["precision"] == "bf16",
        torch_compile=job["compile"],
        gradient_checkpointing=False,  # slower; on by default
        per_device_train_batch_size=job["micro_pairs"],
        per_device_eval_batch_size=job["micro_pairs"],
        gradient_accumulation_steps=job["accumulation"],
        num_train_epochs=job["epochs"],
        max_length=None,
        learning_rate=job["learning_rate"],
        lr_scheduler_type="constant",
        adam_beta2=0.95,
        weight_decay=0.0,
        max_grad_norm=1.0,
        model_init_kwargs={"dtype": "float32"},
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=job["seed"],
    )
    clock = Clock()
    trainer = RewardTrainer(
        model=job["model"],
        args=args,
        processing_class=AutoTokenizer.from_pretrained(job["model"]),
        train_dataset=pairs(job["train"]),
        eval_dataset=pairs(job["valid"]),
        callbacks=[clock],
    )
    trainer.train()
    trainer.evaluate()
    said = [line["eval_accuracy"] for line in trainer.state.log_history if "eval_accuracy" in line]
    found = {"times": clock.times, "accuracy": said[-1]}
    Path(job["out"]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
