"""Signing in and out, invites, new passwords, the account page."""

from datetime import timedelta
from math import ceil
from typing import Any

from axes.models import AccessAttempt
from django.conf import settings
from django.contrib import messages
from django.contrib.auth import login, update_session_auth_hash
from django.contrib.auth.views import LoginView, PasswordResetConfirmView
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse_lazy
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.debug import sensitive_post_parameters
from django.views.decorators.http import require_http_methods, require_POST

from labelapp.addresses import client_address
from labelapp.errors import BadInput, NotFound
from labelapp.forms.account import (
    ChangePasswordForm,
    InviteForm,
    KeysForm,
    NameForm,
    NewPasswordForm,
    SignInForm,
)
from labelapp.models import Sensitive, User
from labelapp.selectors.access import memberships_of
from labelapp.services.accounts import account_avoids_set, account_keys_set, account_name_set
from labelapp.services.people import invite_accept, invite_find
from labelapp.views.access import signed_in
from labelapp.views.steering import add_errors, refused


class SignIn(LoginView):
    """The sign-in page."""

    template_name = "labelapp/sign_in.html"
    authentication_form = SignInForm
    redirect_authenticated_user = True


def locked_out(
    request: HttpRequest, response: HttpResponse | None, credentials: dict[str, Any] | None
) -> HttpResponse:
    """The sign-in page after too many failures: it says when to try again (for django-axes)."""
    username = (credentials or {}).get("username") or request.POST.get("username", "")
    last = (
        AccessAttempt.objects.filter(username=username, ip_address=client_address(request))
        .order_by("-attempt_time")
        .first()
    )
    cool_off: timedelta = settings.AXES_COOLOFF_TIME
    until = (last.attempt_time if last else timezone.now()) + cool_off
    wait = max((until - timezone.now()).total_seconds(), 0)
    return render(
        request,
        "labelapp/sign_in.html",
        {
            "locked_until": timezone.localtime(until).strftime("%H:%M"),
            "locked_iso": until.isoformat(),
            "locked_minutes": max(1, ceil(wait / 60)),
        },
        status=429,
    )


@sensitive_post_parameters()
@never_cache
@require_http_methods(["GET", "POST"])
def invite(request: HttpRequest, token: str) -> HttpResponse:
    """Make an account from an invite, and sign it in."""
    try:
        found = invite_find(token=token)
    except NotFound:
        return render(request, "labelapp/invite.html", status=410)
    form = InviteForm(request.POST or None)
    if request.method == "POST" and form.is_valid():
        person = {name: form.cleaned_data[name] for name in ("username", "password", "full_name")}
        try:
            user = invite_accept(token=token, **person)
        except BadInput as error:
            form.add_error(None, error.message)
        else:
            login(request, user, backend="django.contrib.auth.backends.ModelBackend")
            return redirect("home")
    return render(request, "labelapp/invite.html", {"invite": found, "form": form})


class PasswordReset(PasswordResetConfirmView):
    """Set a new password from the link that an admin made; the link works once."""

    template_name = "labelapp/password_reset.html"
    form_class = NewPasswordForm
    success_url = reverse_lazy("sign-in")

    def form_valid(self, form: Any) -> HttpResponse:
        response = super().form_valid(form)
        messages.success(self.request, _("Your new password is set. Sign in with it."))
        return response


@signed_in
@require_http_methods(["GET", "POST"])
def account(request: HttpRequest) -> HttpResponse:
    """Name, and what one is in which project."""
    user = request.user
    assert isinstance(user, User)
    form = NameForm(request.POST or None, initial={"full_name": user.get_full_name()})
    keys_form = KeysForm(user=user)
    if request.method == "POST" and form.is_valid():
        account_name_set(user=user, full_name=form.cleaned_data["full_name"])
        messages.success(request, _("Your name is saved."))
        return redirect("account")
    return _account(request, user, form, keys_form)


def _account(
    request: HttpRequest, user: User, form: NameForm, keys_form: KeysForm, status: int = 200
) -> HttpResponse:
    context = {
        "form": form,
        "keys_form": keys_form,
        "sensitive": Sensitive.choices,
        "memberships": memberships_of(user),
    }
    return render(request, "labelapp/account.html", context, status=status)


@signed_in
@require_POST
def account_avoids(request: HttpRequest) -> HttpResponse:
    """Which sensitive content one is given no tasks with."""
    user = request.user
    assert isinstance(user, User)
    try:
        account_avoids_set(user=user, avoids=request.POST.getlist("avoids"))
        messages.success(request, _("Your choice is saved. It holds from the next task on."))
    except BadInput as error:
        refused(request, error)
    return redirect("account")


@signed_in
@require_POST
def account_keys(request: HttpRequest) -> HttpResponse:
    """Which keys do what on the task pages."""
    user = request.user
    assert isinstance(user, User)
    form = KeysForm(request.POST, user=user)
    if "first" in request.POST:
        account_keys_set(user=user, wanted={}, bare=True)
        messages.success(request, _("Your keys are the first ones again."))
        return redirect("account")
    if form.is_valid():
        try:
            account_keys_set(user=user, wanted=form.wanted(), bare=form.cleaned_data["bare_keys"])
        except BadInput as error:
            add_errors(form, error)
        else:
            messages.success(request, _("Your keys are saved. They work on every device."))
            return redirect("account")
    user.refresh_from_db()
    names = NameForm(initial={"full_name": user.get_full_name()})
    return _account(request, user, names, form, status=400)


@sensitive_post_parameters()
@signed_in
@require_http_methods(["GET", "POST"])
def password_change(request: HttpRequest) -> HttpResponse:
    """Change one's own password; other sessions of the same person end."""
    form = ChangePasswordForm(request.user, request.POST or None)
    if request.method == "POST" and form.is_valid():
        update_session_auth_hash(request, form.save())
        messages.success(
            request, _("Your password is changed. You were signed out everywhere else.")
        )
        return redirect("account")
    return render(request, "labelapp/password_change.html", {"form": form})
