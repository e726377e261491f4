"""What is said of each answer alone, beside its place in the ranking."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

from django.utils.translation import gettext as _
from django.utils.translation import ngettext

from labelapp.errors import BadInput
from labelapp.models import (
    FLAGS,
    HIGHEST,
    LETTERS,
    LOWEST,
    RATING_FIELDS,
    RankingPlace,
    Rating,
    RatingField,
    Round,
)


class RatingsAsked(TypedDict, total=False):
    """What a round asks beside the ranking.

    ``rating_fields`` are asked of each answer before it (default: the paper's); with none answers
    are only ranked.
    """

    rating_fields: Collection[str]
    ratings_required: bool
    strength_asked: bool


def ratings_asked_checked(asked: RatingsAsked) -> RatingsAsked:
    """The same with the fields in the page's order, or BadInput for what cannot be asked."""
    names = asked.get("rating_fields", RATING_FIELDS)
    required = asked.get("ratings_required", False)
    unknown = sorted(set(names) - set(RATING_FIELDS))
    if unknown:
        raise BadInput(
            _("There is no rating field %(name)s; known are %(known)s.")
            % {"name": repr(unknown[0]), "known": ", ".join(RATING_FIELDS)},
            fields={"rating_fields": _("Unknown.")},
        )
    if required and RatingField.OVERALL not in names:
        raise BadInput(
            _("Ratings can only be demanded where the overall quality is asked for."),
            fields={"ratings_required": _("Overall quality is not asked for.")},
        )
    return {
        "rating_fields": [name for name in RATING_FIELDS if name in names],
        "ratings_required": required,
        "strength_asked": asked.get("strength_asked", False),
    }


@dataclass(frozen=True)
class AnswerRating:
    """The overall quality (none: left blank), and yes, no or blank for each flag that was asked."""

    overall: int | None
    flags: dict[str, bool | None]


def ratings_checked(
    *,
    round_: Round,
    letters: Sequence[str],
    ratings: Mapping[str, Any],
    flags: Mapping[str, Any],
    not_judged: Collection[str] = (),
) -> dict[str, AnswerRating]:
    """By letter, what was said of each answer; BadInput names the answer and what is wrong.

    A flag that the round asks for and the labeler left out is blank. Where the round demands
    ratings, each answer that was judged needs its overall quality.
    """
    unknown = sorted({*ratings, *flags} - set(letters))
    if unknown:
        raise BadInput(
            _("There is no answer %(letter)s to rate.") % {"letter": unknown[0][:20]},
            fields={"ratings": _("Unknown.")},
        )
    asked = [name for name in FLAGS if name in round_.rating_fields]
    found = {
        letter: AnswerRating(
            _overall(letter, ratings.get(letter), round_.rating_fields),
            dict.fromkeys(asked) | _flags(letter, flags.get(letter), asked),
        )
        for letter in letters
        if letter in ratings or letter in flags
    }
    if round_.ratings_required:
        _demand(found, [letter for letter in letters if letter not in not_judged])
    return found


def _overall(letter: str, value: Any, asked: Collection[str]) -> int | None:
    if value is None:
        return None
    if RatingField.OVERALL not in asked:
        raise BadInput(
            _("This round asks for no overall rating; leave out that of answer %(letter)s.")
            % {"letter": letter},
            fields={"ratings": _("Not asked.")},
        )
    if isinstance(value, bool) or not isinstance(value, int) or not LOWEST <= value <= HIGHEST:
        raise BadInput(
            _("The rating of answer %(letter)s must be a whole number from %(low)s to %(high)s.")
            % {"letter": letter, "low": LOWEST, "high": HIGHEST},
            fields={"ratings": _("Answer %(letter)s: out of range.") % {"letter": letter}},
        )
    return value


def _flags(letter: str, said: Any, asked: Collection[str]) -> dict[str, bool | None]:
    if said is None:
        return {}
    if not isinstance(said, dict):
        raise BadInput(
            _("The flags of answer %(letter)s must be an object of names with true, false or null.")
            % {"letter": letter},
            fields={"flags": _("Answer %(letter)s: not an object.") % {"letter": letter}},
        )
    for name, value in said.items():
        if name not in asked:
            known = ", ".join(asked) or "none"
            raise BadInput(
                _(
                    "Answer %(letter)s has a flag that this round does not ask for; it asks for %(known)s."
                )
                % {"letter": letter, "known": known},
                fields={"flags": _("Answer %(letter)s: unknown flag.") % {"letter": letter}},
            )
        if value is not None and not isinstance(value, bool):
            raise BadInput(
                _("The flag %(name)s of answer %(letter)s must be true, false, or null for blank.")
                % {"name": name, "letter": letter},
                fields={
                    "flags": _("Answer %(letter)s, %(name)s: not true, false or null.")
                    % {"letter": letter, "name": name}
                },
            )
    return said


def _demand(found: Mapping[str, AnswerRating], letters: Iterable[str]) -> None:
    lacking = [each for each in letters if each not in found or found[each].overall is None]
    if lacking:
        named = {"letters": ", ".join(lacking)}
        raise BadInput(
            ngettext(
                "This round asks for an overall rating of every answer before it is ranked: %(letters)s has none.",
                "This round asks for an overall rating of every answer before it is ranked: %(letters)s have none.",
                len(lacking),
            )
            % named,
            fields={"ratings": _("No overall rating: %(letters)s.") % named},
        )


def ratings_store(places: Iterable[RankingPlace], ratings: Mapping[str, AnswerRating]) -> None:
    """Keep the ratings beside the places of the answers they are of."""
    Rating.objects.bulk_create(
        Rating(place=place, overall=said.overall, flags=said.flags)
        for place in places
        if (said := ratings.get(LETTERS[place.shown])) is not None
    )
