"""What page scripts need beside data: words, translated on the server, and keys."""

from django.utils.translation import gettext as _

from labelapp.keys import page_keys
from labelapp.models import User


def keys_for(user: User, page: str = "") -> dict[str, object]:
    """The keys of a page, as this person has them."""
    return page_keys(chosen=user.keys, bare=user.bare_keys, page=page)


def task_wording() -> dict[str, object]:
    """Words of the writing and the ranking page; {names} are filled in by the script."""
    return (
        _ranking_wording()
        | _pair_wording()
        | _aside_wording()
        | {
            "saved": _("Saved {time}"),
            "saving": _("Saving…"),
            "nothing_yet": _("Nothing to save yet"),
            "offline": _("Offline. Kept on this device"),
            "failed": _("Not saved: {message}"),
            "signed_out": _(
                "You are signed out. Your work is kept on this device; sign in again and come back here."
            ),
            "lapsing": _("This task goes back to the others at {time} unless you go on."),
            "lapsed": _(
                "Your time on this task ran out. Go on writing: it is yours again as long as its place is free."
            ),
            "lapsed_taken": _(
                "Your time on this task ran out and someone else has it now. You may still submit: what you did is kept beside theirs."
            ),
            "submitting": _("Submitting…"),
            "submit_waits": _(
                "No connection. Nothing is lost: it is submitted as soon as you are online again."
            ),
            "other_copy": _("This device kept another version of this task, from {time}."),
            "words": [_("{n} word"), _("{n} words")],
            "tokens": _("{n} of {limit} tokens"),
            "tokens_only": [_("{n} token"), _("{n} tokens")],
            "too_long": _(
                "Longer than the model itself may answer in this round. You can still submit it."
            ),
            "full": _("No more fits in: an answer has at most {n} characters."),
            "preview_empty": _("What you write shows here as it will look."),
            "preview_away": _("The preview waits for the connection."),
            "example": _("Example {n}"),
            "example_remove": _("Remove example {n}"),
            "examples": _("Examples now: {n}."),
            "fill_all": _("Fill in every field to submit."),
            "minutes": _("{n} min on this task"),
            "title_lapsing": _("Time is nearly up"),
            "write_first": _("Write an answer before you submit."),
        }
    )


def _ranking_wording() -> dict[str, object]:
    return {
        "places": [
            _("Best"),
            _("2nd"),
            _("3rd"),
            _("4th"),
            _("5th"),
            _("6th"),
            _("7th"),
            _("8th"),
            _("9th"),
        ],
        "with": _("{place}, with {others}"),
        "not_placed": _("Not placed yet"),
        "is_best": _("{list} is best"),
        "are_best": _("{list} are best equally"),
        "then_one": _("then {list}"),
        "then_many": _("then {list} equally"),
        "one_missing": _("{list} is not placed yet."),
        "many_missing": _("{list} are not placed yet."),
        "nothing_placed": _("Nothing is placed yet."),
        "chip": _("Answer {letter}, {place}. Left and right arrow move it."),
        "armed": _("Answer {letter} chosen: a digit places it."),
        "undone": _("Undone."),
        "place_all": _("Place every answer before you submit."),
        "not_judged": _("Not judged"),
        "one_aside": _("{list} is not judged."),
        "many_aside": _("{list} are not judged."),
        "all_bad": _("All of them are bad."),
        "rated": _("Answer {letter}, rated"),
        "not_rated": _("Answer {letter}, not rated yet"),
        "rate_first": _(
            "This round asks for an overall rating of every answer; {list} has none yet."
        ),
        "rate_first_many": _(
            "This round asks for an overall rating of every answer; {list} have none yet."
        ),
        "flag_said": _("{flag}: {value}"),
        "yes": _("yes"),
        "no": _("no"),
        "blank": _("blank"),
        "overall_said": _("Overall quality {n} of 7."),
        "disagrees": _(
            "You rated {higher} ({more}) above {lower} ({less}) but rank {lower} over {higher}. That may be right; look once more."
        ),
    }


def _pair_wording() -> dict[str, object]:
    return {
        "votes": {
            "none": _("Nothing is chosen yet."),
            "left": _("A is better."),
            "right": _("B is better."),
            "tie": _("They are equally good."),
            "both_bad": _("Both are bad."),
        },
        "vote_first": _("Choose one of the four before you submit."),
    }


def _aside_wording() -> dict[str, object]:
    """Words of questions and flags beside a task."""
    return {
        "you": _("You"),
        "an_admin": _("An admin"),
        "flagged": _("Flagged: {what}"),
        "flagged_answer": _("Answer {letter} flagged: {what}"),
        "sent": _("Sent. The answer appears here and on your work page."),
        "flag_sent": _("Flagged. An admin will look at it; go on as you like."),
    }
