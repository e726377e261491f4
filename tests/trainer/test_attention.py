"""Attention on a CPU under autocast is done in fp32 (trainer/attention.py)."""

import torch
from torch import Tensor
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from trainer.attention import attend


def drawn(dtype: torch.dtype) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values [2, 3 heads, 7 tokens, 8] with gradients."""
    generator = torch.Generator().manual_seed(5)
    shape = (2, 3, 7, 8)
    parts = [torch.randn(shape, generator=generator).to(dtype).requires_grad_() for _ in range(3)]
    return parts[0], parts[1], parts[2]


def grown(parts: tuple[Tensor, ...]) -> list[Tensor]:
    return [part.grad for part in parts if part.grad is not None]


def test_under_autocast_scores_and_sums_are_those_of_fp32() -> None:
    low = drawn(torch.bfloat16)
    with torch.autocast("cpu", torch.bfloat16):
        out, _ = attend(torch.nn.Module(), *low, None, scaling=0.3)
    whole = tuple(part.detach().float().requires_grad_() for part in low)
    want, _ = sdpa_attention_forward(torch.nn.Module(), *whole, None, scaling=0.3)

    # what comes in is rounded, and what goes out, but nothing in between
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, want.bfloat16())
    slope = torch.linspace(-1, 1, out.numel()).view_as(out).bfloat16()
    out.backward(slope)
    want.backward(slope.float())
    assert [g.dtype for g in grown(low)] == [torch.bfloat16] * 3
    for mine, theirs in zip(grown(low), grown(whole), strict=True):
        assert torch.equal(mine, theirs.bfloat16())


def test_a_mask_of_booleans_or_of_numbers_is_kept() -> None:
    query, key, value = (part.detach() for part in drawn(torch.bfloat16))
    seen = torch.ones(7, 7, dtype=torch.bool).tril()[None, None]
    added = torch.zeros(1, 1, 7, 7).masked_fill(~seen, -1e4).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        causal, _ = attend(torch.nn.Module(), query, key, value, None, is_causal=True)
        for mask in (seen, added):
            out, _ = attend(torch.nn.Module(), query, key, value, mask)
            assert torch.allclose(out, causal, atol=2e-2)
        open_, _ = attend(torch.nn.Module(), query, key, value, None, is_causal=False)
    assert not torch.allclose(open_, causal, atol=2e-2)


def test_bf16_weights_without_autocast_are_left_to_their_own_kernel() -> None:
    low = tuple(part.detach() for part in drawn(torch.bfloat16))
    out, _ = attend(torch.nn.Module(), *low, None)
    want, _ = sdpa_attention_forward(torch.nn.Module(), *low, None)
    exact, _ = sdpa_attention_forward(torch.nn.Module(), *(part.float() for part in low), None)
    assert torch.equal(out, want)
    assert not torch.equal(out, exact.bfloat16())  # so the two can be told apart


def test_models_that_the_trainer_loads_attend_so() -> None:
    import trainer.stack  # noqa: F401

    assert ALL_ATTENTION_FUNCTIONS["sdpa"] is attend


def test_keys_that_are_held_in_fp32_are_attended_to_in_fp32() -> None:
    query, key, value = (part.detach() for part in drawn(torch.bfloat16))
    out, _ = attend(torch.nn.Module(), query[:, :, -1:], key.float(), value.float(), None)
    exact, _ = sdpa_attention_forward(
        torch.nn.Module(), query[:, :, -1:].float(), key.float(), value.float(), None
    )
    assert out.dtype == torch.bfloat16
    assert torch.equal(out, exact.bfloat16())
