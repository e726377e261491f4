"""Rollouts from a vLLM server, against a small one that speaks its protocol: weights in step and
not, importance weights, kills, and a server that is away, hangs, refuses, or comes back.
"""

import dataclasses
import json
import math
import os
import signal
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.resuming import assert_as_unbroken, config_file, figures, run_killed
from tests.trainer.snapshots import write_all
from tests.trainer.test_ppo import Scene, reward_model, settings, train
from tests.trainer.vllm_server import TinyVLLM
from trainer import ppo
from trainer.__main__ import main
from trainer.actors import Actors
from trainer.config import PPOConfig, config_from_plain
from trainer.errors import ConfigError, ServerError, Stopped
from trainer.generate import Generated
from trainer.records import read_manifest
from trainer.rollout import Sampling
from trainer.vllm_client import VLLM, noise_seed

pytestmark = pytest.mark.slow


@pytest.fixture
def folders(tmp_path: Path, tiny_gpt2: Path) -> dict[str, Path]:
    found = write_all(tmp_path / "data")
    return found | {"policy": tiny_gpt2, "reward": reward_model(tiny_gpt2, tmp_path / "rm")}


@pytest.fixture
def server(folders: dict[str, Path]) -> Iterator[TinyVLLM]:
    """Of the same architecture as the policy."""
    with TinyVLLM(folders["policy"]) as running:
        yield running


def served(out: Path, folders: dict[str, Path], server: TinyVLLM, **changes: Any) -> PPOConfig:
    how = {"generator": "vllm", "vllm_url": server.url, "vllm_weights": str(out) + "-weights"}
    return settings(out, folders, **{"vllm_timeout": 20.0, "eval_prompts": 0} | how | changes)


def unwatched(*_: Any) -> None:
    """Nobody asks for an end."""


# ---- a whole run ----------------------------------------------------------------------------------


def test_a_run_through_the_server_keeps_its_weights_in_step(
    tmp_path: Path, folders: dict[str, Path], server: TinyVLLM
) -> None:
    seen: list[dict[str, torch.Tensor]] = []
    load = server.collective_rpc

    def loading(body: dict[str, Any]) -> dict[str, Any]:
        said = load(body)
        seen.append(server.weights())
        return said

    server.collective_rpc = loading  # type: ignore[method-assign]
    lines = train(served(tmp_path / "run", folders, server, episodes=24, ema_decay=0.0))
    assert len(lines) == 3 == len(server.loaded) == len(set(server.loaded))
    for line in lines:
        assert line["generator_logprob_gap"] <= line["generator_logprob_gap_max"] < 1e-4
        assert line["importance_weights"] == 0
    start = Actors(settings(tmp_path, folders)).policy.model.state_dict()
    for name, tensor in seen[0].items():
        assert torch.equal(tensor, start[name])
    for before, after in zip(seen, seen[1:], strict=False):
        assert max(float((after[n] - before[n]).abs().max()) for n in before) > 1e-4
    assert len(server.asked) == 24
    manifest = read_manifest(tmp_path / "run", verify=True)
    assert manifest.settings["generator"] == "vllm"
    assert server.url not in json.dumps(manifest.settings), "what differs by machine is no setting"
    assert [Path(path).name for path in server.loaded] == [f"policy-{i:08d}" for i in range(3)]
    left = [path.name for path in (tmp_path / "run-weights").iterdir()]
    assert left == ["policy-00000002"], "the older ones are gone"


def test_the_built_in_generator_reports_no_gap(tmp_path: Path, folders: dict[str, Path]) -> None:
    (line, _) = train(settings(tmp_path / "run", folders))
    assert not any("generator" in name or "importance" in name for name in line)


def test_the_rollout_is_what_the_server_sampled(
    tmp_path: Path, folders: dict[str, Path], server: TinyVLLM
) -> None:
    scene = Scene(served(tmp_path / "run", folders, server))
    keys = [f"episode/{i}" for i in range(8)]
    by_seed = {body["seed"]: body for body in server.asked}
    assert len(by_seed) == 8
    assert scene.rollout.logprobs is not None
    for row, key in enumerate(keys):
        body = by_seed[noise_seed(0, key)]
        assert body["prompt"] == scene.rollout.prompts[row]
        ids, logprobs, _ = server._sample(body)
        assert scene.rollout.answers[row] == ids
        assert scene.rollout.logprobs[row] == pytest.approx(logprobs, abs=1e-6)


def test_the_looks_at_held_out_prompts_go_through_the_server_too(
    tmp_path: Path, folders: dict[str, Path], server: TinyVLLM
) -> None:
    lines = train(served(tmp_path / "run", folders, server, episodes=8, eval_prompts=2))
    assert "valid_reward" in lines[0]
    seeds = {body["seed"] for body in server.asked}
    assert {noise_seed(0, f"valid/p{i}") for i in (3, 11)} <= seeds


# ---- a generator that is not quite the policy ---------------------------------------------------


def test_a_server_that_keeps_its_old_weights_is_seen_and_weighed_against(
    tmp_path: Path, folders: dict[str, Path], server: TinyVLLM
) -> None:
    server.deaf = True
    changes = {"ptx_coef": 0.0, "learning_rate": 0.02, "epochs": 2}
    first, second = train(served(tmp_path / "run", folders, server, **changes))
    assert first["generator_logprob_gap_max"] < 1e-4 and first["importance_weights"] == 0
    assert second["generator_logprob_gap"] > 0.05 and second["importance_weights"] == 1


def test_importance_weights_multiply_the_policy_gradient_and_no_other(
    tmp_path: Path, folders: dict[str, Path], server: TinyVLLM
) -> None:
    """A server that says each token was 2 nats less likely than it was: the ratio of e^2 is cut
    to 2, and everywhere, so the policy's gradient is twice the plain one.
    """
    plain = Scene(served(tmp_path / "plain", folders, server))
    server.shift = -2.0
    cut = Scene(served(tmp_path / "cut", folders, server))
    unweighed = Scene(served(tmp_path / "unweighed", folders, server, importance_above=3.0))
    mask = plain.rollout.mask
    assert plain.scored.weights is None is unweighed.scored.weights
    assert cut.scored.weights is not None
    assert torch.equal(cut.scored.weights, 2.0 * mask)
    figures = ppo.generator_figures(cut.rollout, cut.scored.logprobs, cut.scored.weights)
    assert figures["generator_logprob_gap"] == pytest.approx(2.0, abs=1e-4)
    assert figures["generator_logprob_gap_max"] == pytest.approx(2.0, abs=1e-4)
    assert figures["importance_weights"] == 1
    want, got, same = (scene.gradients([0, 3, 5], []) for scene in (plain, cut, unweighed))
    assert want.keys() == got.keys() == same.keys()
    for name, gradient in want.items():
        factor = 2 if name.startswith("policy") else 1
        torch.testing.assert_close(got[name], factor * gradient, atol=1e-7, rtol=1e-5)
        assert torch.equal(same[name], gradient)


def test_a_token_more_likely_to_the_server_weighs_less(
    tmp_path: Path, folders: dict[str, Path], server: TinyVLLM
) -> None:
    server.shift = 0.5
    scene = Scene(served(tmp_path / "run", folders, server))
    assert scene.scored.weights is not None
    answers = scene.scored.weights[scene.rollout.mask]
    torch.testing.assert_close(answers, torch.full_like(answers, math.exp(-0.5)), atol=1e-4, rtol=0)


def test_at_another_temperature_the_server_has_to_give_processed_log_probabilities(
    tmp_path: Path, folders: dict[str, Path], server: TinyVLLM
) -> None:
    config = served(tmp_path / "run", folders, server, temperature=0.7)
    with pytest.raises(ServerError, match=r"--logprobs-mode processed_logprobs"):
        Scene(config)
    server.logprobs_mode = "processed_logprobs"
    scene = Scene(config)
    gap = ppo.generator_figures(scene.rollout, scene.scored.logprobs, None)
    assert gap["generator_logprob_gap_max"] < 1e-4


# ---- one draw -------------------------------------------------------------------------------------


class Drawn:
    """Draws by the client alone, the policy's weights as they are."""

    def __init__(self, config: PPOConfig, server: TinyVLLM) -> None:
        self.actors, self.server, self.config = Actors(config), server, config
        assert isinstance(self.actors.generator, VLLM)

    def __call__(
        self, prompts: list[list[int]], keys: list[str], batch: int = 8, **changes: Any
    ) -> list[Generated]:
        how = Sampling(1.0, 12, 3, batch)._replace(**changes)
        check = changes.pop("check", unwatched)
        return self.actors.generator.draw(prompts, keys, self.actors.codec, how, check)


PROMPTS = [[5, 9, 14], [5, 9, 14], [7, 7, 8, 30, 31], [60], [61, 62]]
KEYS = ["a", "b", "c", "d", "e"]


def test_a_sample_is_a_function_of_seed_and_key_alone(
    tmp_path: Path, folders: dict[str, Path], server: TinyVLLM
) -> None:
    draw = Drawn(served(tmp_path / "run", folders, server), server)
    all_at_once = draw(PROMPTS, KEYS)
    assert draw(PROMPTS[::-1], KEYS[::-1], batch=1)[::-1] == all_at_once
    assert draw(PROMPTS[1:2], KEYS[1:2]) == all_at_once[1:2]
    assert all_at_once[0] != all_at_once[1], "one prompt, two keys"
    assert draw(PROMPTS, KEYS, seed=4) != all_at_once
    assert noise_seed(3, "a") == 5260740019359165868
    assert len({noise_seed(s, k) for s in range(3) for k in KEYS}) == 15


def test_an_answer_ends_where_the_built_in_generator_would_have_ended_it(
    tmp_path: Path, folders: dict[str, Path], server: TinyVLLM, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The end token is kept, what a server puts after it is not; a cut answer says so."""
    draw = Drawn(served(tmp_path / "run", folders, server), server)
    (end,) = draw.actors.codec.end_ids
    told: dict[str, Any] = {}

    def sample(_body: dict[str, Any]) -> tuple[list[int], list[float], str]:
        return told["ids"], [-0.5 - i for i in range(len(told["ids"]))], told["reason"]

    monkeypatch.setattr(server, "_sample", sample)
    told.update(ids=[40, 41, end], reason="stop")
    assert draw([[5]], ["a"]) == [Generated([40, 41, end], True, [-0.5, -1.5, -2.5])]
    told.update(ids=[40, end, 42, 43], reason="stop")
    assert draw([[5]], ["a"]) == [Generated([40, end], True, [-0.5, -1.5])]
    stop = draw.actors.codec.encode_text("\nUser:")
    told.update(ids=[40, *stop, 43], reason="stop")
    assert draw([[5]], ["a"])[0].token_ids == [40, *stop]
    told.update(ids=[40] * 12, reason="length")
    assert not draw([[5]], ["a"])[0].finished
    told.update(ids=[40, 41], reason="length")
    with pytest.raises(ServerError, match=r"ended an answer after 2 of 12 tokens \(length\)"):
        draw([[5]], ["a"])
    told.update(ids=[])
    with pytest.raises(ServerError, match="gave no token ids"):
        draw([[5]], ["a"])


def test_the_request_asks_for_the_whole_distribution(
    tmp_path: Path, folders: dict[str, Path], server: TinyVLLM
) -> None:
    """What is left out a server fills in from the model's generation settings."""
    Drawn(served(tmp_path / "run", folders, server), server)([[5]], ["a"])
    (body,) = server.asked
    neutral = {"top_p": 1, "top_k": 0, "min_p": 0, "repetition_penalty": 1, "presence_penalty": 0}
    assert body.items() >= neutral.items()
    assert body["temperature"] == 1 and body["max_tokens"] == 12


# ---- a server that is away, hangs, refuses, comes back ---------------------------------------------


def run_main(config: PPOConfig) -> tuple[int, str]:
    """Exit code and message of a run by its command line."""
    out = Path(config.out)
    plain = {k: v for k, v in dataclasses.asdict(config).items() if v is not None}
    code = main(["ppo", "--config", str(config_file(plain, out))])
    if code == 0:
        return 0, ""
    error = json.loads((out / "error.json").read_text())
    assert error["code"] == code
    return code, error["message"]


def test_a_server_that_is_away_ends_the_run_with_a_sentence_and_a_code(
    tmp_path: Path, folders: dict[str, Path], server: TinyVLLM
) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{free.getsockname()[1]}"
    config = served(tmp_path / "run", folders, server, vllm_url=url, vllm_timeout=0.5)
    code, message = run_main(config)
    assert code == ServerError.exit_code == 10
    assert message.startswith(f"The vLLM server at {url} has been away for 0.5 seconds (Connect")
    assert "Start it and retry" in message


def test_a_server_that_hangs_counts_as_away(
    tmp_path: Path, folders: dict[str, Path], server: TinyVLLM
) -> None:
    server.hangs = True
    code, message = run_main(served(tmp_path / "run", folders, server, vllm_timeout=0.5))
    assert code == 10 and "ReadTimeout at /v1/completions" in message


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"development": False}, r"Start it with VLLM_SERVER_DEV_MODE=1"),
        ({"max_model_len": 16}, r"has room for 16 tokens.*--max-model-len"),
        ({"fails": [400]}, r"refuses /v1/completions \(400\)"),
    ],
    ids=["no development endpoints", "too short", "refuses"],
)
def test_a_server_that_will_not_do_says_what_to_change(
    tmp_path: Path, folders: dict[str, Path], server: TinyVLLM, changes: Any, sentence: str
) -> None:
    vars(server).update(changes)
    with pytest.raises(ServerError, match=sentence):
        Drawn(served(tmp_path / "run", folders, server), server)(PROMPTS, KEYS)


def test_a_server_that_comes_back_is_given_the_weights_again_and_asked_for_the_rest(
    tmp_path: Path, folders: dict[str, Path], server: TinyVLLM
) -> None:
    draw = Drawn(served(tmp_path / "run", folders, server), server)
    want = draw(PROMPTS, KEYS, batch=1)
    server.asked.clear()
    server.loaded.clear()
    server.fails = [503]
    assert draw(PROMPTS, KEYS, batch=1) == want
    assert len(server.asked) == 6
    assert len(server.loaded) == 2 and len(set(server.loaded)) == 1


def test_weights_that_cannot_be_written_are_told(
    tmp_path: Path, folders: dict[str, Path], server: TinyVLLM
) -> None:
    blocked = tmp_path / "file"
    blocked.write_text("")
    config = served(tmp_path / "run", folders, server, vllm_weights=str(blocked / "weights"))
    code, message = run_main(config)
    assert code == 10 and f"vllm_weights, {blocked / 'weights'}, cannot be written" in message


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"generator": "vllm", "vllm_weights": "w"}, "vllm_url is None"),
        ({"generator": "vllm", "vllm_url": "localhost:8000", "vllm_weights": "w"}, "vllm_url is"),
        ({"generator": "vllm", "vllm_url": "http://h:1"}, "there is no vllm_weights"),
        ({"importance_cap": 0.5}, "importance_cap is 0.5"),
        ({"importance_above": -1.0}, "importance_above is -1.0"),
        ({"vllm_timeout": 0.0}, "vllm_timeout is 0.0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(changes: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        config_from_plain("ppo", {"out": "o"} | changes)


# ---- kills ----------------------------------------------------------------------------------------


def test_a_run_asked_to_stop_does_not_wait_for_a_server_that_hangs(
    tmp_path: Path, folders: dict[str, Path], server: TinyVLLM
) -> None:
    """In the second rollout batch; it goes on as if nothing had been."""
    config = served(tmp_path / "run", folders, server, vllm_timeout=60.0, threads=1)
    unbroken = dataclasses.replace(config, out=str(tmp_path / "unbroken"))
    assert run_main(unbroken)[0] == 0
    server.asked.clear()
    real = server.completions

    def completions(body: dict[str, Any]) -> dict[str, Any]:
        server.hangs = len(server.asked) >= 10
        return real(body)

    def stop() -> None:
        while not server.hangs:
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGTERM)

    server.completions = completions  # type: ignore[method-assign]
    threading.Thread(target=stop, daemon=True).start()
    started = time.monotonic()
    assert run_main(config)[0] == Stopped.exit_code
    assert time.monotonic() - started < 30
    server.completions, server.hangs = real, False  # type: ignore[method-assign]
    assert run_main(config)[0] == 0
    assert_as_unbroken(tmp_path / "run", tmp_path / "unbroken")


@pytest.mark.parametrize(("place", "number"), [("step", 3), ("step", 5), ("rename", 2)])
def test_a_killed_run_ends_as_an_unbroken_one(
    tmp_path: Path, folders: dict[str, Path], server: TinyVLLM, place: str, number: int
) -> None:
    """With importance weights, which the checkpoint's rollout batch has to hold."""
    server.shift = 0.3
    changes = {"episodes": 24, "threads": 1, "checkpoint_every": 1, "seed": 4, "ema_decay": 0.5}
    config = served(tmp_path / "run", folders, server, **changes)
    unbroken = dataclasses.replace(config, out=str(tmp_path / "unbroken"))
    assert run_main(unbroken)[0] == 0
    assert all(line["importance_weights"] == 1 for line in figures(tmp_path / "unbroken"))
    plain = {k: v for k, v in dataclasses.asdict(config).items() if v is not None}
    path = config_file(plain, tmp_path / "run")
    assert run_killed("ppo", path, place, number) == -signal.SIGKILL
    assert main(["ppo", "--config", str(path)]) == 0
    assert_as_unbroken(tmp_path / "run", tmp_path / "unbroken")
