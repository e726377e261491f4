"""Which two versions a round compares, and on which prompts."""

from typing import TypedDict

from django.utils.translation import gettext as _

from labelapp.errors import BadInput
from labelapp.models import ModelVersion, Project, Split
from labelapp.selectors.pairs import opponents
from labelapp.services.handout import check_range


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
    check_range("pairs_wanted", wanted)
    if pairs.get("pairs_split", Split.TEST) not in Split.values:
        raise BadInput(_("There is no such split."), fields={"pairs_split": _("Unknown.")})
    if wanted and opponent is None:
        raise BadInput(
            _("Choose the version that %(policy)s is compared with.") % {"policy": policy},
            fields={"opponent": _("Missing.")},
        )
    if opponent is not None and not opponents(project).filter(pk=opponent.pk).exists():
        raise BadInput(
            _(
                "%(policy)s can be compared with another policy of this project that is not refused;"
                " %(opponent)s is none."
            )
            % {"policy": policy, "opponent": opponent},
            fields={"opponent": _("Cannot be compared.")},
        )
    return pairs
