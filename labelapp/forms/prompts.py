"""Finding prompts, uploading them, and the labelers' instructions."""

from django import forms
from django.utils.translation import gettext_lazy as _

from labelapp.models import PromptKind, Split, Upload, UseCase

UPLOAD_BYTES = 20_000_000
INSTRUCTIONS_CHARACTERS = 60_000


class PromptFilterForm(forms.Form):
    """What the list of prompts is narrowed to; everything is optional."""

    kind = forms.ChoiceField(
        label=_("Kind"), required=False, choices=[("", _("All kinds")), *PromptKind.choices]
    )
    use_case = forms.ChoiceField(
        label=_("Use case"), required=False, choices=[("", _("All use cases")), *UseCase.choices]
    )
    split = forms.ChoiceField(
        label=_("Split"), required=False, choices=[("", _("All splits")), *Split.choices]
    )
    words = forms.CharField(label=_("Words"), required=False, max_length=200)


class UploadForm(forms.Form):
    """A file of prompts or demonstrations."""

    kind = forms.ChoiceField(
        label=_("What it holds"), choices=Upload.Kind.choices, widget=forms.RadioSelect
    )
    file = forms.FileField(
        label=_("File"),
        max_length=200,
        help_text=_("JSONL or CSV in UTF-8, at most 20 MB."),
        widget=forms.ClearableFileInput(attrs={"accept": ".jsonl,.ndjson,.json,.csv"}),
        error_messages={"empty": _("This file is empty.")},
    )

    def clean_file(self) -> object:
        """The file, refused when larger than the limit."""
        file = self.cleaned_data["file"]
        if file.size > UPLOAD_BYTES:
            raise forms.ValidationError(
                _("This file has more than 20 MB; split it into smaller ones.")
            )
        return file


class InstructionsForm(forms.Form):
    """A new version of the instructions, in markdown."""

    body = forms.CharField(
        label=_("Text of the new version"),
        max_length=INSTRUCTIONS_CHARACTERS,
        widget=forms.Textarea(attrs={"rows": 18, "spellcheck": "true"}),
        help_text=_("Markdown. Rounds that are open keep the version they were opened with."),
    )
