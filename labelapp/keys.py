"""The keys of the labelers' pages: what each action has from the start, and what one may choose."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from django.utils.functional import Promise
from django.utils.translation import gettext as _
from django.utils.translation import gettext_lazy

from labelapp.errors import BadInput
from labelapp.models.rating_fields import FLAGS, RatingField

ANSWERS = frozenset("abcdefghijkost123456789")
"""Single keys that choose, place and rate the answers of a ranking."""
RESERVED = frozenset({"?", "escape", "tab", "enter", " ", "mod+c", "mod+v", "mod+x", "mod+a"})
_KEYS = re.compile(r"(mod\+(shift\+)?)?(\S|enter)")
_FLAG_KEYS = dict(zip(FLAGS, "fchsktedaoj", strict=True))
WRITING, PROMPT, RANKING, PAIR = "demonstration", "prompt", "ranking", "pairwise"


@dataclass(frozen=True)
class Action:
    """Something a key does. ``pages`` are kinds of task; none: every task."""

    name: str
    title: str | Promise
    first: str
    pages: tuple[str, ...] = ()
    hands_in: bool = False
    """Never on a single key: it changes what is handed in."""
    rates: bool = False
    """While rating, where letters and digits place no answers; the page has the key itself."""

    def meets(self, other: "Action") -> bool:
        """Whether both can be wanted on one page."""
        return not self.pages or not other.pages or bool({*self.pages} & {*other.pages})


ACTIONS = (
    Action("submit", gettext_lazy("Submit"), "mod+enter", hands_in=True),
    Action("undo-submit", gettext_lazy("Take the last submit back"), "mod+u", hands_in=True),
    Action("concern", gettext_lazy("Ask or flag"), "m"),
    Action("pause", gettext_lazy("Pause"), "p"),
    Action("unveil", gettext_lazy("Show covered content"), "v"),
    Action("editor", gettext_lazy("Go to the editor"), "e", (WRITING, PROMPT)),
    Action("instructions", gettext_lazy("Instructions"), "i", (WRITING, PROMPT)),
    Action("preview", gettext_lazy("Preview, and back"), "mod+.", (WRITING,)),
    Action("bold", gettext_lazy("Bold"), "mod+b", (WRITING,)),
    Action("italic", gettext_lazy("Italic"), "mod+i", (WRITING,)),
    Action("code", gettext_lazy("Code"), "mod+e", (WRITING,)),
    Action("list", gettext_lazy("List"), "mod+shift+8", (WRITING,)),
    Action("numbered-list", gettext_lazy("Numbered list"), "mod+shift+7", (WRITING,)),
    Action("pair-add", gettext_lazy("Add an example"), "mod+.", (PROMPT,)),
    Action("undo", gettext_lazy("Undo in the ranking"), "mod+z", (RANKING,)),
    Action("tie", gettext_lazy("Tie with the answer above"), "=", (RANKING,)),
    Action("out", gettext_lazy("Take an answer out of the ranking"), "0", (RANKING,)),
    Action("aside", gettext_lazy("Leave an answer not judged"), "n", (RANKING,)),
    Action("rest", gettext_lazy("Leave the rest not judged"), "r", (RANKING,)),
    Action("all-bad", gettext_lazy("Say that all answers are bad"), "x", (RANKING,)),
    Action("compare", gettext_lazy("Compare the words of two answers"), "w", (RANKING,)),
    Action("pair-left", gettext_lazy("Say that A is better"), "a", (PAIR,)),
    Action("pair-right", gettext_lazy("Say that B is better"), "b", (PAIR,)),
    Action("pair-tie", gettext_lazy("Say that both are equally good"), "t", (PAIR,)),
    Action("pair-bad", gettext_lazy("Say that both are bad"), "x", (PAIR,)),
    Action("pair-compare", gettext_lazy("Compare the words of a pair"), "w", (PAIR,)),
    *(
        Action(f"rate-{name}", RatingField(name).label, key, (RANKING,), rates=True)
        for name, key in _FLAG_KEYS.items()
    ),
)
_BESIDE_RATING = frozenset(
    each.first for each in ACTIONS if not each.rates and (not each.pages or RANKING in each.pages)
)


def keys_of(chosen: Mapping[str, str]) -> dict[str, str]:
    """Action -> key, as chosen or as it is from the start."""
    return {action.name: chosen.get(action.name, action.first) for action in ACTIONS}


def keys_checked(wanted: Mapping[str, str]) -> dict[str, str]:
    """What is changed in ``wanted``; BadInput, with the action as field, where two would collide."""
    keys = keys_of({name: key.strip().lower() or " " for name, key in wanted.items()})
    problems: dict[str, str] = {}
    for i, action in enumerate(ACTIONS):
        key = keys[action.name]
        clash = next(
            (b for b in ACTIONS[:i] if keys[b.name] == key and action.meets(b)),
            None,
        )
        if clash is not None:
            problems[action.name] = _("“%(other)s” has this key already.") % {"other": clash.title}
        elif problem := _problem(action, key):
            problems[action.name] = problem
    if problems:
        raise BadInput(_("Some keys cannot be used; see below."), fields=problems)
    return {
        action.name: keys[action.name] for action in ACTIONS if keys[action.name] != action.first
    }


def _problem(action: Action, key: str) -> str:
    if not _KEYS.fullmatch(key) or key in RESERVED:
        return _("This key is kept for the browser or the page; choose another.")
    if action.hands_in and not key.startswith("mod+"):
        return _("What hands in or takes back needs Ctrl, so that no slip does it.")
    if action.rates:
        if len(key) > 1 or key.isdigit() or key in _BESIDE_RATING:
            return _("While rating, a field has a letter of its own that does nothing else.")
    elif (not action.pages or RANKING in action.pages) and key in ANSWERS:
        return _(
            "The letters A to K, O, S and T and the digits 1 to 9 are for the answers of a ranking."
        )
    return ""


def page_keys(*, chosen: Mapping[str, str], bare: bool, page: str) -> dict[str, object]:
    """What the page's script needs: each action's first key and the one it has."""
    keys = keys_of(chosen)
    return {
        "bare": bare,
        "ctrl": _("Ctrl"),
        "actions": [
            {"first": action.first, "keys": keys[action.name]}
            for action in ACTIONS
            if not action.rates and (not action.pages or page in action.pages)
        ],
    }


def flag_keys(chosen: Mapping[str, str]) -> dict[str, str]:
    """The key of each yes/no field of a rating, as chosen or as it is from the start."""
    keys = keys_of(chosen)
    return {name: keys[f"rate-{name}"] for name in FLAGS}
