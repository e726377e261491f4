"""What is said of each answer alone, beside its place in the ranking."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

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
            f"There is no rating field {unknown[0]!r}; known are {', '.join(RATING_FIELDS)}.",
            fields={"rating_fields": "Unknown."},
        )
    if required and RatingField.OVERALL not in names:
        raise BadInput(
            "Ratings can only be demanded where the overall quality is asked for.",
            fields={"ratings_required": "Overall quality is not asked for."},
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
            f"There is no answer {unknown[0][:20]} to rate.", fields={"ratings": "Unknown."}
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
            f"This round asks for no overall rating; leave out that of answer {letter}.",
            fields={"ratings": "Not asked."},
        )
    if isinstance(value, bool) or not isinstance(value, int) or not LOWEST <= value <= HIGHEST:
        raise BadInput(
            f"The rating of answer {letter} must be a whole number from {LOWEST} to {HIGHEST}.",
            fields={"ratings": f"Answer {letter}: out of range."},
        )
    return value


def _flags(letter: str, said: Any, asked: Collection[str]) -> dict[str, bool | None]:
    if said is None:
        return {}
    if not isinstance(said, dict):
        raise BadInput(
            f"The flags of answer {letter} must be an object of names with true, false or null.",
            fields={"flags": f"Answer {letter}: not an object."},
        )
    for name, value in said.items():
        if name not in asked:
            known = ", ".join(asked) or "none"
            raise BadInput(
                f"Answer {letter} has a flag that this round does not ask for; it asks for {known}.",
                fields={"flags": f"Answer {letter}: unknown flag."},
            )
        if value is not None and not isinstance(value, bool):
            raise BadInput(
                f"The flag {name} of answer {letter} must be true, false, or null for blank.",
                fields={"flags": f"Answer {letter}, {name}: not true, false or null."},
            )
    return said


def _demand(found: Mapping[str, AnswerRating], letters: Iterable[str]) -> None:
    lacking = [each for each in letters if each not in found or found[each].overall is None]
    if lacking:
        raise BadInput(
            "This round asks for an overall rating of every answer before it is ranked:"
            f" {', '.join(lacking)} {'has' if len(lacking) == 1 else 'have'} none.",
            fields={"ratings": f"No overall rating: {', '.join(lacking)}."},
        )


def ratings_store(places: Iterable[RankingPlace], ratings: Mapping[str, AnswerRating]) -> None:
    """Keep the ratings beside the places of the answers they are of."""
    Rating.objects.bulk_create(
        Rating(place=place, overall=said.overall, flags=said.flags)
        for place in places
        if (said := ratings.get(LETTERS[place.shown])) is not None
    )
