"""Supervised fine-tuning: the loss on completions, accumulation, the epoch kept."""

import json
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from tests.trainer.sft_cast import CPU, config, gradients, train
from tests.trainer.snapshots import demonstration_row, write_snapshot
from trainer import sft
from trainer.data import Example, load_demonstrations
from trainer.errors import NumericError
from trainer.models import LanguageModel
from trainer.records import read_manifest
from trainer.runtime import Checkpoints
from trainer.text import Codec


@pytest.fixture
def demonstrations(tmp_path: Path) -> Path:
    rows = [demonstration_row(i) for i in range(16)]
    return write_snapshot(tmp_path / "demonstrations", "demonstrations", rows)


def test_the_loss_is_the_mean_over_completion_tokens_alone(tiny_model: Path) -> None:
    examples = [Example([5, 9, 7], [8, 3]), Example([5], [4, 6, 1, 2])]
    model = LanguageModel.load(tiny_model, 0, "fp32", CPU)
    loss = sft.backward_loss(model, examples, 0, 4096, targets=6)
    plain, total = AutoModelForCausalLM.from_pretrained(tiny_model).eval(), 0.0
    for example in examples:
        labels = torch.tensor([[-100] * len(example.prompt) + example.completion])
        out = plain(torch.tensor([example.ids]), labels=labels)
        total += float(out.loss.detach()) * len(example.completion)
    assert loss == pytest.approx(total / 6, abs=1e-5)


def test_eight_micro_batches_of_one_equal_one_of_eight(
    tiny_model: Path, demonstrations: Path
) -> None:
    data = load_demonstrations(demonstrations, Codec.load(tiny_model), 200).train[:8]
    targets = sum(len(example.completion) for example in data)
    model = LanguageModel.load(tiny_model, 0, "fp32", CPU)
    whole = sft.backward_loss(model, data, 0, 10**6, targets)
    at_once = gradients(model)
    parts = sft.backward_loss(model, data, 0, 1, targets)
    one_by_one = gradients(model)
    assert parts == pytest.approx(whole, abs=1e-5)
    for name, gradient in at_once.items():
        torch.testing.assert_close(one_by_one[name], gradient, atol=1e-6, rtol=1e-4)


@pytest.mark.slow
def test_training_lowers_the_loss_and_keeps_the_epoch_with_the_best_validation_loss(
    tmp_path: Path, tiny_model: Path, demonstrations: Path
) -> None:
    settings = config(tmp_path / "run", tiny_model, demonstrations, epochs=8, learning_rate=1e-2)
    lines = train(settings)
    assert lines[-1]["loss"] < lines[0]["loss"] - 0.5
    by_epoch = [line["valid_loss"] for line in lines if "valid_loss" in line]
    assert len(by_epoch) == 8
    manifest = read_manifest(tmp_path / "run", verify=True)
    best = manifest.metrics["best_epoch"]
    assert by_epoch[best - 1] == min(by_epoch) == manifest.metrics["valid_loss"]
    assert any(f"those of epoch {best} of 8" in note for note in manifest.notes)
    data = load_demonstrations(demonstrations, Codec.load(tiny_model), 200)
    saved = LanguageModel.load(tmp_path / "run" / "model", 0, "fp32", CPU)
    again = sft.validation_loss(saved, data.valid, 0, 4096)
    assert again == pytest.approx(min(by_epoch), abs=1e-5)
    assert manifest.metrics["tokens"] > 0
    assert manifest.metrics["tokens_per_second"] > 0


def test_later_worse_epochs_do_not_replace_the_best(
    tmp_path: Path, tiny_llama: Path, demonstrations: Path
) -> None:
    settings = config(tmp_path, tiny_llama, demonstrations)
    trainee = sft.Trainee(settings, Checkpoints(tmp_path, settings, []))
    valid = load_demonstrations(demonstrations, Codec.load(tiny_llama), 200).valid
    sft.look(trainee, valid, None, 0, 1, lambda: None)
    best = {name: tensor.clone() for name, tensor in trainee.best.items()}
    with torch.no_grad():
        for parameter in trainee.weights.values():
            parameter.add_(0.5)
    sft.look(trainee, valid, None, 0, 2, lambda: None)
    assert trainee.chosen["epoch"] == trainee.lowest["epoch"] == 1
    assert all(torch.equal(trainee.best[name], best[name]) for name in best)


@pytest.mark.slow
def test_frozen_layers_stay_as_they_were(
    tmp_path: Path, tiny_model: Path, demonstrations: Path
) -> None:
    train(config(tmp_path / "run", tiny_model, demonstrations, freeze_layers=1, precision="bf16"))
    before = dict(AutoModelForCausalLM.from_pretrained(tiny_model).named_parameters())
    after = AutoModelForCausalLM.from_pretrained(tmp_path / "run" / "model").named_parameters()
    moved = {name for name, parameter in after if not torch.equal(parameter, before[name])}
    assert moved
    assert not any(".0." in name or "wte" in name or "embed" in name for name in moved)


def test_a_loss_that_is_not_finite_ends_the_run_with_a_sentence(
    tmp_path: Path, tiny_llama: Path, demonstrations: Path
) -> None:
    settings = config(tmp_path / "run", tiny_llama, demonstrations, learning_rate=1e30)
    with pytest.raises(NumericError, match="Lower the learning rate"):
        train(settings)
    error = json.loads((tmp_path / "run" / "error.json").read_text())
    assert error["code"] == 6
    assert not (tmp_path / "run" / "manifest.json").exists()
