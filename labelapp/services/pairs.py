"""Which two versions a round compares, and on which prompts."""

from typing import TypedDict

from labelapp.errors import BadInput
from labelapp.models import ModelVersion, Project, Split
from labelapp.selectors.pairs import opponents
from labelapp.services.handout import check_range

PAIRS_MOST = 100_000


class Pairs(TypedDict, total=False):
    """Fields of a round; what is left out is as the model has it.

    The round's policy is compared with ``opponent``, another policy of the project.
    """

    pairs_wanted: int
    opponent: ModelVersion | None
    pairs_split: str
    reveal: bool


def pairs_checked(*, project: Project, policy: ModelVersion, pairs: Pairs) -> Pairs:
    """The same, or BadInput naming the first field that cannot stand."""
    wanted, opponent = pairs.get("pairs_wanted", 0), pairs.get("opponent")
    check_range("pairs_wanted", wanted, 0, PAIRS_MOST)
    if pairs.get("pairs_split", Split.TEST) not in Split.values:
        raise BadInput("There is no such split.", fields={"pairs_split": "Unknown."})
    if wanted and opponent is None:
        raise BadInput(
            f"Choose the version that {policy} is compared with.", fields={"opponent": "Missing."}
        )
    if opponent is not None and not opponents(project).filter(pk=opponent.pk).exists():
        raise BadInput(
            f"{policy} can be compared with another policy of this project that is not refused;"
            f" {opponent} is none.",
            fields={"opponent": "Cannot be compared."},
        )
    return pairs
