"""TRL's PPOTrainer on the prompts of a job."""

import json
import sys
import time
from pathlib import Path
from typing import Any

from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer


class Clock(TrainerCallback):
    """The time after each update."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.times.append(time.time())


def main(job: dict[str, Any]) -> None:
    """Every micro-batch is one minibatch: with accumulation TRL would skip optimiser steps."""
    args = PPOConfig(
        output_dir=f"{job['out']}.d",
        use_cpu=True,
        bf16=job["precision"] == "bf16",
        gradient_checkpointing=False,  # slower; on by default
        per_device_train_batch_size=job["batch"],
        gradient_accumulation_steps=1,
        num_mini_batches=job["minibatches"],
        local_rollout_forward_batch_size=job["batch"],
        total_episodes=job["batch"] * job["updates"],
        num_ppo_epochs=job["epochs"],
        response_length=job["new_tokens"],
        temperature=1.0,
        learning_rate=job["learning_rate"],
        num_sample_generations=0,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=job["seed"],
    )
    tokenizer = AutoTokenizer.from_pretrained(job["model"], padding_side="left")
    lm, scalar = AutoModelForCausalLM, AutoModelForSequenceClassification
    policy, reference = (lm.from_pretrained(job["model"], dtype="float32") for _ in range(2))
    value, reward = (
        scalar.from_pretrained(job["reward"], num_labels=1, dtype="float32") for _ in range(2)
    )
    clock = Clock()
    trainer = PPOTrainer(
        args=args,
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=value,
        train_dataset=Dataset.from_dict({"input_ids": job["prompts"]}),
        eval_dataset=Dataset.from_dict({"input_ids": job["prompts"][:1]}),
        callbacks=[clock],
    )
    trainer.train()
    Path(job["out"]).write_text(json.dumps({"times": clock.times}), encoding="utf-8")


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
