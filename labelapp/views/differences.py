"""The words in which two answers of one's task differ, as a piece of the ranking page."""

from uuid import UUID

from django.http import HttpRequest, HttpResponse
from django.shortcuts import render
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_safe

from labelapp.errors import BadInput
from labelapp.models import Membership, Role
from labelapp.selectors.differences import word_difference
from labelapp.selectors.queue import assignment_get, assignment_view
from labelapp.views.access import member


@never_cache
@require_safe
@member(Role.LABELER)
def difference(request: HttpRequest, membership: Membership, assignment_id: UUID) -> HttpResponse:
    """From answer ``one`` to answer ``two``, both letters of this labeler's own task."""
    assignment = assignment_get(
        labeler=membership.user, project=membership.project, assignment_id=assignment_id
    )
    texts = {answer.letter: answer.text for answer in assignment_view(assignment).answers}
    one, two = request.GET.get("one", ""), request.GET.get("two", "")
    if one not in texts or two not in texts:
        raise BadInput(_("Choose two answers of this task to compare."))
    pieces = list(word_difference(texts[one], texts[two]))
    context = {
        "one": one,
        "two": two,
        "pieces": pieces,
        "same": all(piece.kind == "both" for piece in pieces),
    }
    return render(request, "labelapp/_difference.html", context)
