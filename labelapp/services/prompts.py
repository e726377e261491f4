"""Writing prompts: checked, split by author, never twice."""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from django.db import transaction
from django.utils.formats import number_format
from django.utils.translation import gettext as _

from labelapp.errors import BadInput, NotFound, StateConflict
from labelapp.models import (
    Demonstration,
    Project,
    Prompt,
    PromptKind,
    Sensitive,
    Split,
    UseCase,
    User,
)
from labelapp.models.prompts import conversation_text, text_fingerprint
from labelapp.pseudonyms import labeler_pseudonym
from labelapp.services.settling import undos_wait
from labelapp.texts import storable

AUTHOR_LIMIT = 200
"""Prompts of one author at most (InstructGPT, appendix A)."""
TEXT_LIMIT = 20_000
TURNS_LIMIT = 40
"""Messages of one conversation."""


@dataclass(frozen=True)
class PromptInput:
    """A checked prompt that waits to be written."""

    kind: str
    use_case: str
    author: str
    text: str
    parts: dict[str, Any] = field(default_factory=dict)
    sensitive: tuple[str, ...] = ()

    @property
    def fingerprint(self) -> str:
        return text_fingerprint(self.text)


def split_of_author(author: str) -> str:
    """train (70 %), valid (10 %) or test (20 %), by a hash of the author, once for ever."""
    bucket = int(hashlib.sha256(author.encode()).hexdigest(), 16) % 10
    return Split.TRAIN if bucket < 7 else Split.VALID if bucket == 7 else Split.TEST


def labeler_as_author(labeler: User) -> tuple[str, str]:
    """Under what name, and in which split, all stands that a labeler writes as a prompt.

    It is written to be learned from: never of the test split.
    """
    author = f"labeler-{labeler_pseudonym(labeler.pk)}"
    split = split_of_author(author)
    return author, Split.TRAIN if split == Split.TEST else split


def _text(plain: dict[str, Any], name: str, *, required: bool = True, limit: int = 200) -> str:
    value = plain.get(name)
    if value is None or (isinstance(value, str) and not value.strip()):
        if required:
            raise BadInput(_("%(name)s is missing.") % {"name": name}, fields={name: _("Missing.")})
        return ""
    if not isinstance(value, str):
        raise BadInput(_("%(name)s must be text.") % {"name": name}, fields={name: _("Not text.")})
    value = value.strip()
    if len(value) > limit or not storable(value):
        raise BadInput(
            _("%(name)s must be text of at most %(limit)s characters.")
            % {"name": name, "limit": number_format(limit, force_grouping=True)},
            fields={name: _("Too long.")},
        )
    return value


def _choice(plain: dict[str, Any], name: str, choices: Sequence[str], default: str) -> str:
    value = _text(plain, name, required=False) or default
    if value not in choices:
        raise BadInput(
            _("%(name)s is %(value)s; it must be one of %(choices)s.")
            % {"name": name, "value": repr(value), "choices": ", ".join(choices)},
            fields={name: _("Unknown.")},
        )
    return value


def _few_shot_parts(plain: dict[str, Any]) -> dict[str, Any]:
    pairs = plain.get("pairs")
    if not isinstance(pairs, list) or not pairs:
        raise BadInput(_("A few_shot prompt needs pairs: a list of query and response."))
    checked = []
    for pair in pairs:
        if not isinstance(pair, dict):
            raise BadInput(_("Each of pairs must be an object with query and response."))
        checked.append(
            {name: _text(pair, name, limit=TEXT_LIMIT) for name in ("query", "response")}
        )
    return {
        "instruction": _text(plain, "instruction", limit=TEXT_LIMIT),
        "pairs": checked,
        "query": _text(plain, "query", required=False, limit=TEXT_LIMIT),
    }


def messages_checked(given: Any, *, last: str = "user") -> list[dict[str, str]]:
    """The turns of a conversation: perhaps a system message, then user and assistant in turn."""
    if not isinstance(given, list) or not given or len(given) > TURNS_LIMIT:
        raise BadInput(
            _("messages must be a list of 1 to %(limit)s objects with role and content.")
            % {"limit": TURNS_LIMIT},
            fields={"messages": _("Not a conversation.")},
        )
    turns = []
    for each in given:
        if not isinstance(each, dict):
            raise BadInput(_("Each of messages must be an object with role and content."))
        role = _choice(each, "role", ("system", "user", "assistant"), "")
        turns.append({"role": role, "content": _text(each, "content", limit=TEXT_LIMIT)})
    said = [turn["role"] for turn in turns if turn["role"] != "system"]
    wanted = ["user", "assistant"] * len(said)
    if said != wanted[: len(said)] or any(turn["role"] == "system" for turn in turns[1:]):
        raise BadInput(
            _("messages must be user and assistant in turn; a system message may only come first.")
        )
    if turns[-1]["role"] != last:
        raise BadInput(_("The last of messages must be of the %(last)s.") % {"last": last})
    return turns


def _conversation(plain: dict[str, Any]) -> tuple[str, dict[str, Any]]:
    """Text and parts of a prompt that is given as messages."""
    if plain.get("text"):
        raise BadInput(_("Give either text or messages."), fields={"messages": _("Beside text.")})
    turns = messages_checked(plain["messages"])
    if len(turns) == 1:
        return turns[0]["content"], {}
    text = conversation_text(turns)
    if len(text) > TEXT_LIMIT:
        raise BadInput(
            _("A conversation may have at most %(limit)s characters.")
            % {"limit": number_format(TEXT_LIMIT, force_grouping=True)}
        )
    return text, {"messages": turns}


def sensitive_checked(given: Any) -> tuple[str, ...]:
    """Categories of sensitive content, from a list or from words with commas between."""
    if given is None:
        return ()
    words = given.replace(";", ",").split(",") if isinstance(given, str) else given
    if not isinstance(words, list) or not all(isinstance(word, str) for word in words):
        raise BadInput(
            _("sensitive must be a list of words."), fields={"sensitive": _("Not a list of words.")}
        )
    named = {word.strip().lower() for word in words} - {""}
    unknown = sorted(named - set(Sensitive.values))
    if unknown:
        raise BadInput(
            _("sensitive names %(name)s; there are %(known)s.")
            % {"name": repr(unknown[0]), "known": ", ".join(Sensitive.values)},
            fields={"sensitive": _("Unknown.")},
        )
    return tuple(value for value in Sensitive.values if value in named)


def prompt_sensitive_set(*, project: Project, pk: int, sensitive: Sequence[str]) -> Prompt:
    """Mark a prompt with what it contains; it is covered, and kept from who opted out of it."""
    prompt = project.prompts.filter(pk=pk).first()
    if prompt is None:
        raise NotFound(_("There is no such prompt in this project."))
    prompt.sensitive = list(sensitive_checked(list(sensitive)))
    prompt.save(update_fields=["sensitive"])
    return prompt


def prompt_checked(plain: dict[str, Any]) -> PromptInput:
    """A prompt from one row of a file; BadInput says which field is wrong and how."""
    kind = _choice(plain, "kind", PromptKind.values, PromptKind.PLAIN)
    text, parts = _conversation(plain) if plain.get("messages") is not None else ("", {})
    if kind == PromptKind.FEW_SHOT:
        if parts:
            raise BadInput(_("A few_shot prompt is one text; give its pairs, not messages."))
        parts = _few_shot_parts(plain)
    elif kind == PromptKind.USER:
        parts |= {"stated_use_case": _text(plain, "stated_use_case", limit=2000)}
    return PromptInput(
        kind=kind,
        use_case=_choice(plain, "use_case", UseCase.values, UseCase.OTHER),
        author=_text(plain, "author", required=False, limit=80) or "upload",
        text=text or _text(plain, "text", limit=TEXT_LIMIT),
        parts=parts,
        sensitive=sensitive_checked(plain.get("sensitive")),
    )


@transaction.atomic
def prompts_create(*, project: Project, prompts: Iterable[PromptInput]) -> int:
    """Write prompts that are not there yet; returns how many were new."""
    rows = [
        Prompt(
            project=project,
            kind=each.kind,
            use_case=each.use_case,
            author=each.author,
            split=split_of_author(each.author),
            text=each.text,
            parts=each.parts,
            sensitive=list(each.sensitive),
            fingerprint=each.fingerprint,
        )
        for each in prompts
    ]
    before = project.prompts.count()
    Prompt.objects.bulk_create(rows, batch_size=1000, ignore_conflicts=True)
    return project.prompts.count() - before


@transaction.atomic
def demonstrations_import(*, project: Project, rows: Iterable[tuple[PromptInput, str]]) -> int:
    """Write uploaded demonstrations, their prompts with them where new; returns how many."""
    pairs = list(rows)
    undos_wait(project.pk)
    prompts_create(project=project, prompts=[prompt for prompt, _text in pairs])
    prints = {prompt.fingerprint for prompt, _text in pairs}
    id_of = dict(
        project.prompts.settled().filter(fingerprint__in=prints).values_list("fingerprint", "pk")
    )
    if prints - set(id_of):
        raise StateConflict(
            _(
                "A labeler wrote one of these prompts a moment ago and may still take it back;"
                " try again in a minute."
            )
        )
    made = Demonstration.objects.bulk_create(
        [
            Demonstration(
                project=project,
                prompt_id=id_of[prompt.fingerprint],
                source=Demonstration.Source.UPLOAD,
                text=completion,
            )
            for prompt, completion in pairs
        ],
        batch_size=1000,
    )
    return len(made)
