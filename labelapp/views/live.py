"""Live prompting: write a prompt, see the answers come, go and rank them."""

from django.conf import settings
from django.contrib import messages
from django.http import HttpRequest, HttpResponse
from django.shortcuts import redirect, render
from django.urls import reverse
from django.utils import timezone
from django.utils.translation import gettext as _
from django.views.decorators.cache import never_cache
from django.views.decorators.http import require_POST, require_safe

from labelapp.errors import StateConflict
from labelapp.models import LETTERS, Membership, Role, Round, UseCase
from labelapp.selectors.live import live_draft, live_prompts_own
from labelapp.selectors.queue import in_hand
from labelapp.services.live import live_prompt_take
from labelapp.views.access import member
from labelapp.views.steering import page_of, refused
from labelapp.views.wording import keys_for

PROMPTS = 20


@never_cache
@require_safe
@member(Role.LABELER)
def live(request: HttpRequest, membership: Membership) -> HttpResponse:
    """The page to write on, and one's earlier prompts with where they are."""
    project, labeler = membership.project, membership.user
    round_ = project.rounds.filter(state=Round.State.OPEN).first()
    allowed = round_ is not None and round_.live_prompting
    context = {
        "membership": membership,
        "round": round_,
        "allowed": allowed,
        "hand": in_hand(project=project, labeler=labeler),
        "letters": LETTERS[: round_.k] if round_ else "",
        "use_cases": UseCase.choices,
        "page": page_of(request, live_prompts_own(project=project, labeler=labeler), PROMPTS),
        "page_data": {
            "url": reverse("api-live", args=[project.slug]),
            "draft_url": reverse("api-live-draft", args=[project.slug]),
            "draft": live_draft(project=project, labeler=labeler),
            "now": timezone.now(),
            "csrf_cookie": settings.CSRF_COOKIE_NAME,
            "key": f"live:{project.slug}:{labeler.pk}",
        },
        "wording": _wording(),
        "keys": keys_for(labeler),
    }
    return render(request, "labelapp/live.html", context)


@require_POST
@member(Role.LABELER)
def live_rank(request: HttpRequest, membership: Membership, pk: int) -> HttpResponse:
    """To the ranking page of one's own prompt."""
    project = membership.project
    try:
        taken = live_prompt_take(project=project, labeler=membership.user, pk=pk)
    except StateConflict as error:
        refused(request, error)
        return redirect("live", slug=project.slug)
    if taken.task.round.state != Round.State.OPEN:
        messages.info(request, _("The round is closed; work in hand may still be handed in."))
    return redirect("task", slug=project.slug, assignment_id=taken.pk)


def _wording() -> dict[str, str]:
    """Words of the page's script."""
    return {
        "saved": _("Saved {time}"),
        "saving": _("Saving…"),
        "offline": _("Offline. Kept on this device"),
        "failed": _("Not saved: {message}"),
        "asking": _("Your prompt is kept. The model begins to write."),
        "writing": _("The model is writing."),
        "ready": _("All answers are there. Rank them now, or find them below later."),
        "later": _(
            "The model is busy just now. Your prompt is kept, and its answers come later: find them in the list below and among your tasks."
        ),
        "cut": _(
            "The connection was lost. Your prompt is kept here; ask again, and it counts once."
        ),
        "signed_out": _("You are signed out. Your prompt is kept on this device; sign in again."),
        "done": _("This prompt has been answered already; find it in the list below."),
        "empty": _("Write a prompt first."),
        "slow": _("Too many prompts in a short time. Wait a minute, then ask again."),
    }
