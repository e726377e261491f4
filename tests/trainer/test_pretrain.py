"""Pretraining on running text: windows, masking, the losses, perplexity, what is kept and told."""

import json
import math
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from tests.trainer.tiny import TEXT, build_tiny
from trainer import losses, pretrain
from trainer.__main__ import main
from trainer.config import PretrainConfig
from trainer.errors import ConfigError, DataError, ModelError, TrainerError
from trainer.objectives import (
    Guess,
    MaskedModel,
    Masking,
    batch_guesses,
    mask_window,
    masking_of,
    new_model,
)
from trainer.pretrain import Trainee, backward_loss, held_out_loss, learning_factor, load_text
from trainer.records import read_manifest
from trainer.runtime import Checkpoints
from trainer.stage_io import open_run
from trainer.text import Codec

CPU = torch.device("cpu")
REPEATED = "The small dog slept near the nets, and the gulls sat on the wall. " * 60
OBJECTIVES = ("causal", "masked")


@pytest.fixture
def text(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT * 4)
    return path


@pytest.fixture(params=OBJECTIVES)
def kind(request: pytest.FixtureRequest) -> dict[str, str]:
    """Each objective with a model for it."""
    arch = {"causal": "gpt2", "masked": "bert"}[request.param]
    return {"objective": request.param, "model": str(request.getfixturevalue(f"tiny_{arch}"))}


def settings(out: Path, text: Path, **changes: Any) -> PretrainConfig:
    plain: dict[str, Any] = {
        "max_tokens": 32,
        "batch": 8,
        "learning_rate": 3e-3,
        "precision": "fp32",
        "valid_every": 10,
    }
    return PretrainConfig(out=str(out), text=str(text), **plain | changes)


def train(config: PretrainConfig) -> list[dict[str, float]]:
    with open_run(config.out) as run:
        pretrain.run(config, run)
        return [line["values"] for line in run.lines()]


def trainee_of(config: PretrainConfig) -> Trainee:
    codec = Codec.load(config.model)
    return Trainee(config, codec, Checkpoints(Path(config.out), config, []))


# ---- masking ----------------------------------------------------------------------------------


def masking(**changes: Any) -> Masking:
    plain = Masking(0.15, 0.8, 0.1, mask_id=4, ordinary=range(5, 1005), special={0, 1, 2, 3, 4})
    return plain._replace(**changes)


def test_fifteen_in_a_hundred_are_asked_about_and_eight_in_ten_of_them_hidden() -> None:
    window = list(range(5, 105))
    fates: Counter[str] = Counter()
    asked: Counter[int] = Counter()
    for number in range(2000):
        guess = mask_window(window, masking(), (0, 0, number))
        assert len(guess.positions) == 15
        assert guess.targets == [window[i] for i in guess.positions]
        asked.update(guess.positions)
        for i, (before, after) in enumerate(zip(window, guess.ids, strict=True)):
            if i not in guess.positions:
                assert after == before
            else:
                fates["hidden" if after == 4 else "kept" if after == before else "random"] += 1
    total = sum(fates.values())
    assert total == 30_000
    # five standard errors of a share p of 30,000 draws; a random token is the old one 1 time in 1000
    for fate, share in {"hidden": 0.8, "random": 0.0999, "kept": 0.1001}.items():
        assert abs(fates[fate] / total - share) < 5 * math.sqrt(share * (1 - share) / total)
    assert len(asked) == 100  # every place has its turn, 300 times give or take five errors
    assert all(abs(count - 300) < 5 * math.sqrt(2000 * 0.15 * 0.85) for count in asked.values())


def test_a_random_stand_in_is_any_ordinary_token_and_no_special_one() -> None:
    always = masking(rate=1.0, mask_share=0.0, random_share=1.0, ordinary=[7, 8, 9])
    guess = mask_window([5] * 600, always, (1,))
    counts = Counter(guess.ids)
    assert set(counts) == {7, 8, 9}
    assert all(abs(count - 200) < 5 * math.sqrt(600 * 2 / 9) for count in counts.values())


def test_masks_are_a_function_of_the_key_alone() -> None:
    window = list(range(5, 105))
    first = mask_window(window, masking(), (3, 1, 2))
    torch.manual_seed(99)
    assert mask_window(window, masking(), (3, 1, 2)) == first
    for other in ((4, 1, 2), (3, 2, 2), (3, 1, 3), (3, "valid", 2)):
        assert mask_window(window, masking(), other) != first


def test_a_window_is_masked_anew_in_every_epoch_and_always_alike_where_it_is_held_out(
    tmp_path: Path, tiny_bert: Path, text: Path
) -> None:
    config = settings(tmp_path / "run", text, model=str(tiny_bert), objective="masked")
    trainee = trainee_of(config)
    found = load_text(config, Codec.load(tiny_bert), trainee.objective, lambda: None)
    first, again, later = (pretrain._guesses(trainee, found, [0, 1], epoch) for epoch in (0, 0, 1))
    assert first == again
    assert [g.positions for g in later] != [g.positions for g in first]
    both = held_out_loss(trainee, found.valid), held_out_loss(trainee, found.valid)
    assert both[0] == both[1]


def test_special_tokens_are_never_asked_about_and_a_short_window_asks_about_one() -> None:
    guess = mask_window([1, 50, 2, 60, 3], masking(), (0,))
    assert len(guess.positions) == 1
    assert guess.positions[0] in (1, 3)
    assert mask_window([1, 2, 3], masking(), (0,)) == Guess([1, 2, 3], [], [])


def test_a_masked_window_stands_between_what_the_tokenizer_puts_around_a_text(
    tmp_path: Path, tiny_bert: Path, text: Path
) -> None:
    config = settings(tmp_path / "run", text, model=str(tiny_bert), objective="masked")
    objective = trainee_of(config).objective
    codec = Codec.load(tiny_bert)
    window = codec.encode_text(TEXT)[: objective.length]
    guess = objective.guess(window, (0,))
    assert len(guess.ids) == 32
    tokens = codec.tokenizer.convert_ids_to_tokens([guess.ids[0], guess.ids[-1]])
    assert tokens == ["[CLS]", "[SEP]"]
    assert len(guess.positions) == round(0.15 * 30 + 0.001)


def test_a_masks_settings_come_from_the_tokenizer(tiny_bert: Path, tiny_gpt2: Path) -> None:
    tokenizer = AutoTokenizer.from_pretrained(tiny_bert)
    found = masking_of(PretrainConfig(out="", mask_rate=0.3), tokenizer)
    assert (found.rate, found.mask_id) == (0.3, tokenizer.mask_token_id)
    assert not set(found.ordinary) & set(tokenizer.all_special_ids)
    assert len(found.ordinary) == len(tokenizer) - 5
    with pytest.raises(ModelError, match="has no mask token"):
        masking_of(PretrainConfig(out="", model="m"), AutoTokenizer.from_pretrained(tiny_gpt2))


# ---- losses -----------------------------------------------------------------------------------


def test_perplexity_is_e_to_the_mean_of_minus_log_probability() -> None:
    probabilities = torch.tensor([0.5, 0.125, 0.25])  # geometric mean 1/4
    logprobs = probabilities.log()
    loss = losses.token_loss(logprobs, torch.ones(3, dtype=torch.bool), 3)
    assert losses.perplexity(float(loss)) == pytest.approx(4.0)
    assert losses.perplexity(0.0) == 1.0
    assert losses.perplexity(math.log(50_000)) == pytest.approx(50_000)
    assert losses.perplexity(1e6) == math.inf


def test_a_model_that_prefers_nothing_has_the_vocabulary_as_its_perplexity(
    tmp_path: Path, kind: dict[str, str], text: Path
) -> None:
    trainee = trainee_of(settings(tmp_path / "run", text, **kind))
    model = trainee.objective.model
    head = model.get_output_embeddings()
    with torch.no_grad():
        head.weight.zero_()
        if head.bias is not None:
            head.bias.zero_()
    codec = Codec.load(kind["model"])
    windows = [codec.encode_text(TEXT)[:20], codec.encode_text(TEXT)[20:40]]
    perplexity = losses.perplexity(held_out_loss(trainee, windows))
    assert perplexity == pytest.approx(head.weight.shape[0], rel=1e-4)


def test_the_causal_loss_is_that_of_the_library(
    tmp_path: Path, tiny_model: Path, text: Path
) -> None:
    trainee = trainee_of(settings(tmp_path / "run", text, model=str(tiny_model)))
    trainee.objective.train(False)
    windows = torch.randint(3, 300, (3, 17), generator=torch.Generator().manual_seed(0))
    guesses = [trainee.objective.guess(window, ()) for window in windows.tolist()]
    plain = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    wanted = float(plain(windows, labels=windows).loss.detach())
    assert backward_loss(trainee, guesses) == pytest.approx(wanted, abs=1e-5)


def test_the_masked_loss_is_that_of_the_library_at_the_masked_tokens(
    tmp_path: Path, tiny_bert: Path, text: Path
) -> None:
    config = settings(tmp_path / "run", text, model=str(tiny_bert), objective="masked")
    trainee = trainee_of(config)
    trainee.objective.train(False)
    window = Codec.load(tiny_bert).encode_text(TEXT)
    guesses = [trainee.objective.guess(window[i : i + 30], (0, i)) for i in (0, 30, 60)]
    labels = torch.full((3, 32), -100)
    for row, guess in enumerate(guesses):
        labels[row, guess.positions] = torch.tensor(guess.targets)
    plain = AutoModelForMaskedLM.from_pretrained(tiny_bert).eval()
    out = plain(torch.tensor([guess.ids for guess in guesses]), labels=labels)
    assert backward_loss(trainee, guesses) == pytest.approx(float(out.loss.detach()), abs=1e-5)


def test_eight_micro_batches_of_one_equal_one_of_eight(
    tmp_path: Path, kind: dict[str, str], text: Path
) -> None:
    config = settings(tmp_path / "run", text, **kind)
    found = []
    for micro_tokens in (10**6, 1):
        trainee = trainee_of(settings(tmp_path / "run", text, micro_tokens=micro_tokens, **kind))
        trainee.objective.train(False)
        ids = Codec.load(config.model).encode_text(TEXT)
        guesses = [trainee.objective.guess(ids[i : i + 16], (0, i)) for i in range(8)]
        loss = backward_loss(trainee, guesses)
        found.append((loss, {n: p.grad for n, p in trainee.weights.items() if p.grad is not None}))
    assert found[0][0] == pytest.approx(found[1][0], abs=1e-5)
    assert found[0][1].keys() == found[1][1].keys()
    for name, gradient in found[0][1].items():
        torch.testing.assert_close(found[1][1][name], gradient, atol=1e-6, rtol=1e-4)


def test_logits_are_made_only_where_asked_and_are_those_among_all(tiny_bert: Path) -> None:
    model = AutoModelForMaskedLM.from_pretrained(tiny_bert).eval()
    masked = MaskedModel(model, "fp32")
    guesses = [Guess([5, 9, 20, 31], [1, 3], [9, 31]), Guess([6, 7], [0], [6])]
    batch, asked, targets = batch_guesses(guesses, 0, CPU)
    assert targets.tolist() == [9, 31, 6]
    rows: list[int] = []
    head = model.get_output_embeddings()
    head.register_forward_hook(lambda _m, _args, out: rows.append(out.shape[:-1].numel()))
    logits = masked.logits(batch, asked)
    assert rows == [3]
    alone = [model(torch.tensor([guess.ids])).logits[0, guess.positions] for guess in guesses]
    torch.testing.assert_close(logits, torch.cat(alone), atol=1e-5, rtol=1e-5)


class Unhooked(nn.Module):
    """A masked model whose head cannot be given chosen states: it wants whole sequences."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.base_model, self.whole = nn.Identity(), model

    def forward(self, **inputs: Any) -> Any:
        return self.whole(**inputs)


def test_a_model_that_cannot_choose_makes_all_logits(tiny_bert: Path) -> None:
    model = AutoModelForMaskedLM.from_pretrained(tiny_bert).eval()
    batch, asked, _ = batch_guesses([Guess([5, 9, 20, 31], [1, 3], [9, 31])], 0, CPU)
    logits = MaskedModel(Unhooked(model), "fp32").logits(batch, asked)
    torch.testing.assert_close(logits, model(batch.ids).logits[0, [1, 3]], atol=1e-5, rtol=1e-5)


# ---- the run ----------------------------------------------------------------------------------


@pytest.mark.parametrize("fresh", [False, True], ids=["its weights", "new weights"])
def test_learning_lowers_perplexity_on_a_text_that_repeats(
    tmp_path: Path, kind: dict[str, str], fresh: bool
) -> None:
    (tmp_path / "text.txt").write_text(REPEATED)
    config = settings(
        tmp_path / "run", tmp_path / "text.txt", **kind, fresh=fresh, epochs=40, max_steps=150,
        learning_rate=5e-3, valid_every=30,
    )  # fmt: skip
    lines = train(config)
    name = {"causal": "perplexity", "masked": "pseudo_perplexity"}[kind["objective"]]
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
        kind["objective"] == "masked"
    )
    # the folder holds the weights that were measured
    model = str(tmp_path / "run" / "model")
    saved = trainee_of(replace(config, out=str(tmp_path), model=model, fresh=False))
    windows = load_text(config, Codec.load(config.model), saved.objective, lambda: None).valid
    assert held_out_loss(saved, windows) == pytest.approx(manifest.metrics["valid_loss"], abs=1e-5)


def test_new_weights_are_a_function_of_the_seed_and_need_no_old_ones(
    tmp_path: Path, tiny_gpt2: Path, text: Path
) -> None:
    bare = tmp_path / "bare"
    shutil.copytree(tiny_gpt2, bare, ignore=shutil.ignore_patterns("*.safetensors"))
    with pytest.raises(ModelError, match="holds no causal language model"):
        new_model(settings(tmp_path, text, model=str(bare)))
    drawn: list[torch.Tensor] = []
    for seed in (1, 1, 2):
        torch.manual_seed(len(drawn))
        model = new_model(settings(tmp_path, text, model=str(bare), fresh=True, seed=seed))
        drawn.append(model.get_input_embeddings().weight)
        assert drawn[-1].dtype == torch.float32
    assert torch.equal(drawn[0], drawn[1])
    assert not torch.equal(drawn[0], drawn[2])
    train(settings(tmp_path / "run", text, model=str(bare), fresh=True, max_steps=1))
    assert read_manifest(tmp_path / "run", verify=True).metrics["steps"] == 1


def test_later_worse_looks_do_not_replace_the_best(
    tmp_path: Path, kind: dict[str, str], text: Path
) -> None:
    trainee = trainee_of(settings(tmp_path, text, **kind))
    windows = [Codec.load(kind["model"]).encode_text(TEXT)[:30]]
    trainee.step = 1
    pretrain.look(trainee, windows)
    best = {name: tensor.clone() for name, tensor in trainee.best.items()}
    with torch.no_grad():
        for parameter in trainee.weights.values():
            parameter.add_(0.5 * torch.randn_like(parameter))
    trainee.step = 2
    pretrain.look(trainee, windows)
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
    tmp_path: Path, tiny_gpt2: Path, text: Path
) -> None:
    config = settings(tmp_path, text, model=str(tiny_gpt2))
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


def test_a_text_of_its_own_may_be_held_out(tmp_path: Path, tiny_gpt2: Path, text: Path) -> None:
    other = tmp_path / "other.txt"
    other.write_text(REPEATED)
    config = settings(
        tmp_path / "run", text, model=str(tiny_gpt2), valid_text=str(other), valid_windows=3
    )
    train(replace(config, max_steps=2))
    manifest = read_manifest(tmp_path / "run")
    assert [parent.role for parent in manifest.parents] == ["base", "pretrain_text", "valid_text"]
    assert manifest.metrics["valid_windows"] == 3
    found = load_text(config, Codec.load(tiny_gpt2), trainee_of(config).objective, lambda: None)
    assert len(found.train) == len(found.windows)
    assert "gulls sat" in Codec.load(tiny_gpt2).decode_text(found.valid[0] + found.valid[1])


def test_a_text_of_one_window_trains_and_says_that_nothing_was_measured(
    tmp_path: Path, kind: dict[str, str]
) -> None:
    (tmp_path / "short.txt").write_text("The small dog slept.")
    lines = train(settings(tmp_path / "run", tmp_path / "short.txt", **kind, epochs=2))
    assert len(lines) == 2
    assert "valid_loss" not in lines[-1]
    notes = read_manifest(tmp_path / "run").notes
    assert "The text fills one window: none is held out." in notes
    assert any("the last ones" in note for note in notes)


def test_frozen_layers_stay_as_they_were(tmp_path: Path, tiny_model: Path, text: Path) -> None:
    config = settings(tmp_path / "run", text, model=str(tiny_model), freeze_layers=1, max_steps=2)
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
        ({"mask_rate": 0.0}, "mask_rate is 0; it must be above 0"),
        ({"random_token_share": 0.3}, "the sum of mask_token_share and random_token_share is 1.1"),
        ({"max_steps": 0}, "max_steps is 0; 1 is the least"),
        ({"valid_every": 0}, "valid_every must be above 0"),
        ({"freeze_layers": 1, "fresh": True}, "freeze_layers is for a causal model"),
        ({"freeze_layers": 1, "objective": "masked"}, "freeze_layers is for a causal model"),
    ],
)
def test_a_setting_out_of_range_is_named(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        PretrainConfig(out="", **changes)


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
    text: Path,
    arch: str,
    changes: dict[str, Any],
    error: type[TrainerError],
    message: str,
) -> None:
    model = request.getfixturevalue(f"tiny_{arch}")
    config = settings(tmp_path / "run", text, model=str(model))
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


def test_a_tokenizer_too_large_for_new_weights_is_refused(tmp_path: Path, text: Path) -> None:
    folder = build_tiny(tmp_path / "tiny", "gpt2")
    plain = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(plain | {"vocab_size": 300}))
    with pytest.raises(ModelError, match="set vocab_size in config.json"):
        train(settings(tmp_path / "run", text, model=str(folder), fresh=True))
