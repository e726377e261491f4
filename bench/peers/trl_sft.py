"""TRL's SFTTrainer on the examples of a job, packed or not."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import AutoTokenizer, TrainerCallback
from trl import SFTConfig, SFTTrainer


class Clock(TrainerCallback):
    """The time after each optimiser step."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.times.append(time.time())


def main(job: dict[str, Any]) -> None:
    packed = job["packed"]
    args = SFTConfig(
        output_dir=f"{job['out']}.d",
        use_cpu=True,
        bf16=job["precision"] == "bf16",
        torch_compile=job["compile"],
        gradient_checkpointing=False,  # slower; on by default
        packing=packed,
        max_length=job["pack_tokens"] if packed else None,
        per_device_train_batch_size=job["rows"],
        gradient_accumulation_steps=job["accumulation"],
        train_sampling_strategy="random" if packed else "group_by_length",
        num_train_epochs=job["epochs"],
        completion_only_loss=True,
        learning_rate=job["learning_rate"],
        lr_scheduler_type="constant",
        model_init_kwargs={"dtype": "float32"},
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=job["seed"],
    )
    clock = Clock()
    trainer = SFTTrainer(
        model=job["model"],
        args=args,
        processing_class=AutoTokenizer.from_pretrained(job["model"]),
        train_dataset=Dataset.from_dict(
            {
                "input_ids": job["ids"],
                "labels": [
                    [token if learned else -100 for token, learned in zip(ids, marks, strict=True)]
                    for ids, marks in zip(job["ids"], job["learned"], strict=True)
                ],
            }
        ),
        callbacks=[clock],
    )
    trainer.train()
    Path(job["out"]).write_text(json.dumps({"times": clock.times}), encoding="utf-8")


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
