"""Log-probabilities, scores and frozen parts, on a rotary and on an absolute-position model."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
)

from trainer.config import Precision
from trainer.errors import ModelError
from trainer.models import (
    LanguageModel,
    ScalarModel,
    save_language_model,
    save_reward_model,
    trainable,
)
from trainer.padded import Padded, pad
from trainer.sampler import sampler_of
from trainer.stack import Stack, autocast

CPU = torch.device("cpu")
SHORT, LONG = [7, 301, 44, 12], [7, 9, 88, 120, 2, 33, 250, 61, 5]


def load(folder: Path, frozen: int = 0, precision: Precision = "fp32") -> LanguageModel:
    return LanguageModel.load(folder, frozen, precision, CPU)


def scored(folder: Path, frozen: int = 0, precision: Precision = "fp32") -> ScalarModel:
    model = ScalarModel.fresh(folder, frozen, precision, CPU, pad_id=0, seed=1)
    model.model.score.bias.data.fill_(0.25)
    return model


def last_two(batch: Padded) -> Tensor:
    """True at the last two real tokens of every row."""
    columns = torch.arange(batch.ids.shape[1])
    return batch.mask & (columns > batch.last[:, None] - 2)


def plain_logprobs(folder: Path, ids: list[int], temperature: float) -> Tensor:
    """The last two tokens' log-probabilities, straight from the library."""
    model = AutoModelForCausalLM.from_pretrained(folder).eval()
    with torch.no_grad():
        logits = model(torch.tensor([ids])).logits[0, -3:-1] / temperature
    picked: Tensor = torch.log_softmax(logits, -1)[[0, 1], ids[-2:]]
    return picked


# ---- log-probabilities --------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_log_probabilities_are_those_of_the_whole_model(
    tiny_model: Path, temperature: float
) -> None:
    batch = pad([LONG], 0, CPU)
    got = load(tiny_model).logprobs(batch, last_two(batch), temperature=temperature)
    torch.testing.assert_close(got, plain_logprobs(tiny_model, LONG, temperature))


@pytest.mark.slow
@pytest.mark.parametrize("left", [False, True], ids=["right", "left"])
def test_padding_changes_neither_log_probabilities_nor_gradients(
    tiny_model: Path, left: bool
) -> None:
    model = load(tiny_model)

    def run(sequences: list[list[int]]) -> tuple[Tensor, Tensor]:
        batch = pad(sequences, 0, CPU, left=left)
        logprobs = model.logprobs(batch, last_two(batch))[:2]
        model.model.zero_grad()
        logprobs.sum().backward()
        grad = next(p.grad for p in model.model.base_model.parameters() if p.grad is not None)
        return logprobs, grad.clone()

    for alone, beside in zip(run([SHORT]), run([SHORT, LONG]), strict=True):
        torch.testing.assert_close(beside, alone, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_left_padding_by_two_leaves_an_absolute_position_model_as_it_was(tiny_gpt2: Path) -> None:
    """The trap of TRL #469: without position ids this fails on GPT-2, and only there."""
    ids = torch.tensor([[0, 0, *SHORT]])
    batch = Padded(ids, torch.tensor([[False, False, True, True, True, True]]))
    got = load(tiny_gpt2).logprobs(batch, last_two(batch))
    torch.testing.assert_close(got, plain_logprobs(tiny_gpt2, SHORT, 1.0), atol=1e-5, rtol=1e-5)


def test_gradients_are_those_of_the_plain_log_softmax(tiny_model: Path) -> None:
    model, batch = load(tiny_model), pad([SHORT, LONG], 0, CPU)
    response = last_two(batch)
    weights = torch.tensor([0.3, -1.0, 2.0, 0.5])
    (model.logprobs(batch, response, temperature=0.7) * weights).sum().backward()
    plain = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    logits = plain(batch.ids).logits / 0.7
    rows, columns = response.nonzero(as_tuple=True)
    logs = torch.log_softmax(logits, -1)[rows, columns - 1, batch.ids[response]]
    (logs * weights).sum().backward()
    for (name, a), b in zip(model.model.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad, atol=1e-5, rtol=1e-4, msg=name)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_total_is_the_sum_of_all_with_the_same_gradients(
    tiny_model: Path, precision: Precision
) -> None:
    """bf16: each gradient is rounded once, by one part in 256 at most."""
    batch, found = pad([SHORT, LONG], 0, CPU), []
    for total in (True, False):
        model = LanguageModel.load(tiny_model, 0, precision, CPU)
        ask = model.total_logprob if total else model.logprobs
        loss = -0.3 * ask(batch, last_two(batch)).sum()
        loss.backward()
        found.append((loss.detach(), {n: p.grad for n, p in model.model.named_parameters()}))
        with torch.no_grad():
            assert torch.equal(-0.3 * ask(batch, last_two(batch)).sum(), loss)
    (loss, gradients), (want, wanted) = found
    torch.testing.assert_close(loss, want)
    for name, gradient in gradients.items():
        size = float(wanted[name].abs().max())
        near = (
            {"atol": size / 64, "rtol": 0.02}
            if precision == "bf16"
            else {"atol": 1e-6, "rtol": 1e-4}
        )
        torch.testing.assert_close(gradient, wanted[name], msg=name, **near)


def test_entropy_is_that_of_the_next_token_and_choices_repeat_the_log_probabilities(
    tiny_model: Path,
) -> None:
    model, batch = load(tiny_model), pad([SHORT, LONG], 0, CPU)
    response = last_two(batch)
    got = model.choices(batch, response, temperature=0.7)
    assert torch.equal(got.logprobs, model.logprobs(batch, response, temperature=0.7))
    rows, columns = response.nonzero(as_tuple=True)
    logits = model.model(batch.ids).logits[rows, columns - 1] / 0.7
    want = torch.distributions.Categorical(logits=logits).entropy()
    torch.testing.assert_close(got.entropy, want)


def test_more_rows_than_a_block_of_logits_give_the_same(tiny_llama: Path) -> None:
    model = load(tiny_llama)
    many = pad([SHORT] * 100, 0, CPU)
    got = model.logprobs(many, last_two(many))
    torch.testing.assert_close(got, got[:2].repeat(100))


def test_dropout_is_off_after_loading(tiny_gpt2: Path) -> None:
    model, batch = load(tiny_gpt2), pad([LONG], 0, CPU)
    assert model.model.config.resid_pdrop > 0
    first = model.logprobs(batch, last_two(batch))
    assert torch.equal(first, model.logprobs(batch, last_two(batch)))
    model.stack.train(True)
    assert not torch.equal(first, model.logprobs(batch, last_two(batch)))


@pytest.mark.parametrize("architecture", ["gemma2", "granite"])
def test_models_with_scaled_or_capped_logits_and_mixed_layers_are_read_right(
    tmp_path: Path, architecture: str
) -> None:
    size: dict[str, Any] = {
        "vocab_size": 320, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 4,
        "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16, "initializer_range": 0.2,
    }  # fmt: skip
    torch.manual_seed(0)
    if architecture == "gemma2":
        Gemma2ForCausalLM(Gemma2Config(**size, sliding_window=4)).save_pretrained(tmp_path)
    else:
        GraniteForCausalLM(GraniteConfig(**size, logits_scaling=3.0)).save_pretrained(tmp_path)
    model, batch = load(tmp_path, frozen=1), pad([LONG], 0, CPU)
    assert model.stack.splits
    got = model.logprobs(batch, last_two(batch), lower=model.stack.lower(batch))
    torch.testing.assert_close(got, plain_logprobs(tmp_path, LONG, 1.0))
    assert torch.equal(model.choices(batch, last_two(batch)).logprobs, got)


# ---- frozen parts --------------------------------------------------------------------------


def test_the_frozen_path_equals_the_plain_one_in_value_and_gradient(tiny_model: Path) -> None:
    plain, cut = load(tiny_model), load(tiny_model, frozen=1)
    batch = pad([SHORT, LONG], 0, CPU)
    assert cut.stack.splits
    want = plain.logprobs(batch, last_two(batch))
    got = cut.logprobs(batch, last_two(batch), lower=cut.stack.lower(batch))
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)
    want.sum().backward()
    got.sum().backward()
    whole = dict(plain.model.named_parameters())
    assert trainable(cut.model)
    for name, parameter in cut.model.named_parameters():
        if parameter.requires_grad:
            torch.testing.assert_close(parameter.grad, whole[name].grad, atol=1e-5, rtol=1e-4)
        else:
            assert parameter.grad is None


def test_freezing_holds_the_lowest_blocks_and_the_tied_embeddings(tiny_model: Path) -> None:
    names = set(trainable(load(tiny_model, frozen=1).model))
    assert names
    assert not any(".0." in name or "embed" in name or "wte" in name for name in names)
    assert "lm_head.weight" not in names


def test_all_blocks_cannot_be_frozen(tiny_llama: Path) -> None:
    with pytest.raises(ModelError, match="freeze_layers is 2, but the model has 2 blocks"):
        load(tiny_llama, frozen=2)


def test_left_padded_batches_take_the_frozen_path_too(tiny_model: Path) -> None:
    model, batch = load(tiny_model, frozen=1), pad([SHORT, LONG], 0, CPU, left=True)
    got = model.logprobs(batch, last_two(batch), lower=model.stack.lower(batch))
    want = model.logprobs(batch, last_two(batch))
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_a_model_that_cannot_be_cut_runs_whole(tiny_model: Path) -> None:
    model, batch = load(tiny_model, frozen=1), pad([LONG], 0, CPU)
    want = model.logprobs(batch, last_two(batch), lower=model.stack.lower(batch))
    model.stack = Stack(model.model.base_model, 1, "fp32", like=(False,) * 4)
    assert model.stack.lower(batch) is None
    got = model.logprobs(batch, last_two(batch), lower=model.stack.lower(batch))
    torch.testing.assert_close(got, want, atol=1e-5, rtol=1e-5)


@pytest.mark.slow
def test_holding_frozen_matrices_in_bf16_changes_no_bit_under_autocast(tiny_model: Path) -> None:
    compacted, batch = load(tiny_model, frozen=1, precision="bf16"), pad([LONG], 0, CPU)
    with autocast(CPU, "bf16"), torch.no_grad():
        want = load(tiny_model).stack.backbone(batch.ids).last_hidden_state
        assert torch.equal(compacted.stack.hidden(batch), want)
        assert torch.equal(compacted.stack.hidden(batch, compacted.stack.lower(batch)), want)


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_the_reference_is_the_policy_to_the_bit_and_shares_what_is_frozen(
    tiny_model: Path, precision: Precision
) -> None:
    policy, batch = load(tiny_model, 1, precision), pad([SHORT, LONG], 0, CPU)
    reference = policy.frozen_copy()
    lower = policy.stack.lower(batch)
    assert torch.equal(
        policy.logprobs(batch, last_two(batch), lower=lower),
        reference.logprobs(batch, last_two(batch), lower=lower),
    )
    assert not trainable(reference.model)
    assert reference.model.get_input_embeddings() is policy.model.get_input_embeddings()
    before = reference.logprobs(batch, last_two(batch))
    with torch.no_grad():
        for parameter in trainable(policy.model).values():
            parameter.add_(0.1)
    assert torch.equal(reference.logprobs(batch, last_two(batch)), before)


@pytest.mark.slow
def test_a_reward_model_shares_the_frozen_part_of_its_policy_if_it_is_equal(
    tiny_model: Path,
) -> None:
    policy, reward = load(tiny_model, 1), scored(tiny_model, 1)
    batch = pad([SHORT, LONG], 0, CPU)
    want = reward.scores(batch)
    assert policy.stack.equals_below(reward.stack)
    reward.stack.share_below(policy.stack)
    assert reward.model.get_input_embeddings() is policy.model.get_input_embeddings()
    torch.testing.assert_close(reward.scores(batch, lower=policy.stack.lower(batch)), want)
    other = scored(tiny_model, 1)
    with torch.no_grad():
        other.stack.shared_modules()[-1].state_dict(keep_vars=True).popitem()[1].add_(1.0)
    assert not policy.stack.equals_below(other.stack)


# ---- scores ----------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_score_is_read_at_the_last_real_token_whatever_the_padding(tiny_model: Path) -> None:
    model = scored(tiny_model)
    alone = model.scores(pad([SHORT], 0, CPU))
    for left in (False, True):
        batch = pad([SHORT, LONG], 0, CPU, left=left)
        torch.testing.assert_close(model.scores(batch)[:1], alone, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(alone, model.values(pad([SHORT], 0, CPU))[:, 3])


def test_an_end_token_that_is_also_the_pad_token_is_scored(tiny_llama: Path) -> None:
    """Masked by id, the score would be read one token early."""
    end = 2
    ended = pad([[*SHORT, end]], end, CPU)
    assert ended.last.tolist() == [4]
    assert pad([[*SHORT, end], LONG], end, CPU).mask.sum(1).tolist() == [5, 9]


@pytest.mark.slow
def test_a_saved_reward_model_is_a_sequence_classifier_with_its_bias_beside_it(
    tiny_model: Path, tmp_path: Path
) -> None:
    model = scored(tiny_model, frozen=1)
    weights = {name: p for name, p in trainable(model.model).items() if name != "score.bias"}
    save_reward_model(tiny_model, weights, tmp_path / "model", bias=0.25, pad_id=3)
    batch = pad([SHORT, LONG], 0, CPU)
    again = ScalarModel.load(tmp_path / "model", 0, "fp32", CPU)
    torch.testing.assert_close(again.scores(batch), model.scores(batch), atol=1e-5, rtol=1e-5)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "model").eval()
    assert theirs.config.num_labels == 1
    got = theirs(torch.tensor([SHORT])).logits[0, 0]
    torch.testing.assert_close(got, model.scores(batch)[0] - 0.25, atol=1e-5, rtol=1e-5)


def test_a_language_model_is_not_taken_for_a_reward_model(tiny_llama: Path) -> None:
    with pytest.raises(ModelError, match="not a reward model of this trainer"):
        ScalarModel.load(tiny_llama, 0, "fp32", CPU)


def test_the_new_head_depends_on_the_seed_alone(tiny_llama: Path) -> None:
    heads = [
        ScalarModel.fresh(tiny_llama, 0, "fp32", CPU, pad_id=0, seed=seed).model.score.weight
        for seed in (1, 1, 2)
    ]
    assert torch.equal(heads[0], heads[1])
    assert not torch.equal(heads[0], heads[2])


def test_the_new_head_is_as_wide_as_asked_for(tiny_llama: Path) -> None:
    whole, tenth = (
        ScalarModel.fresh(
            tiny_llama, 0, "fp32", CPU, pad_id=0, seed=1, scale=scale
        ).model.score.weight
        for scale in (1.0, 0.1)
    )
    torch.testing.assert_close(tenth, whole * 0.1)
    assert 0.8 < float(whole.detach().std() * (whole.shape[1] + 1) ** 0.5) < 1.25


def test_a_saved_policy_is_its_parent_with_the_trained_weights(
    tiny_model: Path, tmp_path: Path
) -> None:
    model = load(tiny_model, frozen=1, precision="bf16")
    with torch.no_grad():
        for parameter in trainable(model.model).values():
            parameter.add_(0.5)
    save_language_model(tiny_model, trainable(model.model), tmp_path / "model")
    parent = dict(AutoModelForCausalLM.from_pretrained(tiny_model).named_parameters())
    for name, parameter in AutoModelForCausalLM.from_pretrained(
        tmp_path / "model"
    ).named_parameters():
        moved = 0.5 if name in trainable(model.model) else 0.0
        torch.testing.assert_close(parameter, parent[name] + moved)


def test_the_sampler_of_a_bf16_policy_is_a_copy_and_of_an_fp32_one_the_policy(
    tiny_llama: Path,
) -> None:
    policy = load(tiny_llama, 1, "bf16")
    sampler = sampler_of(policy)
    assert {p.dtype for p in sampler.parameters()} == {torch.bfloat16}
    assert {p.dtype for p in trainable(policy.model).values()} == {torch.float32}
    plain = load(tiny_llama)
    assert sampler_of(plain) is plain.model


def test_a_sampler_has_the_positions_of_the_policy(tiny_llama: Path) -> None:
    policy = load(tiny_llama, 1, "bf16")
    frequencies = dict(policy.model.named_buffers())
    found = dict(sampler_of(policy).named_buffers())
    assert frequencies.keys() == found.keys() != set()
    for name, buffer in found.items():
        assert buffer.dtype == torch.float32
        assert torch.equal(buffer, frequencies[name])


def test_a_sampler_draws_by_the_weights_of_now(tiny_llama: Path) -> None:
    policy = load(tiny_llama, 0, "bf16")
    with torch.no_grad():
        for parameter in policy.model.parameters():
            parameter += 0.25
    own = dict(policy.model.named_parameters())
    for name, parameter in sampler_of(policy).named_parameters():
        assert torch.equal(parameter, own[name].bfloat16())
