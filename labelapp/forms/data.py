"""Freezing snapshots."""

from django import forms
from django.utils.translation import gettext_lazy as _

from labelapp.models import Snapshot


class FreezeForm(forms.Form):
    """A snapshot of all labels there are now."""

    kind = forms.ChoiceField(
        label=_("What to freeze"),
        choices=[
            (Snapshot.Kind.DEMONSTRATIONS.value, _("Demonstrations")),
            (Snapshot.Kind.COMPARISONS.value, _("Comparisons")),
            (Snapshot.Kind.VOTES.value, _("Votes on pairs")),
        ],
        initial=Snapshot.Kind.COMPARISONS,
        widget=forms.RadioSelect,
    )
    include_simulated = forms.BooleanField(
        label=_("Include labels of simulated labelers"),
        required=False,
        help_text=_("They are written by a program, not by people."),
    )
