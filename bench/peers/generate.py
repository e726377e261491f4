"""``generate`` of transformers on the prompts of a job: K answers to each, one batch at a time."""

import json
import sys
import time
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer


def main(job: dict[str, Any]) -> None:
    dtype = torch.bfloat16 if job["precision"] == "bf16" else torch.float32
    model: Any = AutoModelForCausalLM.from_pretrained(job["model"], dtype=dtype).eval()
    tokenizer = AutoTokenizer.from_pretrained(job["model"], padding_side="left")
    torch.manual_seed(job["seed"])
    tokens, times = [], []
    for prompts in job["batches"]:
        batch = tokenizer.pad({"input_ids": prompts}, return_tensors="pt")
        drawn = model.generate(
            **batch,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            num_return_sequences=job["k"],
            max_new_tokens=job["new_tokens"],
            eos_token_id=job["end_ids"],
            pad_token_id=job["pad_id"],
        )[:, batch["input_ids"].shape[1] :]
        times.append(time.time())
        ended = torch.isin(drawn, torch.tensor(job["end_ids"]))
        before = ended.cumsum(1) - ended.long()  # ends before a token: none where it is real
        tokens.append(int((before == 0).sum()))
    found = {"times": times, "tokens": tokens}
    Path(job["out"]).write_text(json.dumps(found), encoding="utf-8")


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))
