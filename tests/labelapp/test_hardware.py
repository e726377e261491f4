"""Hardware profiles: what they say is understood, and less than what the training profile says."""

import json
import uuid
from pathlib import Path
from typing import Any

import pytest

from labelapp.errors import BadInput
from labelapp.hardware import DEALT, HARDWARE, TRAINED
from labelapp.profiles import PROFILES, stage_settings
from labelapp.store import run_folder
from labelapp.trainer_gateway import config_check, config_write, serve_write

pytestmark = pytest.mark.usefixtures("store")

FOLDERS = {"model": "m", "comparisons": "c"}


@pytest.fixture
def run_id(store: Path) -> uuid.UUID:
    made = uuid.uuid4()
    run_folder(made).mkdir(parents=True)
    return made


def written(run_id: uuid.UUID, **plain: Any) -> dict[str, Any]:
    config_write(run_id, "reward", plain, FOLDERS)
    return dict(json.loads((run_folder(run_id) / "config.json").read_text()))


@pytest.mark.parametrize("name", HARDWARE)
@pytest.mark.parametrize("stage", [*DEALT, "text", "base"])
def test_every_plan_holds_settings_that_the_stage_knows(name: str, stage: str) -> None:
    for profile in PROFILES:
        config_check(stage, HARDWARE[name].settings(stage) | stage_settings(profile, stage))


def test_the_machines_settings_are_used_where_the_training_profile_says_nothing(
    settings: Any, run_id: uuid.UUID
) -> None:
    settings.LABELAPP_HARDWARE = "gpu-24gb"
    found = written(run_id, micro_tokens=1024)
    assert (found["micro_tokens"], found["gradient_checkpointing"]) == (1024, True)


@pytest.mark.parametrize("training", ["demo", "paper"])
@pytest.mark.parametrize("hardware", ["default", "cpu-2"])
def test_a_processor_chooses_its_precision(training: str, hardware: str) -> None:
    for stage in (*DEALT, "text"):
        chosen = HARDWARE[hardware].settings(stage) | stage_settings(training, stage)
        assert "precision" not in chosen, stage


@pytest.mark.parametrize(("training", "precision"), [("demo", None), ("test", "fp32")])
def test_live_answers_are_in_the_precision_of_drawn_ones(
    training: str, precision: str | None, settings: Any
) -> None:
    settings.LABELAPP_TRAINING = training
    serve_write("127.0.0.1", 8001)
    found = json.loads((Path(settings.LABELAPP_VAR) / "serve.json").read_text())
    assert found.get("precision") == precision


def test_a_plan_for_large_models_shares_the_weights_in_training_alone() -> None:
    plan, whole = HARDWARE["gpus-24gb-shared"], HARDWARE["gpus-24gb"]
    for stage in TRAINED:
        assert plan.settings(stage) == {**whole.settings(stage), "shard": True}
        assert plan.starts(stage) == "gpu"
    assert plan.settings("sample") == whole.settings("sample")


def test_adapters_are_refused_where_the_machine_shares_the_weights(
    settings: Any, run_id: uuid.UUID
) -> None:
    settings.LABELAPP_HARDWARE = "gpus-24gb-shared"
    with pytest.raises(BadInput, match="shard does not go together with lora_rank"):
        written(run_id, lora_rank=8)


def test_a_run_that_another_machine_began_keeps_that_ones_settings(
    settings: Any, run_id: uuid.UUID
) -> None:
    settings.LABELAPP_HARDWARE = "gpu-80gb"
    begun = written(run_id, epochs=2)
    assert begun["micro_tokens"] == 32768
    settings.LABELAPP_HARDWARE = "gpu-24gb"
    assert written(run_id, epochs=2) == begun
    settings.LABELAPP_HARDWARE = "default"
    assert written(run_id, epochs=2) == begun


@pytest.mark.parametrize(("stage", "count"), [("sft", "gpu"), ("sample", "gpu"), ("text", 1)])
def test_what_one_process_does_as_well_is_left_to_one(stage: str, count: object) -> None:
    assert HARDWARE["gpus-80gb"].starts(stage) == count
