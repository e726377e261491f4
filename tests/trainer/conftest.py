"""The shared cast: three tiny models, built once a session."""

from pathlib import Path

import pytest

from tests.trainer.tiny import TEXT, build_tiny


@pytest.fixture(scope="session")
def tiny_llama(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Llama: rotary positions, chat template, pad and end are one id."""
    return build_tiny(tmp_path_factory.mktemp("tiny") / "llama", "llama")


@pytest.fixture(scope="session")
def tiny_gpt2(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny GPT-2: absolute positions, no chat template, no pad token."""
    return build_tiny(tmp_path_factory.mktemp("tiny") / "gpt2", "gpt2")


@pytest.fixture(scope="session")
def tiny_bert(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny BERT: word pieces, a mask token, [CLS] and [SEP] around a text."""
    return build_tiny(tmp_path_factory.mktemp("tiny") / "bert", "bert")


@pytest.fixture(params=["llama", "gpt2"])
def tiny_model(request: pytest.FixtureRequest) -> Path:
    """Each of the two causal ones in turn."""
    folder: Path = request.getfixturevalue(f"tiny_{request.param}")
    return folder


@pytest.fixture
def running_text(tmp_path: Path) -> Path:
    """A file of text to pretrain on."""
    path = tmp_path / "text.txt"
    path.write_text(TEXT * 4)
    return path


@pytest.fixture(params=["causal", "masked"])
def learner(request: pytest.FixtureRequest) -> dict[str, str]:
    """Each objective of pretraining in turn, with a model for it: settings of the stage."""
    arch = {"causal": "gpt2", "masked": "bert"}[request.param]
    return {"objective": request.param, "model": str(request.getfixturevalue(f"tiny_{arch}"))}
