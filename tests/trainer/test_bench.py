"""The benchmarks run, say what they measured, and count what they claim to count."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from transformers import AutoModelForCausalLM

from bench import flops
from bench.common import build_model
from bench.data import Author, write_demonstrations, write_rankings
from bench.flops import Shape
from bench.measure import Ended, Figures, figures, run
from bench.profiled import shares
from bench.report import Benchmark, Case, plain
from tests.trainer.children import MODULE, own_threads, run_children
from trainer.data import load_demonstrations, load_rankings
from trainer.text import Codec

TINY = Shape(layers=1, hidden=2, mlp=3, vocabulary=5, queries=2, keys=2)


def test_operations_are_those_worked_by_hand() -> None:
    # 4 x 2 x 2 weights of attention and 3 x 2 x 3 of the MLP
    assert TINY.matrices == 34
    # 3 tokens: 2 x 3 x 34 of matrices, 4 x 2 for each of 1 + 2 + 3 pairs
    assert TINY.blocks(3) == 204 + 48
    # 2 tokens after 1: 2 x 2 x 34, and 2 + 3 pairs
    assert TINY.blocks(2, seen=1) == 136 + 40
    assert TINY.logits(2) == 40
    assert flops.sft(TINY, 1, 2) == 3 * (252 + 40)
    assert flops.ranking(TINY, 1, [1, 2]) == 3 * (76 + 84 + 176)
    assert flops.sampled(TINY, 1, [2]) == 76 + 20 + 84 + 20
    assert flops.episode(TINY, 1, 2, epochs=2) == 200 + (4 * 252 + 2 * 40) + 2 * 3 * (2 * 252 + 40)


def test_a_text_in_two_steps_costs_what_it_costs_in_one() -> None:
    assert TINY.blocks(7) == TINY.blocks(4) + TINY.blocks(3, seen=4)


def test_the_counted_weights_are_those_of_the_model(tiny_llama: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(tiny_llama)
    matrices = [p for p in model.model.layers.parameters() if p.ndim == 2]
    shape = Shape.of(tiny_llama)
    assert shape.matrices == sum(p.numel() for p in matrices)
    assert shape.logits(1) == 2 * model.lm_head.weight.numel()


def test_the_model_drawn_on_the_spot_is_the_one_the_figures_name(tmp_path: Path) -> None:
    folder = build_model(tmp_path / "model", seed=0, end_share=0.25)
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert sum(p.numel() for p in model.parameters()) == 13_767_552
    codec = Codec.load(folder)
    assert len(codec.end_ids) == 1 + 8192 // 4
    written = write_demonstrations(tmp_path / "demonstrations", Author(codec, 0), 40)
    examples = load_demonstrations(written, codec, 2048).train
    lengths = [len(example.prompt) for example in examples]
    assert 8 <= min(lengths) < 20 and 50 < max(lengths) <= 64
    assert all(16 <= len(example.completion) <= 96 for example in examples)


def test_the_better_answers_have_more_good_words(tiny_llama: Path, tmp_path: Path) -> None:
    codec = Codec.load(tiny_llama)
    author = Author(codec, 0)
    folder = write_rankings(tmp_path / "rankings", author, train=3, valid=1, k=9)
    found = load_rankings(folder, codec, 2048)
    assert (len(found.train), len(found.valid)) == (3, 1)
    assert all(sorted(ranking.ranks) == list(range(9)) for ranking in found.train)
    good = set(author.words[: min(64, len(author.words) // 2)])
    assert sum(word in good for word in author.answer(20, 5).split()) == 5


@pytest.mark.slow
def test_memory_is_that_of_the_whole_tree(tmp_path: Path) -> None:
    below = "import time; kept = bytearray(b'1') * (60 << 20); time.sleep(0.5)"
    above = (
        "import subprocess, sys; kept = bytearray(b'1') * (60 << 20);"
        f"subprocess.run([sys.executable, '-c', {below!r}])"
    )
    ended = run([sys.executable, "-c", above], 1, tmp_path / "log")
    assert 120 < ended.peak_mb < 250


def test_a_failed_process_shows_its_last_words(tmp_path: Path) -> None:
    with pytest.raises(SystemExit, match="out of luck"):
        run([sys.executable, "-c", "raise SystemExit('out of luck')"], 0, tmp_path / "log")


@pytest.mark.slow
def test_the_ratio_is_ours_over_theirs_and_null_without_them() -> None:
    # two looks, half a processor used between them
    ended = Ended(started=10.0, peak_mb=50.0, cpu=[(10.0, 0.0), (30.0, 10.0)])
    ours = figures([6, 6, 12], [12.5, 18.5, 19.25, 21.25], ended)
    assert (ours.rates, ours.rate) == ([1.0, 8.0, 6.0], 6.0)
    assert ours.warm_up_seconds == 2.5
    assert ours.cpu_rate == pytest.approx(12.0)
    theirs = Figures(1.5, [1.5], cpu_rate=6.0, peak_mb=200.0, warm_up_seconds=1.0)
    cases = [Case("a", "fp32", ours, theirs, 1e9), Case("b", "fp32", ours, None, 1e9)]
    found = plain(Benchmark("x", "things/s", {}, cases))
    assert found["ratio"] == {"a": 4.0, "b": None}
    assert found["cpu_ratio"] == {"a": 2.0, "b": None}
    assert found["memory_ratio"] == {"a": 0.25, "b": None}
    roofline = found["roofline"]["a"]
    assert roofline["gflops"] == 6.0
    assert roofline["share"] == pytest.approx(6.0 / roofline["peak_gflops"], rel=0.02, abs=1e-4)


SMALL: dict[str, tuple[list[str], list[str]]] = {
    "ppo": (["--no-peer", "--batch", "4", "--epochs", "1", "--new-tokens", "4"], ["fp32"]),
    "reward": (["--no-peer", "--batch", "2", "--valid", "2", "--answers", "3"],
               ["K=3 fp32"]),
    "sft": (["--no-peer", "--batch", "2", "--steps", "2"], ["fp32"]),
    "sampling": (["--batch", "4", "--answers", "2", "--new-tokens", "4"], ["fp32"]),
}  # fmt: skip


class Operator(NamedTuple):
    """As torch's profiler tells of it."""

    key: str
    self_cpu_time_total: float


def test_a_profile_says_what_each_kind_of_operator_takes() -> None:
    found = shares(
        [
            Operator("aten::addmm", 30.0),
            Operator("mkldnn::_linear_pointwise", 20.0),
            Operator("aten::_scaled_dot_product_flash_attention_for_cpu_backward", 25.0),
            Operator("aten::_fused_adamw_", 5.0),
            Operator("aten::copy_", 12.0),
            Operator("aten::silu_backward", 8.0),
        ]
    )
    assert found == {
        "matrix products": 0.5, "attention": 0.25, "copies, casts, new memory": 0.12,
        "element by element, norms, sums": 0.08, "AdamW": 0.05,
    }  # fmt: skip


def measured(
    script: str, options: list[str], model: Path, folder: Path, environment: dict[str, str]
) -> tuple[dict[str, Any], subprocess.CompletedProcess[str]]:
    """What a small run of the script writes, and what it says."""
    command = [f"bench.{script}", "--model", str(model)]
    command += ["--precisions", "fp32", "--repetitions", "2", "--threads", "1", *options]
    command += ["--json", str(folder / "found.json"), "--work", str(folder / "work")]
    (done,) = run_children(MODULE, command, [environment])
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "found.json").read_text()), done


@pytest.mark.slow
@pytest.mark.parametrize("script", SMALL)
def test_a_benchmark_runs_and_writes_its_figures(
    script: str, tiny_llama: Path, tmp_path: Path
) -> None:
    options, names = SMALL[script]
    found, done = measured(script, options, tiny_llama, tmp_path, own_threads())
    assert list(found["ours"]) == names
    for name, ours in found["ours"].items():
        assert len(ours["rates"]) >= 1 and ours["rate"] > 0 and ours["peak_mb"] > 50
        roofline = found["roofline"][name]
        reached = ours["rate"] * roofline["flops_per_unit"] / 1e9
        assert roofline["gflops"] == pytest.approx(reached, abs=1e-3)
        peer, ratio = found["peer"][name], found["ratio"][name]
        if "--no-peer" in options:
            assert peer is None and ratio is None
            assert "ratios are null. Leave --no-peer out to measure one." in done.stdout
        else:
            assert ratio == pytest.approx(ours["rate"] / peer["rate"], abs=5.1e-4)
    assert found["settings"]["prompt tokens"] == "8 to 64"
    assert found["settings"]["threads"] == 1
    assert names[0] in done.stdout


@pytest.mark.slow
@pytest.mark.parametrize("script", ["ppo", "reward", "sft"])
def test_without_a_package_index_ours_is_measured_alone(
    script: str, tiny_llama: Path, tmp_path: Path
) -> None:
    options, names = SMALL[script]
    nowhere = {name: text for name, text in own_threads().items() if not name.startswith("PIP_")}
    nowhere |= {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_RETRIES": "0"}
    nowhere |= {"PIP_CONFIG_FILE": os.devnull}
    found, done = measured(script, options[1:], tiny_llama, tmp_path, nowhere)
    assert list(found["ours"]) == names
    assert found["peer"] == found["ratio"] == dict.fromkeys(names)
    why = found["settings"]["peer"]
    assert why.startswith("none, as trl==1.12.0 could not be installed: ERROR: ")
    assert why in done.stdout and "--no-peer" not in done.stdout
    assert "Ours is measured alone; ratios will be null." in done.stderr
