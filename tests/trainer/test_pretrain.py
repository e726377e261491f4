"""Pretraining on running text: what is learned, held out, kept, drawn, and refused."""

import json
import math
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.trainer.pretraining import REPEATED, settings, trainee_of
from tests.trainer.tiny import TEXT, build_tiny
from trainer import pretrain
from trainer.__main__ import main
from trainer.config import PretrainConfig, config_from_plain
from trainer.errors import ConfigError, DataError, ModelError, TrainerError
from trainer.objectives import (
    new_model,
)
from trainer.pretrain import held_out_loss, learning_factor, load_text
from trainer.records import read_manifest
from trainer.stage_io import open_run
from trainer.text import Codec


def train(config: PretrainConfig) -> list[dict[str, float]]:
    with open_run(config.out) as run:
        pretrain.run(config, run)
        return [line["values"] for line in run.lines()]


# ---- the run ----------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("fresh", [False, True], ids=["its weights", "new weights"])
def test_learning_lowers_perplexity_on_a_text_that_repeats(
    tmp_path: Path, learner: dict[str, str], fresh: bool
) -> None:
    (tmp_path / "text.txt").write_text(REPEATED)
    config = settings(
        tmp_path / "run", tmp_path / "text.txt", **learner, fresh=fresh, epochs=40, max_steps=150,
        learning_rate=5e-3, valid_every=30,
    )  # fmt: skip
    lines = train(config)
    name = {"causal": "perplexity", "masked": "pseudo_perplexity"}[learner["objective"]]
    looks = [line[f"valid_{name}"] for line in lines if f"valid_{name}" in line]
    assert len(looks) == 5
    assert lines[0][name] > 50
    assert looks[-1] < looks[0]
    assert looks[-1] < 15
    manifest = read_manifest(tmp_path / "run", verify=True)
    assert (manifest.kind, manifest.metrics["steps"]) == ("pretrain", 150)
    assert manifest.metrics[f"valid_{name}"] == min(looks)
    assert manifest.metrics[f"valid_{name}"] == math.exp(manifest.metrics["valid_loss"])
    assert manifest.metrics["tokens"] > 10_000
    assert any("pseudo-perplexity" in note for note in manifest.notes) == (
        learner["objective"] == "masked"
    )
    # the folder holds the weights that were measured
    model = str(tmp_path / "run" / "model")
    saved = trainee_of(replace(config, out=str(tmp_path), model=model, fresh=False))
    windows = load_text(config, Codec.load(config.model), saved.objective, lambda: None).valid
    assert held_out_loss(saved, windows) == pytest.approx(manifest.metrics["valid_loss"], abs=1e-5)


def test_new_weights_are_a_function_of_the_seed_and_need_no_old_ones(
    tmp_path: Path, tiny_gpt2: Path, running_text: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(tiny_gpt2, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(ModelError, match="holds no causal language model"):
        new_model(settings(tmp_path, running_text, model=str(bare)))
    drawn: list[torch.Tensor] = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(drawn))
        model = new_model(settings(tmp_path, running_text, model=str(bare), fresh=True, seed=seed))
        drawn.append(model.get_input_embeddings().weight)
        assert drawn[-1].dtype == torch.float32
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    train(settings(tmp_path / "run", running_text, model=str(bare), fresh=True, max_steps=1))
    assert read_manifest(tmp_path / "run", verify=True).metrics["steps"] == 1


def test_later_worse_looks_do_not_replace_the_best(
    tmp_path: Path, learner: dict[str, str], running_text: Path
) -> None:
    trainee = trainee_of(settings(tmp_path, running_text, **learner))
    windows = [Codec.load(learner["model"]).encode_text(TEXT)[:30]]
    trainee.step = 1
    pretrain.look(trainee, windows, lambda: None)
    best = {name: tensor.clone() for name, tensor in trainee.best.items()}
    with torch.no_grad():
        for parameter in trainee.weights.values():
            parameter.add_(0.5 * torch.randn_like(parameter))
    trainee.step = 2
    pretrain.look(trainee, windows, lambda: None)
    assert trainee.best_step == 1
    assert all(torch.equal(trainee.best[name], best[name]) for name in best)


def test_the_rate_rises_from_a_tenth_and_falls_along_a_cosine() -> None:
    config = PretrainConfig(out="", warmup_fraction=0.2, final_lr_fraction=0.1)
    factors = [learning_factor(config, step, 15) for step in range(15)]
    assert factors[:4] == pytest.approx([0.1, 0.4, 0.7, 1.0])
    assert factors[3:] == sorted(factors[3:], reverse=True)
    # steps 3 to 14 are twelve: the tenth of them stands at 9/11 of the half turn
    assert factors[12] == pytest.approx(0.1 + 0.9 * (1 + math.cos(math.pi * 9 / 11)) / 2)
    assert factors[14] == pytest.approx(0.1)
    assert learning_factor(config, 0, 1) == 1.0


def test_a_tenth_of_the_windows_is_held_out_and_never_trained_on(
    tmp_path: Path, tiny_gpt2: Path, running_text: Path
) -> None:
    config = settings(tmp_path, running_text, model=str(tiny_gpt2))
    codec, objective = Codec.load(tiny_gpt2), trainee_of(config).objective
    found = load_text(config, codec, objective, lambda: None)
    count = len(found.windows)
    assert count > 30
    assert len(found.valid) == count // 10
    assert len(found.train) == count - count // 10
    ids = [token for i in range(count) for token in found.windows[i]]
    assert ids[:1] == list(codec.start_ids)
    assert ids[1:] == codec.encode_text(TEXT * 4)[: len(ids) - 1]
    held = [i for i in range(count) if i not in found.train]
    assert found.valid == [found.windows[i] for i in held]
    again = load_text(replace(config, seed=1), codec, objective, lambda: None)
    assert again.train != found.train
    few = load_text(replace(config, valid_windows=2), codec, objective, lambda: None)
    assert len(few.valid) == 2


def test_a_text_of_its_own_may_be_held_out(
    tmp_path: Path, tiny_gpt2: Path, running_text: Path
) -> None:
    other = tmp_path / "other.txt"
    other.write_text(REPEATED)
    config = settings(
        tmp_path / "run", running_text, model=str(tiny_gpt2), valid_text=str(other), valid_windows=3
    )
    train(replace(config, max_steps=2))
    manifest = read_manifest(tmp_path / "run")
    assert [parent.role for parent in manifest.parents] == ["base", "pretrain_text", "valid_text"]
    assert manifest.metrics["valid_windows"] == 3
    found = load_text(config, Codec.load(tiny_gpt2), trainee_of(config).objective, lambda: None)
    assert len(found.train) == len(found.windows)
    assert "gulls sat" in Codec.load(tiny_gpt2).decode_text(found.valid[0] + found.valid[1])


def test_files_of_either_folder_that_are_not_read_stand_in_the_manifest(
    tmp_path: Path, tiny_gpt2: Path
) -> None:
    for name in ("seen", "held"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "a.txt").write_text(TEXT)
        (tmp_path / name / f"{name}.pdf").write_text(REPEATED)
    texts = {"text": tmp_path / "seen", "valid_text": str(tmp_path / "held")}
    train(settings(tmp_path / "run", model=str(tiny_gpt2), max_steps=1, **texts))
    notes = read_manifest(tmp_path / "run").notes
    for name in ("seen", "held"):
        told = f"Not read in the text folder {name}: {name}.pdf."
        assert sum(note.startswith(told) for note in notes) == 1


def test_a_text_of_one_window_trains_and_says_that_nothing_was_measured(
    tmp_path: Path, learner: dict[str, str]
) -> None:
    (tmp_path / "short.txt").write_text("The small dog slept.")
    lines = train(settings(tmp_path / "run", tmp_path / "short.txt", **learner, epochs=2))
    assert len(lines) == 2
    assert "valid_loss" not in lines[-1]
    notes = read_manifest(tmp_path / "run").notes
    assert "The text fills one window: none is held out." in notes
    assert any("the last ones" in note for note in notes)


def test_frozen_layers_stay_as_they_were(
    tmp_path: Path, tiny_model: Path, running_text: Path
) -> None:
    config = settings(
        tmp_path / "run", running_text, model=str(tiny_model), freeze_layers=1, max_steps=2
    )
    train(replace(config, precision="bf16"))
    before = dict(AutoModelForCausalLM.from_pretrained(tiny_model).named_parameters())
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model").named_parameters()
    moved = {name for name, parameter in after if not torch.equal(parameter, before[name])}
    assert moved
    assert not any(".0." in name or "wte" in name or "embed" in name for name in moved)


def test_the_command_line_may_name_the_objective(tmp_path: Path, tiny_bert: Path) -> None:
    (tmp_path / "text.txt").write_text(REPEATED)
    out = tmp_path / "run"
    plain = {"out": str(out), "model": str(tiny_bert), "text": str(tmp_path / "text.txt")}
    path = tmp_path / "config.json"
    path.write_text(json.dumps(plain | {"max_tokens": 32, "max_steps": 1, "precision": "fp32"}))
    assert main(["pretrain", "--config", str(path)]) == ModelError.exit_code
    assert 'Set objective to "masked"' in json.loads((out / "error.json").read_text())["message"]
    assert main(["pretrain", "--config", str(path), "--objective", "masked"]) == 0
    assert read_manifest(out).settings["objective"] == "masked"


# ---- what does not fit ------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"warmup_fraction": 1.5}, "warmup_fraction is 1.5; it must be from 0 to 1"),
        ({"mask_rate": 0.0}, "mask_rate is 0.0; it must be above 0"),
        ({"random_token_share": 0.3}, "the sum of mask_token_share and random_token_share is 1.1"),
        ({"max_steps": 0}, "max_steps is 0; it must be above 0, or null"),
        ({"valid_every": 0}, "valid_every is 0; it must be above 0"),
        ({"freeze_layers": 1, "fresh": True}, "freeze_layers is for a causal model"),
        ({"freeze_layers": 1, "objective": "masked"}, "freeze_layers is for a causal model"),
    ],
)
def test_a_setting_out_of_range_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        config_from_plain("pretrain", {"out": "-"} | changes)


@pytest.mark.parametrize(
    ("arch", "changes", "error", "message"),
    [
        ("gpt2", {"model": ""}, ConfigError, "lack 'model'"),
        ("gpt2", {"text": ""}, ConfigError, "lack 'text'"),
        ("gpt2", {"objective": "masked"}, ModelError, "has no mask token"),
        ("bert", {"objective": "causal"}, ModelError, "sees the tokens it would have to predict"),
        ("gpt2", {"max_tokens": 257}, ModelError, "256 positions: lower max_tokens from 257"),
        ("bert", {"objective": "masked", "max_tokens": 3}, ModelError, "no room is left for text"),
    ],
)
def test_what_does_not_fit_is_told(
    tmp_path: Path,
    request: pytest.FixtureRequest,
    running_text: Path,
    arch: str,
    changes: dict[str, Any],
    error: type[TrainerError],
    message: str,
) -> None:
    model = request.getfixturevalue(f"tiny_{arch}")
    config = settings(tmp_path / "run", running_text, model=str(model))
    with pytest.raises(error, match=message):
        train(replace(config, **changes))
    assert not (tmp_path / "run" / "manifest.json").exists()


def test_a_text_that_the_tokenizer_does_not_know_is_told(tmp_path: Path, tiny_bert: Path) -> None:
    (tmp_path / "text.txt").write_text("\u0e01 \u0e02 \u0e04 " * 50)
    config = settings(
        tmp_path / "run", tmp_path / "text.txt", model=str(tiny_bert), objective="masked"
    )
    with pytest.raises(DataError, match="knows none of this text"):
        train(config)


def test_a_tokenizer_too_large_for_new_weights_is_refused(
    tmp_path: Path, running_text: Path
) -> None:
    folder = build_tiny(tmp_path / "tiny", "gpt2")
    plain = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(plain | {"vocab_size": 300}))
    with pytest.raises(ModelError, match="set vocab_size in config.json"):
        train(settings(tmp_path / "run", running_text, model=str(folder), fresh=True))
