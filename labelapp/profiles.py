"""Named stage settings. What a profile leaves out keeps the trainer's default, which is the paper's.

``paper``  InstructGPT's, for a GPU
``demo``   SmolLM2-135M on two cores, a whole round in minutes
``test``   models of some 60,000 parameters, seconds a stage
"""

from typing import Any

Settings = dict[str, Any]

PROFILES: dict[str, dict[str, Settings]] = {
    "paper": {"sample": {}, "text": {"documents": 2048}, "sft": {}, "reward": {}, "ppo": {}},
    "demo": {
        "sample": {"chunk": 32, "batch": 128, "max_prompt_tokens": 512},
        "text": {"documents": 96, "max_new_tokens": 96, "batch": 96},
        "score": {"micro_tokens": 2048},
        "sft": {
            "epochs": 1,
            "batch": 16,
            "learning_rate": 3e-5,
            "freeze_layers": 20,
            "max_tokens": 512,
            "micro_tokens": 2048,
            "checkpoint_every": 10,
        },
        "reward": {
            "epochs": 2,
            "batch": 8,
            "learning_rate": 1e-4,
            "head_scale": 0.1,
            "freeze_layers": 20,
            "max_tokens": 512,
            "micro_tokens": 2048,
            "checkpoint_every": 10,
        },
        "ppo": {
            "episodes": 640,
            "batch": 64,
            "minibatch": 8,
            "epochs": 1,
            "learning_rate": 1.5e-4,
            "value_learning_rate": 3e-4,
            "value_clip": 1.0,
            "lam": 0.9,
            "freeze_layers": 20,
            "max_tokens": 512,
            "max_prompt_tokens": 96,
            "max_new_tokens": 48,
            "micro_tokens": 2048,
            "ptx_coef": 0.1,
            "ptx_per_episode": 1.0,
            "ptx_tokens": 32,
            "warmup": 1,
            "value_warmup": 1,
            "ema_decay": 0.0,
            "generate_batch": 64,
            "eval_prompts": 16,
            "eval_every": 100,
            "checkpoint_every": 24,
        },
    },
    "test": {
        "sample": {
            "chunk": 4,
            "batch": 16,
            "max_prompt_tokens": 160,
            "threads": 1,
            "precision": "fp32",
        },
        "text": {
            "documents": 8,
            "max_new_tokens": 48,
            "batch": 8,
            "threads": 1,
            "precision": "fp32",
        },
        "score": {"chunk": 8, "micro_tokens": 1024, "threads": 1, "precision": "fp32"},
        "sft": {
            "epochs": 1,
            "batch": 4,
            "learning_rate": 1e-3,
            "max_tokens": 224,
            "micro_tokens": 1024,
            "checkpoint_every": 1,
            "threads": 1,
            "precision": "fp32",
        },
        "reward": {
            "epochs": 1,
            "batch": 4,
            "learning_rate": 1e-3,
            "max_tokens": 224,
            "micro_tokens": 1024,
            "checkpoint_every": 1,
            "threads": 1,
            "precision": "fp32",
        },
        "ppo": {
            "episodes": 16,
            "batch": 8,
            "minibatch": 4,
            "learning_rate": 1e-3,
            "value_learning_rate": 1e-3,
            "max_tokens": 224,
            "max_prompt_tokens": 160,
            "max_new_tokens": 12,
            "micro_tokens": 1024,
            "ptx_per_episode": 1.0,
            "ptx_tokens": 32,
            "warmup": 1,
            "ema_decay": 0.5,
            "generate_batch": 8,
            "eval_prompts": 2,
            "checkpoint_every": 1,
            "threads": 1,
            "precision": "fp32",
        },
    },
}


def stage_settings(profile: str, stage: str) -> Settings:
    """A copy of what the profile says about one stage. KeyError for an unknown profile."""
    return dict(PROFILES[profile].get(stage, {}))
