"""A policy with adapters, through a generation server that knows nothing of them."""

import asyncio
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.trainer.snapshots import write_all
from tests.trainer.test_ppo import reward_model, train
from tests.trainer.test_vllm import served
from tests.trainer.vllm_server import TinyVLLM
from trainer.vllm_client import _watched

pytestmark = pytest.mark.slow


def test_the_server_draws_from_the_policy_with_its_adapters_merged_in(
    tmp_path: Path, tiny_model: Path
) -> None:
    folders = write_all(tmp_path / "data") | {
        "policy": tiny_model,
        "reward": reward_model(tiny_model, tmp_path / "rm"),
    }
    with TinyVLLM(tiny_model) as server:
        base = server.weights()
        changes = {"lora_rank": 2, "learning_rate": 0.02, "episodes": 24, "ema_decay": 0.0}
        lines = train(served(tmp_path / "run", folders, server, **changes))
        assert len(server.loaded) == len(lines) == 3
        for line in lines:
            assert line["generator_logprob_gap_max"] < 1e-4
        last = server.weights()
    assert set(last) == set(base), "no adapter is named in what the server loads"
    assert max(float((last[name] - base[name]).abs().max()) for name in base) > 1e-3


def test_who_has_an_event_loop_may_ask_a_server_too() -> None:
    asked = []

    async def work() -> None:
        asked.append("in a thread of its own")

    async def notebook() -> None:
        _watched(work(), lambda: None)

    with ThreadPoolExecutor(1) as apart:  # in a browser's tests this thread has a loop already
        apart.submit(asyncio.run, notebook()).result()
    assert asked
