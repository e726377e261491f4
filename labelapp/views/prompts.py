"""Prompts and uploads. For admins."""

from typing import Any

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.utils.translation import ngettext
from django.views.decorators.http import require_http_methods, require_POST, require_safe

from labelapp.errors import BadInput, StateConflict
from labelapp.forms.prompts import PromptFilterForm, UploadForm
from labelapp.models import Membership, PromptKind, Role, Sensitive, Upload, UseCase
from labelapp.selectors.lists import prompt_counts, prompts_list, upload_get
from labelapp.services.prompts import prompt_sensitive_set
from labelapp.services.uploads import upload_apply, upload_discard, upload_preview
from labelapp.views.access import member
from labelapp.views.steering import add_errors, page_of, refused

PREVIEW_ROWS = 50


@require_safe
@member(Role.ADMIN)
def prompts(request: HttpRequest, membership: Membership) -> HttpResponse:
    form = PromptFilterForm(request.GET)
    chosen = form.cleaned_data if form.is_valid() else {}
    found = prompts_list(membership.project, **chosen)
    query = request.GET.copy()
    query.pop("page", None)
    context = {
        "membership": membership,
        "form": form,
        "filtered": any(chosen.values()),
        "counts": prompt_counts(membership.project),
        "prompts": page_of(request, found),
        "query": query.urlencode(),
        "categories": Sensitive.choices,
    }
    return render(request, "labelapp/prompts.html", context)


@require_POST
@member(Role.ADMIN)
def prompt_sensitive(request: HttpRequest, membership: Membership, pk: int) -> HttpResponse:
    """Mark a prompt with the sensitive content it holds."""
    sensitive = request.POST.getlist("sensitive")
    try:
        prompt_sensitive_set(project=membership.project, pk=pk, sensitive=sensitive)
        messages.success(request, _("Saved. Marked prompts are covered until asked for."))
    except BadInput as error:
        refused(request, error)
    return redirect("prompts", slug=membership.project.slug)


@require_http_methods(["GET", "HEAD", "POST"])
@member(Role.ADMIN)
def upload(request: HttpRequest, membership: Membership) -> HttpResponse:
    """Take a file; what it would add is shown before anything is written."""
    sent = request.method == "POST"
    initial = {"kind": Upload.Kind.PROMPTS}
    form = UploadForm(request.POST, request.FILES) if sent else UploadForm(initial=initial)
    if sent and form.is_valid():
        file = form.cleaned_data["file"]
        try:
            preview = upload_preview(
                project=membership.project,
                kind=form.cleaned_data["kind"],
                file_name=file.name,
                content=file.read(),
                by=membership.user,
            )
        except BadInput as error:
            add_errors(form, error)
        else:
            return redirect("upload-preview", slug=membership.project.slug, pk=preview.pk)
    context = {
        "membership": membership,
        "form": form,
        "kinds": PromptKind.choices,
        "use_cases": UseCase.choices,
        "categories": Sensitive.choices,
    }
    return render(request, "labelapp/upload.html", context, status=400 if form.errors else 200)


@require_safe
@member(Role.ADMIN)
def upload_page(request: HttpRequest, membership: Membership, pk: int) -> HttpResponse:
    found = upload_get(project=membership.project, pk=pk)
    context: dict[str, Any] = {
        "membership": membership,
        "upload": found,
        "waiting": found.state == Upload.State.PREVIEW,
        "rows": found.rows[:PREVIEW_ROWS],
        "row_count": len(found.rows),
        "button": _button(found),
        "duplicates": [problem for problem in found.problems if problem.get("duplicate")],
        "errors": [problem for problem in found.problems if not problem.get("duplicate")],
        "kinds": dict(PromptKind.choices),
        "use_cases": dict(UseCase.choices),
    }
    return render(request, "labelapp/upload_preview.html", context)


def _button(upload: Upload) -> str:
    count = len(upload.rows)
    if upload.kind == Upload.Kind.PROMPTS:
        return ngettext("Add %(count)s prompt", "Add %(count)s prompts", count) % {"count": count}
    return ngettext("Add %(count)s demonstration", "Add %(count)s demonstrations", count) % {
        "count": count
    }


@require_POST
@member(Role.ADMIN)
def upload_accept(request: HttpRequest, membership: Membership, pk: int) -> HttpResponse:
    found = upload_get(project=membership.project, pk=pk)
    try:
        count = upload_apply(upload=found)
    except StateConflict as error:
        refused(request, error)
        return redirect("upload-preview", slug=membership.project.slug, pk=pk)
    if found.kind == Upload.Kind.PROMPTS:
        said = ngettext("%(count)s prompt added.", "%(count)s prompts added.", count)
    else:
        said = ngettext("%(count)s demonstration added.", "%(count)s demonstrations added.", count)
    messages.success(request, said % {"count": count})
    return redirect("prompts", slug=membership.project.slug)


@require_POST
@member(Role.ADMIN)
def upload_refuse(request: HttpRequest, membership: Membership, pk: int) -> HttpResponse:
    found = upload_get(project=membership.project, pk=pk)
    try:
        upload_discard(upload=found)
    except StateConflict as error:
        refused(request, error)
        return redirect("upload-preview", slug=membership.project.slug, pk=pk)
    messages.info(request, _("Nothing was added."))
    return redirect("upload", slug=membership.project.slug)
