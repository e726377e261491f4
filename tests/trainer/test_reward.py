"""The reward model: whole rankings, figures, bias, and learning."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from tests.trainer.snapshots import comparison_row, write_all, write_snapshot
from trainer import losses, reward
from trainer.config import RewardConfig
from trainer.data import batch_rankings, load_demonstrations, load_rankings, shuffled
from trainer.frozen import FrozenStates
from trainer.models import LanguageModel, ScalarModel, trainable
from trainer.padded import Padded, pad
from trainer.records import read_manifest
from trainer.stack import Stack
from trainer.stage_io import open_run
from trainer.text import Codec

CPU = torch.device("cpu")


def train(out: Path, model: Path, folders: dict[str, Path], **changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "learning_rate": 3e-3,
        "batch": 4,
        "epochs": 2,
        "precision": "fp32",
        "max_tokens": 200,
        "demonstrations": str(folders["demonstrations"]),
    }
    settings = RewardConfig(
        out=str(out), model=str(model), comparisons=str(folders["comparisons"]), **plain | changes
    )
    with open_run(out) as run:
        reward.run(settings, run)
    return read_manifest(out, verify=True).metrics


def fresh(folder: Path) -> ScalarModel:
    return ScalarModel.fresh(folder, 0, "fp32", CPU, pad_id=0, seed=0)


def micro(tokens: int) -> RewardConfig:
    return RewardConfig(out="", micro_tokens=tokens)


@pytest.mark.slow
def test_each_answer_has_one_forward_and_the_loss_is_the_plain_mean_over_pairs(
    tmp_path: Path, tiny_model: Path
) -> None:
    rankings = load_rankings(write_all(tmp_path)["comparisons"], Codec.load(tiny_model), 200).train
    model = fresh(tiny_model)
    got = reward.backward_loss(model, rankings, 0, micro(10**6)).loss
    want = 0.0
    for ranking in rankings:
        scores = [float(model.scores(pad([a.ids], 0, CPU)).detach()) for a in ranking.answers]
        pairs = [
            math.log1p(math.exp(scores[j] - scores[i]))
            for i in range(len(scores))
            for j in range(len(scores))
            if ranking.ranks[i] < ranking.ranks[j]
        ]
        want += sum(pairs) / len(pairs) / len(rankings)
    assert got == pytest.approx(want, abs=1e-5)


@pytest.mark.parametrize("frozen", [0, 1])
def test_a_prompt_computed_once_for_its_answers_changes_neither_loss_nor_gradient(
    tmp_path: Path, tiny_model: Path, frozen: int
) -> None:
    rankings = load_rankings(write_all(tmp_path)["comparisons"], Codec.load(tiny_model), 200).train[
        :6
    ]
    found = []
    for shared in (True, False):
        model = ScalarModel.fresh(tiny_model, frozen, "fp32", CPU, pad_id=0, seed=0)
        assert model.stack.segments, "both architectures take several sequences in a row"
        model.stack.segments = shared
        loss = reward.backward_loss(model, rankings, 0, micro(400)).loss
        weights = trainable(model.model)
        found.append((loss, {n: p.grad for n, p in weights.items() if p.grad is not None}))
    (loss, gradients), (plain_loss, plain) = found
    assert loss == pytest.approx(plain_loss, abs=1e-6)
    assert gradients.keys() == plain.keys()
    for name, gradient in gradients.items():
        torch.testing.assert_close(gradient, plain[name], atol=1e-5, rtol=1e-4)


def test_a_ranking_counts_its_prompt_once(tmp_path: Path, tiny_model: Path) -> None:
    rankings = load_rankings(write_all(tmp_path)["comparisons"], Codec.load(tiny_model), 200).train
    answer = rankings[0].answers[0]
    rest = sum(len(a.completion) for a in rankings[0].answers)
    assert rankings[0].tokens == len(answer.prompt) + rest


def test_micro_batches_of_one_ranking_give_the_gradient_of_the_whole_batch(
    tmp_path: Path, tiny_model: Path
) -> None:
    rankings = load_rankings(write_all(tmp_path)["comparisons"], Codec.load(tiny_model), 200).train
    found = []
    for micro_tokens in (10**6, 1):
        model = fresh(tiny_model)
        reward.backward_loss(model, rankings[:8], 0, micro(micro_tokens))
        weights = trainable(model.model)
        found.append({n: p.grad for n, p in weights.items() if p.grad is not None})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-6, rtol=1e-4)


def test_figures_of_pairs_have_the_hand_worked_numbers() -> None:
    figures = reward.pair_figures(torch.tensor([2.0, -1.0, 0.0, 3.0]))
    assert figures["accuracy"] == pytest.approx((1 + 0 + 0.5 + 1) / 4)
    logs = [math.log1p(math.exp(-d)) for d in (2.0, -1.0, 0.0, 3.0)]
    assert figures["log_loss"] == pytest.approx(sum(logs) / 4)
    assert figures["pairs"] == 4
    assert reward.pair_figures(torch.tensor([])) == {}


def test_tied_answers_are_no_pair_when_measured(tmp_path: Path, tiny_llama: Path) -> None:
    row = comparison_row(2)
    ids = [output.id for output in row.outputs]
    tied = comparison_row(2, rank_groups=((ids[0], ids[1]), (ids[2], ids[3])))
    folder = write_snapshot(tmp_path / "s", "comparisons", [tied])
    rankings = load_rankings(folder, Codec.load(tiny_llama), 200).train
    found = reward.score_pairs(fresh(tiny_llama), rankings, 0, 4096)
    assert len(found.differences) == 4


@pytest.mark.slow
def test_the_reward_model_learns_that_shorter_is_better(tmp_path: Path, tiny_model: Path) -> None:
    figures = train(
        tmp_path / "run", tiny_model, write_all(tmp_path, 48), epochs=6, learning_rate=5e-3
    )
    assert figures["accuracy"] > 0.85
    assert figures["log_loss"] < math.log(2)
    assert 0 <= figures["calibration_error"] < 1


@pytest.mark.slow
def test_demonstrations_score_zero_on_average_and_the_bias_orders_nothing_anew(
    tmp_path: Path, tiny_model: Path
) -> None:
    folders, codec = write_all(tmp_path), Codec.load(tiny_model)
    figures = train(tmp_path / "run", tiny_model, folders)
    model = ScalarModel.load(tmp_path / "run" / "model", 0, "fp32", CPU)
    data = load_demonstrations(folders["demonstrations"], codec, 200)
    scores = [
        float(model.scores(pad([e.ids], codec.pad_id, CPU)).detach())
        for e in (*data.train, *data.valid)
    ]
    assert sum(scores) / len(scores) == pytest.approx(0, abs=1e-3)
    assert abs(figures["bias"]) > 1e-3
    valid = load_rankings(folders["comparisons"], codec, 200).valid
    pairs = reward.score_pairs(model, valid, codec.pad_id, 4096)
    assert reward.pair_figures(pairs.differences)["accuracy"] == pytest.approx(figures["accuracy"])


def test_without_demonstrations_there_is_no_bias_and_a_note_says_so(
    tmp_path: Path, tiny_llama: Path
) -> None:
    figures = train(
        tmp_path / "run", tiny_llama, write_all(tmp_path), demonstrations=None, epochs=1
    )
    assert figures["bias"] == 0
    assert any("no bias" in note for note in read_manifest(tmp_path / "run").notes)


def test_only_the_share_of_untied_pairs_counts_in_a_batch() -> None:
    """Rankings of 2 and of 4 weigh the same: one has 1 pair, the other 6."""
    ranks = torch.tensor([[0, 1, 0, 0], [0, 1, 2, 3]])
    mask = torch.tensor([[True, True, False, False], [True] * 4])
    scores = torch.zeros(2, 4, requires_grad=True)
    losses.ranking_loss(scores, ranks, mask, 2).backward()  # type: ignore[no-untyped-call]
    assert scores.grad is not None
    assert scores.grad[0].abs().sum() == pytest.approx(0.5)
    assert scores.grad[1].abs().sum() == pytest.approx(1 / 3)


def test_frozen_blocks_are_run_once_a_ranking_however_many_epochs(
    tmp_path: Path, tiny_model: Path
) -> None:
    rankings = load_rankings(write_all(tmp_path)["comparisons"], Codec.load(tiny_model), 200).train
    found = []
    for limit in (0, 1, 1 << 20):
        model = ScalarModel.fresh(tiny_model, 1, "fp32", CPU, pad_id=0, seed=0)
        model.frozen = FrozenStates(model.stack, limit)
        runs: list[int] = []
        real = model.stack.lower

        def lower(batch: Padded, real: Any = real, runs: list[int] = runs) -> Tensor | None:
            runs.append(len(batch.ids))
            states: Tensor | None = real(batch)
            return states

        model.stack.lower = lower  # type: ignore[method-assign]
        for some in (rankings[:6], rankings[2:6], rankings[:3]):  # other company, other padding
            model.model.zero_grad()
            loss = reward.backward_loss(model, some, 0, RewardConfig(out="")).loss
        gradients = {n: p.grad for n, p in trainable(model.model).items() if p.grad is not None}
        found.append((loss, gradients, sum(runs)))
    (loss, plain, _), (anew, small, run_anew), (kept, large, run_once) = found
    assert (run_anew, run_once) == (13, 6)
    assert anew == kept == pytest.approx(loss, abs=1e-6)
    for name, gradient in plain.items():
        assert torch.equal(small[name], large[name]), "kept or not changes no bit"
        torch.testing.assert_close(large[name], gradient, atol=1e-6, rtol=1e-4)


def test_states_on_disk_serve_the_next_run_and_no_other_weights(
    tmp_path: Path, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folders, kept = write_all(tmp_path / "rows"), tmp_path / "kept"
    runs: list[int] = []
    real = Stack.lower

    def lower(stack: Stack, batch: Padded) -> Tensor | None:
        runs.append(len(batch.ids))
        return real(stack, batch)

    monkeypatch.setattr(Stack, "lower", lower)
    found, computed = [], []
    cases: list[tuple[str, dict[str, Any]]] = [
        ("plain", {}),
        ("first", {"frozen_states": str(kept), "frozen_states_mb": 0}),
        ("again", {"frozen_states": str(kept), "frozen_states_mb": 0}),
    ]
    for name, changes in cases:
        runs.clear()
        out = tmp_path / name
        train(out, tiny_model, folders, freeze_layers=1, demonstrations=None, **changes)
        found.append((out / "model" / "model.safetensors").read_bytes())
        computed.append(len(runs))
    assert found[0] == found[1] == found[2], "read or computed changes no bit"
    tried = computed[2]  # on construction alone
    assert computed[1] == computed[0] > tried

    files = set(kept.rglob("*.safetensors"))
    row = load_rankings(folders["comparisons"], Codec.load(tiny_model), 200).train[:1]
    rows = batch_rankings(row, 0, CPU, shared=True).tokens
    language = LanguageModel.load(tiny_model, 1, "fp32", CPU).stack  # another head, another config
    FrozenStates(language, 0, kept).lower(rows)
    assert set(kept.rglob("*.safetensors")) == files, "the head names nothing"

    other = ScalarModel.fresh(tiny_model, 1, "fp32", CPU, pad_id=0, seed=0)
    next(other.stack.shared_modules()[0].parameters()).data[0, 0] += 1.0
    batch = pad([[5, 6, 7]], 0, CPU)
    states = FrozenStates(other.stack, 0, kept).lower(batch)
    assert torch.equal(states, real(other.stack, batch))
    (new,) = set(kept.rglob("*.safetensors")) - files
    new.write_bytes(new.read_bytes()[:50])  # what a lost disk leaves
    assert torch.equal(FrozenStates(other.stack, 0, kept).lower(batch), states)
    assert list(kept.rglob(".*")) == []


def test_every_epoch_is_put_in_order_once(
    tmp_path: Path, tiny_llama: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Not at every step, which would take the square of the number of rankings."""
    keys = []

    def counted(count: int, *key: int) -> list[int]:
        keys.append(key)
        return shuffled(count, *key)

    monkeypatch.setattr("trainer.data.shuffled", counted)
    metrics = train(tmp_path / "run", tiny_llama, write_all(tmp_path), batch=8)
    assert metrics["steps"] > 2
    assert keys == [(0, 0), (0, 1)]  # seed and epoch
