"""Stage best: the best of n answers, what it is worth, and its use as demonstrations."""

import json
import math
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.trainer.snapshots import prompt_row, write_snapshot
from tests.trainer.test_ppo import reward_model
from trainer import losses
from trainer.__main__ import main
from trainer.best_of_n import ScoredPrompt, best_rows, reward_curve
from trainer.errors import ConfigError, DataError, IntegrityError
from trainer.models import ScalarModel
from trainer.padded import pad
from trainer.records import (
    ROWS,
    DemonstrationRow,
    PromptRow,
    SampleRow,
    read_manifest,
    read_rows,
)
from trainer.sample import Answered
from trainer.text import Codec

CPU = torch.device("cpu")


# ---- hand-worked ----------------------------------------------------------------------------------


@pytest.mark.parametrize(("n", "kl"), [(1, 0.0), (4, 0.636), (16, 1.835), (64, 3.175)])
def test_the_bound_on_the_kl_has_the_published_values(n: int, kl: float) -> None:
    assert losses.best_of_n_kl(n) == pytest.approx(kl, abs=5e-4)


def test_the_expected_best_is_the_mean_over_all_choices_of_n() -> None:
    """Of 4, 1, 2 the pairs have the best 4, 4 and 2."""
    scores = torch.tensor([[4.0, 1.0, 2.0], [0.0, 0.0, 3.0]])
    for n, want in ((1, [7 / 3, 1.0]), (2, [10 / 3, 2.0]), (3, [4.0, 3.0])):
        assert losses.expected_best(scores, n).tolist() == pytest.approx(want)


def test_the_curve_doubles_n_and_ends_at_all_of_them() -> None:
    lines = [
        ScoredPrompt("a", "train", (4.0, 1.0, 2.0)),
        ScoredPrompt("b", "valid", (0.0, 0.0, 3.0)),
    ]
    curve = reward_curve(lines)
    assert [point["n"] for point in curve] == [1, 2, 3]
    assert [point["reward"] for point in curve] == pytest.approx([5 / 3, 8 / 3, 3.5])
    assert [point["valid_reward"] for point in curve] == pytest.approx([1.0, 2.0, 3.0])
    assert [point["kl_bound"] for point in curve] == pytest.approx(
        [0.0, math.log(2) - 1 / 2, math.log(3) - 2 / 3]
    )
    assert "valid_reward" not in reward_curve(lines[:1])[0]


def test_the_row_with_the_highest_score_is_chosen_the_first_of_equal_ones() -> None:
    rows = [SampleRow(p, i, "", (), True, 0, 1.0, 8) for p in ("a", "b") for i in range(3)]
    scores = torch.tensor([[0.0, 2.0, 1.0], [3.0, -1.0, 3.0]])
    found = best_rows(Answered([], rows, 0), scores)
    assert [(row.prompt_id, row.index) for row in found] == [("a", 1), ("b", 0)]


# ---- runs -----------------------------------------------------------------------------------------


@pytest.fixture
def folders(tmp_path: Path, tiny_llama: Path) -> dict[str, Path]:
    """Sixteen prompts: ten to learn from, four held out, two to test on."""
    rows = [prompt_row(i) for i in range(16)]
    return {
        "model": tiny_llama,
        "reward": reward_model(tiny_llama, tmp_path / "rm"),
        "prompts": write_snapshot(tmp_path / "prompts", "prompts", rows),
    }


def config_file(out: Path, folders: dict[str, Path], **changes: Any) -> Path:
    out.mkdir(parents=True, exist_ok=True)
    plain: dict[str, Any] = {
        "out": str(out), "k": 5, "chunk": 6, "max_new_tokens": 24, "precision": "fp32",
        "threads": 1, "missing_end_score": -9.0,
    }  # fmt: skip
    named = {name: str(folder) for name, folder in folders.items()}
    path = out / "config.json"
    path.write_text(json.dumps(plain | named | changes))
    return path


def best(out: Path, folders: dict[str, Path], **changes: Any) -> int:
    return main(["best", "--config", str(config_file(out, folders, **changes))])


def lines_of(out: Path, name: str, cls: type[Any]) -> list[Any]:
    files = sorted(out.glob(f"chunks/*/{name}"))
    return [row for file in files for row in read_rows(file, cls)]


def message_of(out: Path) -> str:
    return str(json.loads((out / "error.json").read_text())["message"])


@pytest.mark.slow
def test_each_prompt_keeps_the_draw_of_stage_sample_that_scores_highest(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    """The same seed draws the same answers; every score is computed again, one at a time."""
    out = tmp_path / "best"
    assert best(out, folders) == 0
    plain = {"k": 5, "max_new_tokens": 24, "precision": "fp32", "threads": 1}
    sampled = tmp_path / "sample"
    sampled.mkdir()
    named = {
        "out": str(sampled),
        "model": str(folders["model"]),
        "prompts": str(folders["prompts"]),
    }
    (sampled / "config.json").write_text(json.dumps(plain | named))
    assert main(["sample", "--config", str(sampled / "config.json")]) == 0
    drawn = lines_of(sampled, ROWS, SampleRow)
    scored = lines_of(out, "scores.jsonl", ScoredPrompt)
    prompts = {r.id: r.prompt for r in read_rows(folders["prompts"] / ROWS, PromptRow)}
    codec, judge = Codec.load(folders["model"]), ScalarModel.load(folders["reward"], 0, "fp32", CPU)
    assert {row.finished for row in drawn} == {True, False}
    for number, (line, row) in enumerate(zip(scored, lines_of(out, ROWS, SampleRow), strict=True)):
        answers = drawn[5 * number : 5 * number + 5]
        for answer, score in zip(answers, line.scores, strict=True):
            assert answer.prompt_id == line.prompt_id
            ids = [*codec.encode_prompt(prompts[line.prompt_id]), *answer.token_ids]
            with torch.no_grad():
                raw = float(judge.scores(pad([ids], 0, CPU)))
            assert score == pytest.approx(raw if answer.finished else -9.0, abs=1e-5)
        assert row == answers[line.scores.index(max(line.scores))]


def test_the_manifest_has_the_reward_and_the_bound(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    out = tmp_path / "best"
    assert best(out, folders) == 0
    manifest = read_manifest(out, verify=True)
    assert (manifest.kind, manifest.rows) == ("best", 16)
    assert [parent.role for parent in manifest.parents] == ["policy", "reward", "prompts"]
    scores = torch.tensor([line.scores for line in lines_of(out, "scores.jsonl", ScoredPrompt)])
    metrics = manifest.metrics
    assert metrics["reward"] == pytest.approx(float(scores.amax(1).mean()))
    assert metrics["reward_of_one"] == pytest.approx(float(scores.mean()))
    assert metrics["kl_bound"] == pytest.approx(math.log(5) - 4 / 5)
    assert [point["n"] for point in metrics["curve"]] == [1, 2, 4, 5]
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [(line["step"], line["total"]) for line in lines] == [(1, 3), (2, 3), (3, 3)]
    assert sum(line["values"]["answers"] for line in lines) == 16


@pytest.mark.slow
def test_a_reward_model_of_another_tokenizer_reads_the_text_again(
    tmp_path: Path, folders: dict[str, Path], tiny_gpt2: Path
) -> None:
    out = tmp_path / "best"
    other = folders | {"reward": reward_model(tiny_gpt2, tmp_path / "other")}
    assert best(out, other, missing_end_score=None) == 0
    codec, judge = Codec.load(tiny_gpt2), ScalarModel.load(other["reward"], 0, "fp32", CPU)
    prompts = {r.id: r.prompt for r in read_rows(folders["prompts"] / ROWS, PromptRow)}
    scored = lines_of(out, "scores.jsonl", ScoredPrompt)
    for line, row in zip(scored, lines_of(out, ROWS, SampleRow), strict=True):
        answer = codec.encode_completion(row.text, ended=row.finished)
        ids = [*codec.encode_prompt(prompts[row.prompt_id]), *answer]
        with torch.no_grad():
            score = float(judge.scores(pad([ids], 0, CPU)))
        assert line.scores[row.index] == pytest.approx(score, abs=1e-5) == max(line.scores)


@pytest.mark.slow
def test_neither_chunk_nor_batch_changes_what_is_best(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    assert best(tmp_path / "a", folders) == 0
    assert best(tmp_path / "b", folders, chunk=16, batch=7, micro_tokens=1) == 0
    a, b = (lines_of(tmp_path / name, ROWS, SampleRow) for name in "ab")
    assert a == b


@pytest.mark.slow
def test_finished_chunks_are_kept_and_the_rest_made(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    """As a kill leaves it: the second chunk has rows and no manifest, the run has none either."""
    out = tmp_path / "best"
    assert best(out, folders, write_demonstrations=True) == 0
    whole, rows = read_manifest(out), lines_of(out, ROWS, SampleRow)
    (out / "manifest.json").unlink()
    (out / "chunks/0001/manifest.json").unlink()
    (out / "demonstrations/manifest.json").unlink()
    with (out / "chunks/0001" / ROWS).open("a") as torn:
        torn.write('{"prompt_id": "p4", "ind')
    kept = (out / "chunks/0000" / ROWS).stat().st_mtime_ns
    assert best(out, folders, write_demonstrations=True) == 0
    assert lines_of(out, ROWS, SampleRow) == rows
    assert (out / "chunks/0000" / ROWS).stat().st_mtime_ns == kept
    again = read_manifest(out, verify=True)
    assert again.metrics["curve"] == whole.metrics["curve"]
    name = f"demonstrations/{ROWS}"
    assert again.files[name] == whole.files[name]


def test_chunks_of_other_settings_are_refused(tmp_path: Path, folders: dict[str, Path]) -> None:
    out = tmp_path / "best"
    assert best(out, folders) == 0
    (out / "manifest.json").unlink()
    assert best(out, folders, k=4) == IntegrityError.exit_code
    assert "Chunk 0000 was made with other settings or parents" in message_of(out)


# ---- rejection sampling ---------------------------------------------------------------------------


def test_sft_takes_the_best_answers_as_they_are(tmp_path: Path, folders: dict[str, Path]) -> None:
    out, sft = tmp_path / "best", tmp_path / "sft"
    assert best(out, folders, write_demonstrations=True) == 0
    chosen = {row.prompt_id: row for row in lines_of(out, ROWS, SampleRow)}
    splits = {row.id: row.split for row in read_rows(folders["prompts"] / ROWS, PromptRow)}
    rows = list(read_rows(out / "demonstrations" / ROWS, DemonstrationRow))
    assert {row.prompt_id for row in rows} == {
        name for name, row in chosen.items() if row.finished and row.text and splits[name] != "test"
    }
    for row in rows:
        assert row.completion == chosen[row.prompt_id].text
        assert (row.split, row.source, row.labeler) == (splits[row.prompt_id], "policy", None)
        assert row.id == f"{row.prompt_id}/best-of-5"
    settings = {
        "out": str(sft), "model": str(folders["model"]), "epochs": 1, "precision": "fp32",
        "demonstrations": str(out / "demonstrations"), "threads": 1,
    }  # fmt: skip
    sft.mkdir()
    (sft / "config.json").write_text(json.dumps(settings))
    assert main(["sft", "--config", str(sft / "config.json")]) == 0
    parent = read_manifest(sft).parents[-1]
    snapshot = read_manifest(out / "demonstrations", verify=True)
    assert (parent.role, parent.name) == ("demonstrations", snapshot.name)
    assert parent.sha256 == snapshot.sha256


@pytest.mark.slow
def test_the_snapshot_says_where_it_is_from_and_what_is_missing(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    out = tmp_path / "best"
    # Nothing is done about cut answers here, so some of them are the best.
    free = {"missing_end_score": None, "k": 2, "max_new_tokens": 100}
    assert best(out, folders, write_demonstrations=True, **free) == 0
    manifest = read_manifest(out / "demonstrations", verify=True)
    assert manifest.kind == "demonstrations"
    assert manifest.name.startswith("demonstrations-")
    assert [parent.role for parent in manifest.parents] == ["policy", "reward", "prompts"]
    assert manifest.settings["k"] == 2
    asked = 14 - manifest.rows
    assert asked > 0
    left_out = f"{asked} best answers were cut or empty and are no demonstrations."
    assert manifest.notes == (
        "No person wrote these: each is the best of 2 answers by a reward model.", left_out,
    )  # fmt: skip
    assert left_out in read_manifest(out).notes


# ---- refusals -------------------------------------------------------------------------------------


def test_answers_that_were_all_cut_demonstrate_nothing(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    out = tmp_path / "best"
    code = best(out, folders, write_demonstrations=True, max_new_tokens=1, seed=3)
    assert code == DataError.exit_code
    assert "raise max_new_tokens, or set missing_end_score" in message_of(out)


def test_prompts_that_are_all_too_long_are_refused(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    assert best(tmp_path / "best", folders, max_prompt_tokens=1) == DataError.exit_code
    assert "None of the 16 prompts fits in 1 tokens" in message_of(tmp_path / "best")


def test_a_missing_reward_model_and_two_ways_to_end_are_named(
    tmp_path: Path, folders: dict[str, Path]
) -> None:
    assert best(tmp_path / "a", folders, reward="") == ConfigError.exit_code
    assert "settings.reward is empty; name the folder" in message_of(tmp_path / "a")
    assert best(tmp_path / "b", folders, missing_end_penalty=1.0) == ConfigError.exit_code
    assert "set one of the two" in message_of(tmp_path / "b")
