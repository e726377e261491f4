"""Snapshots and exports. For researchers and admins."""

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse, StreamingHttpResponse
from django.http.response import HttpResponseBase
from django.shortcuts import redirect, render
from django.utils.translation import gettext as _
from django.views.decorators.http import require_GET, require_POST, require_safe
from rest_framework.throttling import UserRateThrottle

from labelapp.errors import BadInput, StateConflict
from labelapp.forms.data import FreezeForm
from labelapp.models import Membership, Role
from labelapp.selectors.exports import export_lines, formats_of
from labelapp.selectors.lists import label_counts, snapshot_get, snapshots_list
from labelapp.services.snapshots import snapshot_freeze
from labelapp.views.access import member
from labelapp.views.steering import page_of, refused


class ExportThrottle(UserRateThrottle):
    """So many exports by one person; the rate is the setting THROTTLE_EXPORT."""

    scope = "export"

    def get_rate(self) -> str:
        rates: dict[str, str] = settings.REST_FRAMEWORK["DEFAULT_THROTTLE_RATES"]  # type: ignore[assignment]
        return rates[self.scope]


@require_safe
@member(Role.RESEARCHER, Role.ADMIN)
def data(request: HttpRequest, membership: Membership) -> HttpResponse:
    page = page_of(request, snapshots_list(membership.project))
    context = {
        "membership": membership,
        "counts": label_counts(membership.project),
        "snapshots": page,
        "rows": [(snapshot, formats_of(snapshot.kind)) for snapshot in page],
        "form": FreezeForm(),
        "rate": ExportThrottle().get_rate(),
    }
    return render(request, "labelapp/data.html", context)


@require_POST
@member(Role.RESEARCHER, Role.ADMIN)
def snapshot_new(request: HttpRequest, membership: Membership) -> HttpResponse:
    form = FreezeForm(request.POST)
    if not form.is_valid():
        raise BadInput(_("Choose what to freeze: demonstrations, comparisons or votes."))
    before = set(membership.project.snapshots.values_list("pk", flat=True))
    try:
        snapshot = snapshot_freeze(
            project=membership.project,
            kind=form.cleaned_data["kind"],
            include_simulated=form.cleaned_data["include_simulated"],
            by=membership.user,
        )
    except (BadInput, StateConflict) as error:
        refused(request, error)
    else:
        said = (
            _("Nothing is new since %(name)s: it is the snapshot of the labels there are now.")
            if snapshot.pk in before
            else _("%(name)s is frozen.")
        )
        messages.success(request, said % {"name": snapshot.name})
    return redirect("data", slug=membership.project.slug)


@require_GET
@member(Role.RESEARCHER, Role.ADMIN)
def export(
    request: HttpRequest, membership: Membership, snapshot: str, form: str
) -> HttpResponseBase:
    """A snapshot as a file of JSON Lines, streamed."""
    found = snapshot_get(project=membership.project, name=snapshot)
    throttle = ExportThrottle()
    if not throttle.allow_request(request, None):  # type: ignore[arg-type]
        wait = int(throttle.wait() or 60) + 1
        context = {"membership": membership, "minutes": -(-wait // 60)}
        answer = render(request, "labelapp/export_later.html", context, status=429)
        answer["Retry-After"] = str(wait)
        return answer
    lines = export_lines(snapshot=found, format_name=form)
    return StreamingHttpResponse(
        lines,
        content_type="application/x-ndjson",
        headers={
            "Content-Disposition": f'attachment; filename="{found.name}.{form}.jsonl"',
            "Cache-Control": "no-store",
        },
    )
