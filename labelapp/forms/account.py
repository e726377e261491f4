"""What people send about themselves: signing in, accepting an invite, their name and password."""

from typing import Any

from django import forms
from django.contrib.auth import password_validation
from django.contrib.auth.forms import AuthenticationForm, PasswordChangeForm, SetPasswordForm
from django.contrib.auth.validators import UnicodeUsernameValidator
from django.http import QueryDict
from django.utils.translation import gettext_lazy as _

from labelapp.keys import ACTIONS, keys_of
from labelapp.models import User


class SignInForm(AuthenticationForm):
    """User name and password."""

    error_messages = {  # noqa: RUF012
        "invalid_login": _(
            "This user name and password do not match. Upper and lower case matter in both."
        ),
        "inactive": _("This account is deactivated. An admin of your project can tell you more."),
    }

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["username"].label = _("User name")
        self.fields["username"].widget.attrs |= {"autocapitalize": "none", "spellcheck": "false"}


def _typed(key: str) -> str:
    return key.replace("mod+", "ctrl+")


class KeysForm(forms.Form):
    """One field an action; ``ctrl+`` here is ``mod+`` elsewhere: Ctrl, or Cmd on a Mac."""

    bare_keys = forms.BooleanField(label=_("Single keys do something"), required=False)

    def __init__(self, data: QueryDict | None = None, *, user: User) -> None:
        keys = {name: _typed(key) for name, key in keys_of(user.keys).items()}
        initial = {"bare_keys": user.bare_keys, **keys}
        super().__init__(data, initial=initial, prefix="keys")
        for action in ACTIONS:
            self.fields[action.name] = forms.CharField(
                label=str(action.title),
                max_length=16,
                required=False,
                widget=forms.TextInput(
                    attrs={
                        "data-key": _typed(action.first),
                        "autocomplete": "off",
                        "spellcheck": "false",
                    }
                ),
            )

    def general(self) -> list[forms.BoundField]:
        """The fields of all actions but those while rating."""
        return [self[action.name] for action in ACTIONS if not action.rates]

    def rating(self) -> list[forms.BoundField]:
        """The fields of the actions while rating."""
        return [self[action.name] for action in ACTIONS if action.rates]

    def rating_errors(self) -> bool:
        """Whether one of them is refused."""
        return any(field.errors for field in self.rating())

    def wanted(self) -> dict[str, str]:
        """Action -> key as typed; empty is the first one."""
        typed = {action.name: self.cleaned_data[action.name] for action in ACTIONS}
        return {name: key.lower().replace("ctrl+", "mod+") for name, key in typed.items() if key}


class NameForm(forms.Form):
    """How a person is called on the pages."""

    full_name = forms.CharField(
        label=_("Name"),
        max_length=150,
        required=False,
        widget=forms.TextInput(attrs={"autocomplete": "name", "dir": "auto"}),
        help_text=_("Shown to admins of your projects. Left empty, your user name stands there."),
    )


class InviteForm(forms.Form):
    """A new account from an invite."""

    username = forms.CharField(
        label=_("User name"),
        max_length=150,
        validators=[UnicodeUsernameValidator()],
        widget=forms.TextInput(
            attrs={"autocomplete": "username", "autocapitalize": "none", "spellcheck": "false"}
        ),
        help_text=_("You sign in with it. Letters, digits and @ . + - _"),
    )
    full_name = forms.CharField(
        label=_("Name"),
        max_length=150,
        required=False,
        widget=forms.TextInput(attrs={"autocomplete": "name", "dir": "auto"}),
        help_text=_("How others see you. You may leave it empty."),
    )
    password = forms.CharField(
        label=_("Password"),
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
        help_text=_("At least 12 characters, not only digits, and not a common password."),
    )
    password_again = forms.CharField(
        label=_("Password again"),
        strip=False,
        widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}),
    )

    def clean_username(self) -> str:
        """The user name, refused when someone has it, in any case of letters."""
        username: str = self.cleaned_data["username"]
        if User.objects.filter(username__iexact=username).exists():
            raise forms.ValidationError(_("Someone has this user name already; choose another."))
        return username

    def clean(self) -> dict[str, Any]:
        cleaned = super().clean() or {}
        password = cleaned.get("password")
        if not password:
            return cleaned
        again = cleaned.get("password_again")
        if again is not None and again != password:
            self.add_error("password_again", _("The two passwords differ; type the same twice."))
        somebody = User(
            username=cleaned.get("username", ""), first_name=cleaned.get("full_name", "")
        )
        try:
            password_validation.validate_password(password, somebody)
        except forms.ValidationError as error:
            self.add_error("password", error)
        return cleaned


class ChangePasswordForm(PasswordChangeForm):
    """The old password and a new one."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _password_words(self)
        self.fields["old_password"].label = _("Password now")
        self.fields["old_password"].widget.attrs.pop("autofocus", None)


class NewPasswordForm(SetPasswordForm):
    """A new password, from the link that an admin made."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        _password_words(self)


def _password_words(form: forms.Form) -> None:
    form.fields["new_password1"].label = _("New password")
    form.fields["new_password1"].help_text = _(
        "At least 12 characters, not only digits, and not a common password."
    )
    form.fields["new_password2"].label = _("New password again")
    form.fields["new_password2"].help_text = ""
