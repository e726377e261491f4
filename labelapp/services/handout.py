"""How a round hands out its tasks and what labelers write in it: the settings, and what they may be."""

from collections.abc import Collection, Mapping
from typing import TypedDict

from django.utils.translation import gettext as _

from labelapp.errors import BadInput
from labelapp.models import Round, Task
from labelapp.models.rounds import RANGES


class Handout(TypedDict, total=False):
    """Fields of a round; what is left out is as the model has it."""

    order: str
    random_share: float
    extra_overlap: int
    disagreement: float
    quota: int | None
    kind_weights: Mapping[str, int]
    write_first: bool
    plain_prompts_wanted: int
    few_shot_prompts_wanted: int
    user_prompts_wanted: int
    stated_use_cases: Collection[str]


def check_range(name: str, value: float, of: str = "") -> None:
    """BadInput, with the field's name, for what is outside RANGES (there it may be named ``of``)."""
    low, high = RANGES[of or name]
    if not low <= value <= high:
        raise BadInput(
            _("%(name)s is %(value)s; it must be from %(low)s to %(high)s.")
            % {"name": name, "value": value, "low": low, "high": high},
            fields={name: _("Out of range.")},
        )


def handout_checked(handout: Handout) -> Handout:
    """The same, or BadInput naming the first field that cannot stand."""
    order = handout.get("order", Round.Order.RANDOM)
    if order not in Round.Order.values:
        raise BadInput(
            _("There is no order %(order)s.") % {"order": repr(order)},
            fields={"order": _("Unknown.")},
        )
    for name, value in handout.items():
        if name in RANGES and isinstance(value, int | float):
            check_range(name, value)
    for kind, weight in handout.get("kind_weights", {}).items():
        if kind not in Task.Kind.values:
            raise BadInput(
                _("There are no tasks of kind %(kind)s to give a weight.") % {"kind": repr(kind)}
            )
        check_range(f"weight_{kind}", weight, of="weight")
    wanted = handout.get("user_prompts_wanted", 0)
    return {
        **handout,
        "stated_use_cases": stated_checked(handout.get("stated_use_cases", ()), wanted),
    }


def stated_checked(use_cases: Collection[str], wanted: int) -> list[str]:
    """The use cases that people stated, cleaned; some where user-based prompts are wanted."""
    stated = list(dict.fromkeys(" ".join(case.split()) for case in use_cases if case.strip()))
    if wanted and not stated:
        raise BadInput(
            _("User-based prompts are written for a given use case; give at least one."),
            fields={"stated_use_cases": _("Missing.")},
        )
    if any(len(case) > 500 for case in stated):
        raise BadInput(
            _("Keep each use case under 500 characters."),
            fields={"stated_use_cases": _("Too long.")},
        )
    return stated
