"""What a reward model says of itself: figures side by side and by group, folds, and killed runs."""

import json
import math
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import tensor

from tests.trainer import resuming as resume
from tests.trainer.snapshots import comparison_row, write_all, write_snapshot
from tests.trainer.tiny import build_tiny
from tests.trainer.tiny_bert import build_encoder
from trainer import reward
from trainer.__main__ import main
from trainer.config import RewardConfig
from trainer.data import Example, Ranking, epoch_batches, load_rankings
from trainer.errors import Stopped
from trainer.models import ScalarModel
from trainer.records import file_sha256, read_manifest
from trainer.reward_data import NO_FOLDS
from trainer.reward_report import (
    Pairs,
    pair_figures,
    reliability,
    report,
    wilson,
)
from trainer.runtime import Optimiser
from trainer.stage_io import open_run
from trainer.text import Codec

CPU = torch.device("cpu")


def ranking(**stated: Any) -> Ranking:
    return Ranking([Example([1], [2]), Example([1], [3])], [0, 1], **stated)


def grouped(folder: Path, groups: tuple[str | None, ...], count: int = 48) -> Path:
    """Rankings in turn by labelers of these groups; the shorter answer is better to all."""
    rows = [
        comparison_row(
            i,
            labeler_group=groups[i // 8 % len(groups)],
            use_case=("chat", "rewrite")[i % 2],
            confidence=(None, 1.0, 5.0)[i // 4 % 3],
        )
        for i in range(count)
    ]
    return write_snapshot(folder, "comparisons", rows)


def train(out: Path, model: Path, comparisons: Path, **changes: Any) -> dict[str, Any]:
    plain: dict[str, Any] = {
        "learning_rate": 5e-3,
        "batch": 4,
        "epochs": 2,
        "precision": "fp32",
        "max_tokens": 200,
    }
    config = RewardConfig(
        out=str(out), model=str(model), comparisons=str(comparisons), **plain | changes
    )
    with open_run(out) as run:
        reward.run(config, run)
    found: dict[str, Any] = json.loads((out / "report.json").read_text())
    return found


def logged(out: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]


# ---- the figures --------------------------------------------------------------------------


def test_wilsons_interval_has_the_hand_worked_bounds() -> None:
    # 8 of 10, z^2 = 3.841459: centre (0.8 + 0.192073) / 1.384146 = 0.716740;
    # half width 1.959964 sqrt(0.016 + 0.009603) / 1.384146 = 0.226577
    assert wilson(8, 10) == pytest.approx((0.490162, 0.943317), abs=2e-5)
    assert wilson(0, 5)[0] == 0 and wilson(5, 5)[1] == pytest.approx(1)
    assert wilson(0, 5)[1] == pytest.approx(3.841459 / 5 / (1 + 3.841459 / 5), abs=1e-6)


def test_accuracy_log_loss_and_calibration_stand_side_by_side() -> None:
    # Beliefs 0.75, 0.75, 0.95 in the higher answer, right in 1, 0 and 1 of them
    odds = [math.log(3), -math.log(3), math.log(19)]
    figures = pair_figures(tensor(odds))
    assert figures["accuracy"] == pytest.approx(2 / 3)
    assert figures["log_loss"] == pytest.approx(-math.log(0.75 * 0.25 * 0.95) / 3)
    # bins of 0.1: two beliefs of 0.75 with one right, one of 0.95 that is right
    assert figures["calibration_error"] == pytest.approx((abs(1.5 - 1) + abs(0.95 - 1)) / 3)
    assert (figures["accuracy_low"], figures["accuracy_high"]) == pytest.approx(wilson(2, 3))


def test_the_reliability_table_has_ten_rows_from_a_toss_to_certainty() -> None:
    odds = [math.log(3), -math.log(3), math.log(19), 0.0, 50.0]
    rows = reliability(tensor(odds))
    assert [row["low"] for row in rows] == pytest.approx([0.5 + i / 20 for i in range(10)])
    assert [row["pairs"] for row in rows] == [1, 0, 0, 0, 0, 2, 0, 0, 0, 2]
    assert (rows[0]["belief"], rows[0]["accuracy"]) == (0.5, 0.5)
    assert (rows[5]["belief"], rows[5]["accuracy"]) == pytest.approx((0.75, 0.5))
    assert rows[9]["belief"] == pytest.approx((0.95 + 1) / 2) and rows[9]["accuracy"] == 1
    assert rows[1]["belief"] is None and rows[1]["accuracy"] is None


def test_figures_are_broken_down_by_what_the_record_states() -> None:
    rankings = [
        ranking(use_case="chat", confidence=2.0, labeler_group="b"),
        ranking(use_case="chat", labeler_group="a"),
        ranking(use_case="rewrite", confidence=10.0),
    ]
    found = report(Pairs(tensor([1.0, -1.0, 2.0, 3.0]), tensor([0, 0, 1, 2])), rankings)
    assert (found["overall"]["rankings"], found["overall"]["pairs"]) == (3, 4)
    assert found["overall"]["accuracy"] == 0.75

    def shown(fact: str) -> list[tuple[str, int, int, float]]:
        rows = found["by"][fact]
        return [(row["group"], row["rankings"], row["pairs"], row["accuracy"]) for row in rows]

    assert shown("use_case") == [("chat", 2, 3, pytest.approx(2 / 3)), ("rewrite", 1, 1, 1)]
    assert shown("confidence") == [("2", 1, 2, 0.5), ("10", 1, 1, 1), ("not stated", 1, 1, 1)]
    assert shown("labeler_group") == [("a", 1, 1, 1), ("b", 1, 2, 0.5), ("not stated", 1, 1, 1)]


def test_many_confidences_are_put_in_tenths_of_their_range() -> None:
    rankings = [ranking(confidence=i / 20) for i in range(21)]
    found = report(Pairs(torch.ones(21), torch.arange(21)), rankings)["by"]["confidence"]
    assert [row["group"] for row in found][:2] == ["0 to 0.1", "0.1 to 0.2"]
    assert len(found) == 10 and sum(row["pairs"] for row in found) == 21
    assert found[-1]["group"] == "0.9 to 1"


def test_a_set_without_pairs_has_counts_and_no_figures() -> None:
    found = report(Pairs(torch.zeros(0), torch.zeros(0, dtype=torch.long)), [])
    assert found["overall"] == {"rankings": 0, "pairs": 0}
    assert found["by"] == {"use_case": [], "confidence": [], "labeler_group": []}
    assert [row["pairs"] for row in found["reliability"]] == [0] * 10


def test_pairs_know_their_ranking_in_any_micro_batch(tmp_path: Path, tiny_model: Path) -> None:
    folder = write_all(tmp_path)["comparisons"]
    rankings = load_rankings(folder, Codec.load(tiny_model), 200).train
    model = ScalarModel.fresh(tiny_model, 0, "fp32", CPU, pad_id=0, seed=0)
    whole, cut = (reward.score_pairs(model, rankings, 0, size) for size in (10**6, 1))
    for place in range(len(rankings)):
        (alone,) = [reward.score_pairs(model, [rankings[place]], 0, 4096).differences]
        for found in (whole, cut):
            mine = found.of([i == place for i in range(len(rankings))]).differences
            torch.testing.assert_close(mine, alone, atol=1e-5, rtol=1e-4)


# ---- in a run -----------------------------------------------------------------------------


def test_a_run_reports_in_a_file_of_its_own_and_in_its_manifest(
    tmp_path: Path, tiny_llama: Path
) -> None:
    out = tmp_path / "run"
    found = train(out, tiny_llama, grouped(tmp_path / "s", ("a", "b", None)))
    manifest = read_manifest(out, verify=True)
    assert manifest.files["report.json"] == file_sha256(out / "report.json")
    assert manifest.metrics["by"] == found["by"]
    assert manifest.metrics["reliability"] == found["reliability"]
    assert {k: manifest.metrics[k] for k in reward.HEADLINES} == {
        k: found["overall"][k] for k in reward.HEADLINES
    }
    for rows in found["by"].values():
        assert sum(row["pairs"] for row in rows) == found["overall"]["pairs"]
    assert [row["group"] for row in found["by"]["labeler_group"]] == ["a", "b", "not stated"]
    assert "folds" not in found


@pytest.mark.slow
def test_every_step_logs_the_accuracy_on_its_own_batch_before_the_update(
    tmp_path: Path, tiny_llama: Path
) -> None:
    folder = grouped(tmp_path / "s", (None,))
    train(tmp_path / "run", tiny_llama, folder, epochs=6)
    lines = [line["values"]["train_accuracy"] for line in logged(tmp_path / "run")]
    assert len(lines) == 54 and all(0 <= value <= 1 for value in lines)
    assert sum(lines[-9:]) / 9 > 0.85 > sum(lines[:3]) / 3
    codec = Codec.load(tiny_llama)
    rankings = load_rankings(folder, codec, 200).train
    first = [rankings[i] for i in epoch_batches(len(rankings), 4, 0, 0)[0]]
    model = ScalarModel.fresh(tiny_llama, 0, "fp32", CPU, pad_id=codec.pad_id, seed=0)
    differences = reward.score_pairs(model, first, codec.pad_id, 4096).differences
    assert lines[0] == pytest.approx(float((differences > 0).float().mean()))


@pytest.mark.slow
def test_modelled_ties_are_learned_and_reported_with_their_own_log_odds(
    tmp_path: Path, tiny_llama: Path
) -> None:
    folder = write_all(tmp_path, 32)["comparisons"]
    found = train(tmp_path / "run", tiny_llama, folder, ties="model", tie_threshold=1.0, epochs=4)
    codec = Codec.load(tiny_llama)
    model = ScalarModel.load(tmp_path / "run" / "model", 0, "fp32", CPU)
    valid = load_rankings(folder, codec, 200).valid
    d = reward.score_pairs(model, valid, codec.pad_id, 4096).differences
    above, below = torch.sigmoid(d - 1), torch.sigmoid(-d - 1)
    want = float(-(above / (above + below)).log().mean())
    assert found["overall"]["log_loss"] == pytest.approx(want, abs=1e-4)


# ---- folds by labeler group ---------------------------------------------------------------


@pytest.mark.slow
def test_a_group_that_judges_the_other_way_is_told_by_its_fold(
    tmp_path: Path, tiny_llama: Path
) -> None:
    """Two groups like short answers, the third long ones: left out, it is not predicted."""
    rows = []
    for i in range(96):
        row = comparison_row(i, labeler_group=("a", "b", "c")[i // 4 % 3])
        if row.labeler_group == "c":
            row = comparison_row(i, labeler_group="c", rank_groups=row.rank_groups[::-1])
        rows.append(row)
    folder = write_snapshot(tmp_path / "s", "comparisons", rows)
    found = train(tmp_path / "run", tiny_llama, folder, epochs=4, folds_by="labeler_group")["folds"]
    by_name = {fold["left_out"]: fold for fold in found["folds"]}
    assert by_name["c"]["within"]["accuracy"] > 0.8 > 0.5 > by_name["c"]["held_out"]["accuracy"]
    assert read_manifest(tmp_path / "run").metrics["folds"] == found


@pytest.mark.slow
def test_folds_change_nothing_of_the_model_that_is_kept(tmp_path: Path, tiny_llama: Path) -> None:
    folder = grouped(tmp_path / "s", ("a", None))
    with_folds = train(tmp_path / "with", tiny_llama, folder, folds_by="labeler_group")
    without = train(tmp_path / "without", tiny_llama, folder)
    assert resume.weights(tmp_path / "with") == resume.weights(tmp_path / "without")
    assert {k: v for k, v in with_folds.items() if k != "folds"} == without
    lines = logged(tmp_path / "with")
    assert [line["step"] for line in lines] == list(range(1, lines[-1]["total"] + 1))
    assert [line["values"].get("fold") for line in lines] == [None] * 18 + [0] * 10 + [1] * 10
    assert not list((tmp_path / "with" / "checkpoints").rglob("fold-*/**/*.pt"))


def test_one_group_alone_makes_no_folds_and_a_note_says_so(
    tmp_path: Path, tiny_llama: Path
) -> None:
    folder = write_all(tmp_path)["comparisons"]
    found = train(tmp_path / "run", tiny_llama, folder, folds_by="labeler_group", epochs=1)
    assert "folds" not in found
    assert NO_FOLDS in read_manifest(tmp_path / "run").notes


# ---- killed runs --------------------------------------------------------------------------


def settings(root: Path) -> dict[str, dict[str, Any]]:
    """The new ways to train, by name."""
    data = {name: str(path) for name, path in write_all(root / "data").items()}
    shared: dict[str, Any] = {
        "model": str(build_tiny(root / "tiny", "gpt2")),
        "comparisons": data["comparisons"],
        "learning_rate": 1e-3,
        "seed": 4,
        "batch": 6,
        "epochs": 2,
        "threads": 1,
        "checkpoint_every": 2,
    }
    return {
        "encoder": shared
        | {
            "model": str(build_encoder(root / "bert")),
            "freeze_layers": 1,
            "demonstrations": data["demonstrations"],
        },
        "losses": shared | {"ties": "model", "margin": 0.2, "l2": 0.1, "label_smoothing": 0.1},
        "folds": shared
        | {
            "comparisons": str(grouped(root / "grouped", ("a", "b"), 32)),
            "folds_by": "labeler_group",
            "loss": "best_of_k",
        },
    }


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    root = tmp_path_factory.mktemp("ways")
    found = settings(root)
    for name, way in found.items():
        config = resume.config_file(way, root / name)
        assert main(["reward", "--config", str(config)]) == 0
        way["unbroken"] = root / name
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "number", "left"),
    [
        ("encoder", 3, []),
        ("losses", 3, []),
        ("folds", 4, []),
        ("folds", 11, ["fold-0/checkpoints/00000002.pt"]),
        ("folds", 15, ["fold-0/result.json", "fold-1/checkpoints/00000002.pt"]),
    ],
    ids=["an encoder", "ties and margin", "before the folds", "in a fold", "in the next fold"],
)
def test_a_killed_run_ends_in_the_weights_and_the_report_of_an_unbroken_one(
    ways: dict[str, dict[str, Any]], tmp_path: Path, name: str, number: int, left: list[str]
) -> None:
    out = tmp_path / name
    config = resume.config_file(ways[name], out)
    assert resume.run_killed("reward", config, "step", number) == -signal.SIGKILL
    assert not (out / "manifest.json").exists()
    found = (out / "checkpoints").glob("fold-*/**/*.*")
    assert sorted(str(path.relative_to(out / "checkpoints")) for path in found) == left
    assert main(["reward", "--config", str(config)]) == 0
    resume.assert_as_unbroken(out, ways[name]["unbroken"])


@pytest.mark.slow
def test_a_run_asked_to_stop_in_a_fold_goes_on_in_it(
    ways: dict[str, dict[str, Any]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, calls = Optimiser.step, 0

    def counted(self: Any, factor: float) -> list[float]:
        nonlocal calls
        calls += 1
        if calls == 9:
            os.kill(os.getpid(), signal.SIGTERM)
        return real(self, factor)

    monkeypatch.setattr(Optimiser, "step", counted)
    out = tmp_path / "folds"
    config = resume.config_file(ways["folds"], out)
    assert main(["reward", "--config", str(config)]) == Stopped.exit_code
    assert (out / "checkpoints" / "fold-0" / "checkpoints" / "00000001.pt").is_file()
    assert main(["reward", "--config", str(config)]) == 0
    assert calls == 8 + 2 * 4
    resume.assert_as_unbroken(out, ways["folds"]["unbroken"])


@pytest.mark.slow
def test_results_of_folds_go_with_the_checkpoints(tmp_path: Path, tiny_llama: Path) -> None:
    """Deleting ``checkpoints`` is how a run is told to start over."""
    out, folder = tmp_path / "run", grouped(tmp_path / "s", ("a", "b"), 16)
    first = train(out, tiny_llama, folder, folds_by="labeler_group")
    (out / "manifest.json").unlink()
    shutil.rmtree(out / "checkpoints")
    again = train(out, tiny_llama, folder, folds_by="labeler_group", epochs=1)
    assert first["folds"]["within"]["log_loss"] != again["folds"]["within"]["log_loss"]
