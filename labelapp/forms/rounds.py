"""Opening a round, starting a training."""

from typing import Any, ClassVar

from django import forms
from django.utils.translation import gettext_lazy as _

from labelapp.models import (
    PROMPTS_WANTED,
    RATING_FIELDS,
    InstructionVersion,
    ModelVersion,
    Project,
    PromptKind,
    RatingField,
    Round,
    Split,
    UseCase,
)
from labelapp.models.rounds import RANGES
from labelapp.selectors.lists import prompt_counts
from labelapp.selectors.pairs import opponents, prompts_of_pairs


class PromptChoiceForm(forms.Form):
    """Which prompts a round draws from; nothing ticked in a list means all of it."""

    kinds = forms.MultipleChoiceField(
        label=_("Prompt kinds"),
        choices=PromptKind.choices,
        required=False,
        widget=forms.CheckboxSelectMultiple,
    )
    use_cases = forms.MultipleChoiceField(
        label=_("Use cases"),
        choices=UseCase.choices,
        required=False,
        widget=forms.CheckboxSelectMultiple,
    )


_OPTIONAL = (
    "order", "random_share", "extra_overlap", "disagreement",
    "weight_demonstration", "weight_ranking", "weight_pairwise", "pairs_split",
)  # fmt: skip


def _range(name: str) -> dict[str, Any]:
    low, high = RANGES[name]
    return {"min_value": low, "max_value": high}


class RoundForm(PromptChoiceForm):
    """The next round. Its fields are the keywords of ``services.rounds.round_open``."""

    RARE: ClassVar = {
        "writing": (*PROMPTS_WANTED, "stated_use_cases", "live_prompting"),
        "pairs": ("pairs_wanted", "opponent", "pairs_split", "reveal"),
        "ratings": ("rating_fields", "ratings_required", "strength_asked", "write_first"),
        "handing_out": (
            "order", "random_share", "overlap_tasks", "extra_overlap", "disagreement",
            "weight_demonstration", "weight_ranking", "weight_pairwise", "quota",
        ),
        "answers": ("temperature", "max_new_tokens"),
    }  # fmt: skip
    """Sections of the page that are folded while all in them is as by default."""

    demonstrations_wanted = forms.IntegerField(
        label=_("Demonstrations wanted"),
        **_range("demonstrations_wanted"),
        initial=20,
        help_text=_("Tasks in which a person writes the answer."),
    )
    rankings_wanted = forms.IntegerField(
        label=_("Ranking tasks wanted"),
        **_range("rankings_wanted"),
        initial=40,
        help_text=_("Tasks in which a person orders the model's answers."),
    )
    plain_prompts_wanted = forms.IntegerField(
        label=_("Plain prompts to write"),
        **_range("plain_prompts_wanted"),
        initial=0,
        required=False,
        help_text=_("Any task that comes to the labeler's mind."),
    )
    few_shot_prompts_wanted = forms.IntegerField(
        label=_("Few-shot prompts to write"),
        **_range("few_shot_prompts_wanted"),
        initial=0,
        required=False,
        help_text=_("An instruction with several queries and responses."),
    )
    user_prompts_wanted = forms.IntegerField(
        label=_("User-based prompts to write"),
        **_range("user_prompts_wanted"),
        initial=0,
        required=False,
        help_text=_("A prompt for one of the use cases below."),
    )
    stated_use_cases = forms.CharField(
        label=_("Use cases that people stated"),
        max_length=60_000,
        required=False,
        widget=forms.Textarea(attrs={"rows": 3}),
        help_text=_("One a line. They are given out in turn."),
    )
    pairs_wanted = forms.IntegerField(
        label=_("Pairs to compare"),
        **_range("pairs_wanted"),
        required=False,
        help_text=_("Tasks in which a person says which of two versions' answers is better."),
    )
    opponent = forms.ModelChoiceField(
        label=_("The current policy against"),
        queryset=ModelVersion.objects.none(),
        required=False,
        empty_label=_("Choose a version"),
        help_text=_("Who stands left is drawn anew for each labeler."),
    )
    pairs_split = forms.ChoiceField(
        label=_("On prompts of the split"),
        choices=Split.choices,
        initial=Split.TEST,
        required=False,
        help_text=_("Nothing is trained on test prompts, nor on votes."),
    )
    reveal = forms.BooleanField(
        label=_("Show labelers who wrote which, once their vote counts"),
        required=False,
        help_text=_("The vote is locked then."),
    )
    k = forms.IntegerField(
        label=_("Answers per ranking (K)"),
        **_range("k"),
        initial=4,
        help_text=_("2 to 9. Four answers give six pairs."),
    )
    overlap = forms.IntegerField(
        label=_("Labelers per ranking task"),
        **_range("overlap"),
        initial=1,
        help_text=_("More than one lets you see how well people agree. Pairs too."),
    )
    overlap_tasks = forms.IntegerField(
        label=_("Ranking tasks with that overlap"),
        **_range("overlap_tasks"),
        required=False,
        help_text=_("Left empty: all of them. The rest go to one labeler each."),
    )
    write_first = forms.BooleanField(
        label=_("Labelers write their own answer first"),
        required=False,
        help_text=_(
            "The model's answers stay hidden until then. What they write is a demonstration too."
        ),
    )
    order = forms.ChoiceField(
        label=_("Order of the tasks"),
        choices=Round.Order.choices,
        initial=Round.Order.RANDOM,
        required=False,
        help_text=_("Work in hand and nearly finished tasks always come first."),
    )
    random_share = forms.FloatField(
        label=_("Share drawn at random"),
        **_range("random_share"),
        initial=0.2,
        required=False,
        help_text=_("Where disagreement orders the tasks: claims that ignore it, 0 to 1."),
    )
    quota = forms.IntegerField(
        label=_("Most tasks per labeler"),
        **_range("quota"),
        required=False,
        help_text=_("Left empty: no limit."),
    )
    weight_demonstration = forms.IntegerField(
        label=_("Weight of demonstrations"),
        **_range("weight"),
        initial=1,
        required=False,
        help_text=_("2 and 1: two of these for one of those. 0: only once the others are done."),
    )
    weight_ranking = forms.IntegerField(
        label=_("Weight of rankings"), **_range("weight"), initial=1, required=False
    )
    weight_pairwise = forms.IntegerField(
        label=_("Weight of pairs"), **_range("weight"), initial=1, required=False
    )
    extra_overlap = forms.IntegerField(
        label=_("More labelers where the first disagree"),
        **_range("extra_overlap"),
        initial=0,
        required=False,
        help_text=_("At most so many more for one ranking task; 0: none."),
    )
    disagreement = forms.FloatField(
        label=_("Disagreement that asks for one more"),
        **_range("disagreement"),
        initial=0.3,
        required=False,
        help_text=_("Share of pairs that two labelers order differently (Kendall), 0 to 1."),
    )
    temperature = forms.FloatField(
        label=_("Temperature"),
        **_range("temperature"),
        initial=1.0,
        help_text=_("How varied the answers are. At 0 all K answers to a prompt are the same."),
    )
    max_new_tokens = forms.IntegerField(
        label=_("Longest answer, in tokens"),
        **_range("max_new_tokens"),
        initial=128,
        help_text=_("An English word is about 1.3 tokens."),
    )
    live_prompting = forms.BooleanField(
        label=_("Labelers may write prompts of their own and rank the answers at once"),
        required=False,
    )
    instructions = forms.ModelChoiceField(
        label=_("Instructions"),
        queryset=InstructionVersion.objects.none(),
        empty_label=None,
        help_text=_("The text that labelers read beside every task of the round."),
    )

    rating_fields = forms.MultipleChoiceField(
        label=_("Asked of each answer before the ranking"),
        choices=RatingField.choices,
        initial=list(RATING_FIELDS),
        required=False,
        widget=forms.CheckboxSelectMultiple,
        help_text=_("With nothing ticked, answers are only ranked."),
    )
    ratings_required = forms.BooleanField(
        label=_("Take a ranking only with the overall quality of every answer"), required=False
    )
    strength_asked = forms.BooleanField(
        label=_("Ask how much better the best answer is than the worst"), required=False
    )

    def __init__(self, *args: Any, project: Project, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.project = project
        field = self.fields["instructions"]
        assert isinstance(field, forms.ModelChoiceField)
        field.queryset = project.instructions.all()
        field.label_from_instance = instructions_label  # type: ignore[method-assign, assignment]
        self.initial.setdefault("instructions", project.instructions.first())
        against = self.fields["opponent"]
        assert isinstance(against, forms.ModelChoiceField)
        against.queryset = opponents(project)

    @property
    def unfolded(self) -> list[str]:
        """The sections of RARE that hold an error, or something that is not as by default."""
        return [
            section
            for section, names in self.RARE.items()
            if any(name in self.errors or self._changed(name) for name in names)
        ]

    def _changed(self, name: str) -> bool:
        value = self[name].value()
        if value in ("", None):
            return False
        return bool(self.fields[name].has_changed(self.base_fields[name].initial, value))

    def clean_stated_use_cases(self) -> list[str]:
        """One use case a line."""
        return str(self.cleaned_data["stated_use_cases"]).splitlines()

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        for name in _OPTIONAL:  # left out: as it is by default
            if name not in self.errors and cleaned.get(name) in ("", None):
                cleaned[name] = self.fields[name].initial
        cleaned["kind_weights"] = {
            kind: weight
            for kind in ("demonstration", "ranking", "pairwise")
            if (weight := cleaned.pop(f"weight_{kind}", None)) is not None
        }
        for name in (*PROMPTS_WANTED, "pairs_wanted"):
            cleaned[name] = cleaned.get(name) or 0
        wanted = ("demonstrations_wanted", "rankings_wanted", "pairs_wanted", *PROMPTS_WANTED)
        if all(cleaned.get(name) == 0 for name in wanted):
            raise forms.ValidationError(
                _(
                    "Ask for at least one demonstration, ranking, prompt or pair: this round has"
                    " no tasks."
                )
            )
        fitting = prompt_counts(
            self.project,
            kinds=cleaned.get("kinds"),
            use_cases=cleaned.get("use_cases"),
        ).fitting
        for name in ("demonstrations_wanted", "rankings_wanted"):
            if (cleaned.get(name) or 0) > fitting:
                self.add_error(
                    name,
                    _("Only %(count)s prompts fit this choice; ask for no more than that.")
                    % {"count": fitting},
                )
        self._clean_pairs(cleaned)
        few, rankings = cleaned.get("overlap_tasks"), cleaned.get("rankings_wanted")
        if few is not None and rankings is not None and few > rankings:
            self.add_error(
                "overlap_tasks",
                _("There are only %(count)s ranking tasks in this round.") % {"count": rankings},
            )
        asked = cleaned.get("rating_fields") or []
        if cleaned.get("ratings_required") and RatingField.OVERALL not in asked:
            self.add_error(
                "ratings_required", _("Tick the overall quality above, or do not demand it.")
            )
        return cleaned

    def _clean_pairs(self, cleaned: dict[str, Any]) -> None:
        wanted = cleaned["pairs_wanted"]
        if not wanted:
            cleaned["opponent"] = None
            return
        if cleaned.get("opponent") is None and "opponent" not in self.errors:
            self.add_error("opponent", _("Choose the version that the policy is compared with."))
        if "pairs_split" in self.errors:
            return
        fitting = prompts_of_pairs(
            self.project,
            cleaned["pairs_split"],
            cleaned.get("kinds") or (),
            cleaned.get("use_cases") or (),
        ).count()
        if wanted > fitting:
            self.add_error(
                "pairs_wanted",
                _("Only %(count)s prompts of that split fit; ask for no more than that.")
                % {"count": fitting},
            )


def instructions_label(version: InstructionVersion) -> str:
    """How a version stands in a list: its number and its first words."""
    first = next((line for line in version.body.splitlines() if line.strip()), "")
    return f"{version.number} · {first.lstrip('# ')[:60]}"


class TrainingForm(forms.Form):
    """The one button that starts SFT, the reward model and PPO."""

    include_simulated = forms.BooleanField(
        label=_("Include labels of simulated labelers"), required=False
    )
