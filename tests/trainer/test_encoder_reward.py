"""A masked language model as reward model: it sees both ways, so padding has to be hidden from it."""

import hashlib
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForTokenClassification

from tests.trainer.snapshots import comparison_row, prompt_row, write_all, write_snapshot
from tests.trainer.test_reward import train
from tests.trainer.tiny_bert import POSITIONS, build_encoder
from trainer import ppo, reward
from trainer.actors import OTHER_TOKENIZER, SEES_AHEAD, Actors
from trainer.config import PPOConfig, Precision, RewardConfig
from trainer.data import Prompt, load_demonstrations, load_rankings
from trainer.models import ScalarModel, save_reward_model, trainable
from trainer.padded import pad
from trainer.records import Message, read_manifest
from trainer.rollout import Rollout
from trainer.stage_io import open_run
from trainer.text import Codec

CPU = torch.device("cpu")
SHORT, LONG = [7, 301, 44, 12], [7, 9, 88, 120, 6, 33, 250, 61, 5]


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_encoder(tmp_path_factory.mktemp("bert"), "bert")


@pytest.fixture(scope="session", params=["bert", "distilbert", "roberta", "modernbert"])
def encoder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Each architecture in turn: tables of positions from 0, from after the padding id, or none."""
    return build_encoder(tmp_path_factory.mktemp(request.param), request.param)


def scored(folder: Path, frozen: int = 0, precision: Precision = "fp32") -> ScalarModel:
    model = ScalarModel.fresh(folder, frozen, precision, CPU, pad_id=0, seed=1)
    model.head.bias.data.fill_(0.25)
    return model


# ---- scores -------------------------------------------------------------------------------


def test_an_encoder_is_found_to_see_ahead_and_not_to_share_prompts(
    encoder: Path, tiny_model: Path
) -> None:
    stack = scored(encoder).stack
    assert stack.bidirectional and not stack.segments
    assert not scored(tiny_model).stack.bidirectional


def test_the_score_is_the_librarys_at_the_last_token(encoder: Path) -> None:
    model = scored(encoder)
    with torch.no_grad():  # the library's forward is given neither mask nor positions
        want = [model.model(torch.tensor([ids])).logits[0, -1, 0] for ids in (SHORT, LONG)]
        got = [model.scores(pad([ids], 0, CPU))[0] for ids in (SHORT, LONG)]
    torch.testing.assert_close(torch.stack(got), torch.stack(want), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_padding_changes_neither_score_nor_gradient(encoder: Path, left: bool) -> None:
    found = []
    for sequences in ([SHORT], [SHORT, LONG]):
        model = scored(encoder)
        score = model.scores(pad(sequences, 0, CPU, left=left))[0]
        score.backward()
        grads = {n: p.grad for n, p in trainable(model.model).items() if p.grad is not None}
        found.append((score.detach(), grads))
    (alone, plain), (beside, padded) = found
    torch.testing.assert_close(beside, alone, atol=1e-5, rtol=1e-5)
    for name, gradient in plain.items():
        torch.testing.assert_close(padded[name], gradient, atol=1e-5, rtol=1e-3, msg=name)


def test_what_stands_at_padded_positions_changes_nothing(tiny_bert: Path) -> None:
    model = scored(tiny_bert)
    scores = [model.scores(pad([SHORT, LONG], fill, CPU)).detach() for fill in (0, 99)]
    assert torch.equal(*scores)


def test_frozen_layers_and_embeddings_stay_and_the_rest_gets_the_same_gradient(
    encoder: Path,
) -> None:
    found = []
    for frozen in (0, 1):
        model = scored(encoder, frozen)
        model.scores(pad([SHORT, LONG], 0, CPU)).sum().backward()
        grads = {n: p.grad for n, p in trainable(model.model).items() if p.grad is not None}
        found.append(grads)
    whole, upper = found
    assert not any("embeddings" in name for name in upper)
    assert any("1.attn" in n or "1.attention" in n for n in upper)
    assert not any("0.attn" in n or "0.attention" in n for n in upper)
    for name, gradient in upper.items():
        torch.testing.assert_close(gradient, whole[name], atol=1e-6, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_saved_encoder_scores_as_before_and_in_the_library_too(
    encoder: Path, tmp_path: Path, precision: Precision
) -> None:
    model = scored(encoder, 1, precision)
    with torch.no_grad():
        for parameter in trainable(model.model).values():
            parameter.add_(0.05)
        model.head.bias.fill_(0)
    weights = trainable(model.model)
    save_reward_model(encoder, weights, tmp_path / "model", bias=0.25, pad_id=0)
    again = ScalarModel.load(tmp_path / "model", 1, precision, CPU)
    batch = pad([SHORT, LONG], 0, CPU, left=True)
    torch.testing.assert_close(again.scores(batch), model.scores(batch) + 0.25)
    torch.testing.assert_close(
        again.frozen_copy().scores(batch), again.scores(batch), rtol=0.02, atol=0.02
    )
    if precision == "fp32":
        theirs = AutoModelForTokenClassification.from_pretrained(tmp_path / "model").eval()
        got = theirs(torch.tensor([LONG])).logits[0, -1, 0]
        torch.testing.assert_close(got, again.scores(batch)[1], atol=1e-5, rtol=1e-5)


def test_a_text_begins_with_the_class_token_and_ends_with_the_separator(tiny_bert: Path) -> None:
    codec = Codec.load(tiny_bert)
    marks = codec.tokenizer.convert_tokens_to_ids(["[CLS]", "[SEP]"])
    assert codec.encode_prompt([Message("user", "Hello")])[0] == marks[0]
    assert codec.encode_completion("a dog", ended=True)[-1] == marks[1]
    assert marks[1] not in codec.encode_completion("a dog [SEP]", ended=False)


# ---- training -----------------------------------------------------------------------------


@pytest.mark.slow
def test_an_encoder_learns_that_shorter_is_better_and_centres_the_demonstrations(
    tmp_path: Path, tiny_bert: Path
) -> None:
    folders = write_all(tmp_path, 48)
    figures = train(tmp_path / "run", tiny_bert, folders, epochs=6, learning_rate=5e-3)
    assert figures["accuracy"] > 0.85
    codec = Codec.load(tiny_bert)
    model = ScalarModel.load(tmp_path / "run" / "model", 0, "fp32", CPU)
    data = load_demonstrations(folders["demonstrations"], codec, 200)
    scores = [
        float(model.scores(pad([e.ids], 0, CPU)).detach()) for e in (*data.train, *data.valid)
    ]
    assert sum(scores) / len(scores) == pytest.approx(0, abs=1e-3)
    valid = load_rankings(folders["comparisons"], codec, 200).valid
    pairs = reward.score_pairs(model, valid, 0, 4096)
    assert float((pairs.differences > 0).float().mean()) == pytest.approx(figures["accuracy"])


def test_answers_of_a_ranking_are_batched_without_a_common_prompt(
    tmp_path: Path, tiny_bert: Path
) -> None:
    rankings = load_rankings(write_all(tmp_path)["comparisons"], Codec.load(tiny_bert), 200).train
    found = []
    for micro in (10**6, 1):
        model = scored(tiny_bert)
        reward.backward_loss(model, rankings, 0, RewardConfig(out="", micro_tokens=micro))
        found.append({n: p.grad for n, p in trainable(model.model).items() if p.grad is not None})
    for name, gradient in found[0].items():
        torch.testing.assert_close(found[1][name], gradient, atol=1e-5, rtol=1e-3)


def test_what_is_longer_than_the_table_of_positions_is_left_out_and_counted(
    tmp_path: Path, tiny_bert: Path
) -> None:
    long = (Message("user", " ".join(["fish"] * POSITIONS)),)
    rows = [comparison_row(i, **({"prompt": long} if i == 4 else {})) for i in range(12)]
    folders = write_all(tmp_path)
    folders["comparisons"] = write_snapshot(tmp_path / "long", "comparisons", rows)
    train(tmp_path / "run", tiny_bert, folders, max_tokens=2048, epochs=1)
    manifest = read_manifest(tmp_path / "run")
    assert manifest.rows == 8  # of nine in the train split
    assert f"1 rankings were longer than {POSITIONS} tokens and left out." in manifest.notes


# ---- PPO ----------------------------------------------------------------------------------


def reward_model(parent: Path, dest: Path) -> Path:
    model = ScalarModel.fresh(parent, 0, "fp32", CPU, pad_id=0, seed=5)
    weights = {"classifier.weight": model.head.weight.detach() * 3}
    save_reward_model(parent, weights, dest, bias=0.3, pad_id=0)
    return dest


def ppo_settings(out: Path, policy: Path, reward_folder: Path, data: Path) -> PPOConfig:
    return PPOConfig(
        out=str(out),
        policy=str(policy),
        reward=str(reward_folder),
        prompts=str(write_all(data)["prompts"]),
        precision="fp32",
        episodes=8,
        batch=4,
        minibatch=2,
        max_new_tokens=6,
        ptx_coef=0.0,
        freeze_layers=1,
        eval_prompts=2,
        learning_rate=1e-3,
    )


def episode(actors: Actors) -> tuple[Rollout, list[Prompt]]:
    rows = [prompt_row(i) for i in range(3)]
    prompts = [Prompt(row.id, actors.codec.encode_prompt(row.prompt), row) for row in rows]
    answers = [
        actors.codec.encode_completion(text) for text in ("one fish", "gulls and bread", "a")
    ]
    return Rollout([p.ids for p in prompts], answers, [True, True, False]), prompts


def scores_of(actors: Actors) -> torch.Tensor:
    rollout, prompts = episode(actors)
    batch = rollout.batch([0, 1, 2], actors.codec.pad_id, CPU)
    _, lower = actors.lowers(batch)
    return actors.scores(rollout, prompts, [0, 1, 2], batch, lower)


def test_ppo_reads_the_text_again_for_an_encoder_and_starts_the_value_from_the_policy(
    tmp_path: Path, tiny_llama: Path, tiny_bert: Path
) -> None:
    folder = reward_model(tiny_bert, tmp_path / "rm")
    config = ppo_settings(tmp_path / "run", tiny_llama, folder, tmp_path / "data")
    actors = Actors(config)
    assert actors.notes[0] == OTHER_TOKENIZER
    assert not actors.value.stack.bidirectional
    codec, (rollout, prompts) = actors.reward_codec, episode(actors)
    alone = ScalarModel.load(folder, 0, "fp32", CPU)
    for row, score in enumerate(scores_of(actors)):
        text = actors.codec.decode(rollout.answers[row])
        ids = codec.encode_prompt(prompts[row].row.prompt)
        ids += codec.encode_completion(text, ended=rollout.finished[row])
        torch.testing.assert_close(score, alone.scores(pad([ids], 0, CPU))[0], atol=1e-5, rtol=1e-5)
    with open_run(tmp_path / "run") as run:
        ppo.run(config, run)
    assert OTHER_TOKENIZER in read_manifest(tmp_path / "run", verify=True).notes


def test_an_encoder_with_the_policys_tokenizer_is_no_value_model_either(
    tmp_path: Path, tiny_llama: Path
) -> None:
    tokenizer = Codec.load(tiny_llama).tokenizer
    parent = build_encoder(tmp_path / "bert", "bert", tokenizer=tokenizer)
    folder = reward_model(parent, tmp_path / "rm")
    actors = Actors(ppo_settings(tmp_path / "run", tiny_llama, folder, tmp_path / "data"))
    assert actors.reads_tokens and actors.notes[0] == SEES_AHEAD
    assert not actors.value.stack.bidirectional and actors.reward.stack.bidirectional
    alone, (rollout, _) = ScalarModel.load(folder, 0, "fp32", CPU), episode(actors)
    for row, score in enumerate(scores_of(actors)):
        ids = rollout.prompts[row] + rollout.answers[row]
        torch.testing.assert_close(score, alone.scores(pad([ids], 0, CPU))[0], atol=1e-5, rtol=1e-5)


def test_an_encoder_scores_the_end_of_an_episode_longer_than_its_positions(
    tmp_path: Path, tiny_llama: Path, tiny_bert: Path
) -> None:
    folder = reward_model(tiny_bert, tmp_path / "rm")
    actors = Actors(ppo_settings(tmp_path / "run", tiny_llama, folder, tmp_path / "data"))
    assert any(f"at most the last {POSITIONS} tokens" in note for note in actors.notes)
    row = prompt_row(0, prompt=(Message("user", " ".join(["fish"] * POSITIONS)),))
    prompt = Prompt(row.id, actors.codec.encode_prompt(row.prompt), row)
    answer = actors.codec.encode_completion("bread")
    rollout = Rollout([prompt.ids], [answer], [True])
    batch = rollout.batch([0], actors.codec.pad_id, CPU)
    got = actors.scores(rollout, [prompt], [0], batch, None)
    codec = actors.reward_codec
    whole = codec.encode_prompt(row.prompt) + codec.encode_completion("bread")
    want = actors.reward.scores(pad([whole[-POSITIONS:]], 0, CPU))
    torch.testing.assert_close(got, want)


def test_the_tiny_encoder_is_the_same_in_every_process(tmp_path: Path) -> None:
    digests = {
        hashlib.sha256((build_encoder(tmp_path / n) / "model.safetensors").read_bytes()).hexdigest()
        for n in ("a", "b")
    }
    assert len(digests) == 1
