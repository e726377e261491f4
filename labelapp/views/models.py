"""The registry: versions, where each came from, promoting, refusing, rolling back."""

from collections.abc import Callable

from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.utils.http import url_has_allowed_host_and_scheme
from django.utils.translation import gettext as _
from django.views.decorators.http import require_POST, require_safe

from labelapp.errors import StateConflict
from labelapp.models import Membership, ModelVersion, Role
from labelapp.selectors.lists import version_get, version_samples
from labelapp.selectors.registry import lineage, versions_list
from labelapp.services.versions import version_promote, version_refuse, version_rollback
from labelapp.views.access import member
from labelapp.views.charts import stage_figures
from labelapp.views.steering import page_of, refused

VERSIONS = 100


@require_safe
@member(Role.RESEARCHER, Role.ADMIN)
def models(request: HttpRequest, membership: Membership) -> HttpResponse:
    page = page_of(request, versions_list(membership.project), VERSIONS)
    groups = [
        {
            "role": role,
            "versions": [
                (version, stage_figures(version.run.stage, version.metrics))
                for version in page
                if version.role == role.value
            ],
        }
        for role in ModelVersion.Role
    ]
    context = {"membership": membership, "groups": groups, "page": page}
    return render(request, "labelapp/models.html", context)


@require_safe
@member(Role.RESEARCHER, Role.ADMIN)
def model(request: HttpRequest, membership: Membership, pk: int) -> HttpResponse:
    version = version_get(project=membership.project, pk=pk)
    figures = {k: v for k, v in version.metrics.items() if not isinstance(v, dict | list)}
    context = {
        "membership": membership,
        "version": version,
        "figures": sorted(figures.items()),
        "steps": lineage(version),
        "samples": version_samples(version),
    }
    return render(request, "labelapp/model.html", context)


def _change(
    request: HttpRequest,
    membership: Membership,
    pk: int,
    change: Callable[..., ModelVersion],
    said: str,
) -> HttpResponse:
    version = version_get(project=membership.project, pk=pk)
    try:
        change(version=version, by=membership.user)
    except StateConflict as error:
        refused(request, error)
    else:
        messages.success(request, said % {"version": version})
    back = request.POST.get("next", "")
    if back and url_has_allowed_host_and_scheme(
        back, allowed_hosts={request.get_host()}, require_https=request.is_secure()
    ):
        return redirect(back)
    return redirect("model", slug=membership.project.slug, pk=pk)


@require_POST
@member(Role.ADMIN)
def model_promote(request: HttpRequest, membership: Membership, pk: int) -> HttpResponse:
    said = _("%(version)s is current now. The next round asks it.")
    return _change(request, membership, pk, version_promote, said)


@require_POST
@member(Role.ADMIN)
def model_refuse(request: HttpRequest, membership: Membership, pk: int) -> HttpResponse:
    return _change(request, membership, pk, version_refuse, _("%(version)s will not be used."))


@require_POST
@member(Role.ADMIN)
def model_rollback(request: HttpRequest, membership: Membership, pk: int) -> HttpResponse:
    said = _("Rolled back: %(version)s is current again.")
    return _change(request, membership, pk, version_rollback, said)
