"""What pretraining asks a model to guess: masking, the two losses, logits where they are asked for."""

import math
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoTokenizer

from tests.trainer.pretraining import settings, trainee_of
from tests.trainer.tiny import TEXT
from trainer import losses, pretrain
from trainer.config import PretrainConfig
from trainer.errors import ModelError
from trainer.objectives import (
    Guess,
    MaskedModel,
    Masking,
    batch_guesses,
    mask_window,
    masking_of,
)
from trainer.pretrain import backward_loss, held_out_loss, load_text
from trainer.text import Codec

CPU = torch.device("cpu")


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
    tmp_path: Path, tiny_bert: Path, running_text: Path
) -> None:
    config = settings(tmp_path / "run", running_text, model=str(tiny_bert), objective="masked")
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
    tmp_path: Path, tiny_bert: Path, running_text: Path
) -> None:
    config = settings(tmp_path / "run", running_text, model=str(tiny_bert), objective="masked")
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
    tmp_path: Path, learner: dict[str, str], running_text: Path
) -> None:
    trainee = trainee_of(settings(tmp_path / "run", running_text, **learner))
    model = trainee.objective.model
    head = model.get_output_embeddings()
    with torch.no_grad():
        head.weight.zero_()
        if head.bias is not None:
            head.bias.zero_()
    codec = Codec.load(learner["model"])
    windows = [codec.encode_text(TEXT)[:20], codec.encode_text(TEXT)[20:40]]
    perplexity = losses.perplexity(held_out_loss(trainee, windows))
    assert perplexity == pytest.approx(head.weight.shape[0], rel=1e-4)


def test_the_causal_loss_is_that_of_the_library(
    tmp_path: Path, tiny_model: Path, running_text: Path
) -> None:
    trainee = trainee_of(settings(tmp_path / "run", running_text, model=str(tiny_model)))
    trainee.objective.train(False)
    windows = torch.randint(3, 300, (3, 17), generator=torch.Generator().manual_seed(0))
    guesses = [trainee.objective.guess(window, ()) for window in windows.tolist()]
    plain = AutoModelForCausalLM.from_pretrained(tiny_model).eval()
    wanted = float(plain(windows, labels=windows).loss.detach())
    assert backward_loss(trainee, guesses) == pytest.approx(wanted, abs=1e-5)


def test_the_masked_loss_is_that_of_the_library_at_the_masked_tokens(
    tmp_path: Path, tiny_bert: Path, running_text: Path
) -> None:
    config = settings(tmp_path / "run", running_text, model=str(tiny_bert), objective="masked")
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
    tmp_path: Path, learner: dict[str, str], running_text: Path
) -> None:
    config = settings(tmp_path / "run", running_text, **learner)
    found = []
    for micro_tokens in (10**6, 1):
        trainee = trainee_of(
            settings(tmp_path / "run", running_text, micro_tokens=micro_tokens, **learner)
        )
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
