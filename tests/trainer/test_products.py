"""Products by oneDNN: the same numbers and gradients as PyTorch's own, and only where they pay."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from trainer import products
from trainer.generate import load_generator
from trainer.models import LanguageModel
from trainer.products import FEW, Linear, product, quicken


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, ...]]:
    """The shapes that oneDNN was asked to multiply."""
    asked, plain = [], products._by_onednn

    def counted(x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        asked.append(tuple(x.shape))
        return plain(x, weight, bias)

    monkeypatch.setattr(products, "_by_onednn", counted)
    monkeypatch.setattr(products, "WIDE", True)  # as on a processor with AVX-512
    return asked


@pytest.mark.parametrize("bias", [True, False])
def test_a_quick_layer_is_the_plain_one_with_its_gradients(
    bias: bool, calls: list[tuple[int, ...]]
) -> None:
    torch.manual_seed(0)
    plain, quick = nn.Linear(48, 80, bias=bias), nn.Linear(48, 80, bias=bias)
    quick.load_state_dict(plain.state_dict())
    quicken(quick)
    x = torch.randn(3, FEW, 48)
    found = []
    for layer in (plain, quick):
        given = x.clone().requires_grad_(True)
        out = layer(given)
        (out**2).sum().backward()
        found.append([out, given.grad, *(p.grad for p in layer.parameters())])
    for want, got in zip(*found, strict=True):
        torch.testing.assert_close(got, want, atol=1e-4, rtol=1e-5)
    assert len(calls) == 2  # there and back


def test_a_product_is_the_plain_one(calls: list[tuple[int, ...]]) -> None:
    x, weight = torch.randn(128, 64), torch.randn(300, 64)
    torch.testing.assert_close(product(x, weight), x @ weight.T, atol=1e-4, rtol=1e-5)
    slope = torch.randn(128, 300)
    torch.testing.assert_close(product(slope, weight.T), slope @ weight, atol=1e-4, rtol=1e-5)
    assert len(calls) == 2


def test_without_avx_512_pytorch_is_left_alone(
    calls: list[tuple[int, ...]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(products, "WIDE", False)
    layer = nn.Linear(8, 8)
    quicken(layer)
    layer(torch.randn(FEW, 8))
    product(torch.randn(FEW, 8), torch.randn(9, 8))
    assert not calls


def test_few_rows_other_types_and_autocast_are_left_alone(calls: list[tuple[int, ...]]) -> None:
    layer = nn.Linear(8, 8)
    quicken(layer)
    layer(torch.randn(FEW - 1, 8))
    with torch.autocast("cpu", torch.bfloat16):
        assert layer(torch.randn(FEW, 8)).dtype == torch.bfloat16
    layer.double()(torch.randn(FEW, 8, dtype=torch.float64))
    product(torch.randn(FEW, 8).bfloat16(), torch.randn(8, 8).bfloat16())
    assert calls == []


def test_models_in_training_and_those_that_draw_are_quick(tiny_llama: Path) -> None:
    trained = LanguageModel.load(tiny_llama, 0, "fp32", torch.device("cpu")).model
    for model in (trained, load_generator(tiny_llama, "fp32")):
        layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
        assert layers
        assert all(isinstance(layer, Linear) for layer in layers)
