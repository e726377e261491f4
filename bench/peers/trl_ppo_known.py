"""TRL's PPOTrainer on the prompts of a job by a known reward, which a process of ours computes."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    AutoTokenizer,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer, ppo_trainer


class Figures(TrainerCallback):
    """Mean score and KL of each update's answers."""

    def __init__(self) -> None:
        self.kl: list[float] = []
        self.reward: list[float] = []

    def on_log(self, *_: Any, logs: dict[str, float], **__: Any) -> None:
        if "objective/kl" in logs:
            self.kl.append(logs["objective/kl"])
            self.reward.append(logs["objective/scores"])


class KnownReward(torch.nn.Module):
    """Stands where TRL wants a reward model; ``scores`` [B] are of the answers' text."""

    def __init__(self, command: list[str], folder: str, tokenizer: Any) -> None:
        super().__init__()
        self.tokenizer = tokenizer
        self.process = subprocess.Popen(
            command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )

    def scores(self, answers: torch.Tensor) -> torch.Tensor:
        texts = [self.text(row) for row in answers.tolist()]
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write(json.dumps(texts) + "\n")
        self.process.stdin.flush()
        return torch.tensor(json.loads(self.process.stdout.readline()))

    def text(self, ids: list[int]) -> str:
        ends = (self.tokenizer.eos_token_id, self.tokenizer.pad_token_id)
        stop = next((place for place, token in enumerate(ids) if token in ends), len(ids))
        return str(self.tokenizer.decode(ids[:stop], skip_special_tokens=True)).strip()


def take_known_rewards() -> None:
    """Where TRL asks the reward model, ask the known reward; the value model as before."""
    real = ppo_trainer.get_reward

    def get_reward(model: Any, ids: torch.Tensor, pad: int, context: int) -> Any:
        if isinstance(model, KnownReward):
            return None, model.scores(ids[:, context:]), None
        return real(model, ids, pad, context)

    ppo_trainer.get_reward = get_reward


def config(job: dict[str, Any]) -> PPOConfig:
    """Every setting that differs from ours by default is ours; a minibatch is one micro-batch."""
    return PPOConfig(
        output_dir=f"{job['out']}.d",
        use_cpu=True,
        bf16=job["precision"] == "bf16",
        gradient_checkpointing=False,
        per_device_train_batch_size=job["batch"],
        gradient_accumulation_steps=1,
        num_mini_batches=job["minibatches"],
        local_rollout_forward_batch_size=job["batch"],
        total_episodes=job["batch"] * job["updates"],
        num_ppo_epochs=job["epochs"],
        response_length=job["new_tokens"],
        stop_token="eos",
        temperature=1.0,
        kl_coef=job["kl_coef"],
        learning_rate=job["learning_rate"],
        lr_scheduler_type="constant",
        adam_beta2=0.95,
        adam_epsilon=1e-5,
        weight_decay=0.0,
        num_sample_generations=0,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        seed=job["seed"],
    )


def main(job: dict[str, Any]) -> None:
    take_known_rewards()
    tokenizer = AutoTokenizer.from_pretrained(job["model"], padding_side="left")
    policy, reference = (
        AutoModelForCausalLM.from_pretrained(job["model"], dtype="float32") for _ in range(2)
    )
    value = AutoModelForSequenceClassification.from_pretrained(
        job["value"], num_labels=1, dtype="float32"
    )
    figures = Figures()
    trainer = PPOTrainer(
        args=config(job),
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=KnownReward(job["scorer"], job["root"], tokenizer),
        value_model=value,
        train_dataset=Dataset.from_dict({"input_ids": job["prompts"]}),
        eval_dataset=Dataset.from_dict({"input_ids": job["prompts"][:1]}),
        callbacks=[figures],
    )
    trainer.train()
    found = {"kl": figures.kl, "reward": figures.reward}
    Path(job["out"]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
