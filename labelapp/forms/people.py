"""Inviting people and changing what they may do."""

from django import forms
from django.utils.translation import gettext_lazy as _

from labelapp.models import Role


class InviteForm(forms.Form):
    """A link that makes its first visitor a member."""

    role = forms.ChoiceField(label=_("Role"), choices=Role.choices, initial=Role.LABELER)
    note = forms.CharField(
        label=_("For whom"),
        max_length=120,
        required=False,
        help_text=_("Only admins see this note."),
    )


class RoleForm(forms.Form):
    """Another role for a member."""

    role = forms.ChoiceField(label=_("Role"), choices=Role.choices)


class ActiveForm(forms.Form):
    """Whether a member may sign in."""

    active = forms.TypedChoiceField(
        choices=[("yes", _("Active")), ("no", _("Deactivated"))],
        coerce=lambda value: value == "yes",
    )
