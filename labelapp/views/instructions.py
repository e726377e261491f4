"""The labelers' instructions, version by version. For admins."""

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_http_methods, require_safe

from labelapp import markdown
from labelapp.errors import BadInput
from labelapp.forms.prompts import InstructionsForm
from labelapp.models import InstructionVersion, Membership, Role
from labelapp.selectors.lists import instructions_get, instructions_list
from labelapp.services.rounds import instructions_add
from labelapp.views.access import member
from labelapp.views.steering import add_errors


@require_http_methods(["GET", "HEAD", "POST"])
@member(Role.ADMIN)
def instructions(request: HttpRequest, membership: Membership) -> HttpResponse:
    """The newest version, and a form that adds one after it."""
    newest = membership.project.instructions.first()
    form = InstructionsForm(initial={"body": newest.body if newest else ""})
    if request.method == "POST":
        form = InstructionsForm(request.POST)
        if form.is_valid():
            try:
                added = instructions_add(
                    project=membership.project, body=form.cleaned_data["body"], by=membership.user
                )
            except BadInput as error:
                add_errors(form, error)
            else:
                messages.success(
                    request,
                    _("Version %(number)s is there. The next round can use it.")
                    % {"number": added.number},
                )
                return redirect("instructions", slug=membership.project.slug)
    return _page(request, membership, newest, form)


@require_safe
@member(Role.ADMIN)
def instructions_version(request: HttpRequest, membership: Membership, number: int) -> HttpResponse:
    """An older version, as it stood."""
    shown = instructions_get(project=membership.project, number=number)
    return _page(request, membership, shown, InstructionsForm(initial={"body": shown.body}))


def _page(
    request: HttpRequest,
    membership: Membership,
    shown: InstructionVersion | None,
    form: InstructionsForm,
) -> HttpResponse:
    context = {
        "membership": membership,
        "shown": shown,
        "body": markdown.render(shown.body) if shown else "",
        "versions": instructions_list(membership.project),
        "form": form,
    }
    return render(
        request, "labelapp/instructions.html", context, status=400 if form.errors else 200
    )
