"""The page that lists the settings lists all of them, with the defaults they have."""

import dataclasses
import re
from pathlib import Path

from trainer.config import (
    BestConfig,
    PPOConfig,
    PretrainConfig,
    RewardConfig,
    ScoreConfig,
    ServeConfig,
    SFTConfig,
    TrainConfig,
)

PAGE = (Path(__file__).parents[2] / "docs" / "training.md").read_text(encoding="utf-8")
ROWS = {m[1]: m[2].strip() for m in re.finditer(r"^\| `(\w+)` \| ([^|]*)\|", PAGE, re.MULTILINE)}


def test_every_setting_is_on_the_page_and_no_other() -> None:
    known = {
        field.name
        for stage in (
            TrainConfig,
            PretrainConfig,
            SFTConfig,
            RewardConfig,
            PPOConfig,
            BestConfig,
            ScoreConfig,
            ServeConfig,
        )
        for field in dataclasses.fields(stage)
    }
    assert known - ROWS.keys() == set()
    assert ROWS.keys() - known == set()


def test_the_numbers_on_the_page_are_the_defaults() -> None:
    checked = 0
    for stage in (TrainConfig, PretrainConfig, PPOConfig, SFTConfig, ServeConfig):
        for field in dataclasses.fields(stage):
            said = ROWS[field.name]
            number = re.fullmatch(r"[\d.e-]+", said) and isinstance(field.default, int | float)
            if number and field.name != "epochs":  # four rows, one a stage, have that name
                assert float(said) == field.default, field.name
                checked += 1
    assert checked > 40
