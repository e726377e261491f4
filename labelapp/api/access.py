"""What every API view of a project shares."""

from collections.abc import Collection
from typing import Any, ClassVar, cast

from django.utils.translation import gettext as _
from rest_framework.request import Request
from rest_framework.views import APIView

from labelapp.api.throttles import WindowThrottle
from labelapp.errors import NotAllowed
from labelapp.models import Membership, Role, User
from labelapp.selectors.access import LiveToken, membership_get


class ProjectView(APIView):
    """An API view under ``p/<slug>/``; sets ``self.membership`` or refuses.

    A token opens it only if it is of this project and its scope is the view's ``token_scope``.
    """

    roles: ClassVar[Collection[Role] | None] = None
    token_scope: ClassVar[str | None] = None
    throttle_classes = [WindowThrottle]
    membership: Membership

    def initial(self, request: Request, *args: Any, **kwargs: Any) -> None:
        super().initial(request, *args, **kwargs)
        live = request.auth if isinstance(request.auth, LiveToken) else None
        self.membership = membership_get(
            user=cast(User, request.user), slug=kwargs["slug"], roles=self.roles, token=live
        )
        if live is not None and (
            live.token.project_id != self.membership.project_id
            or live.token.scope != self.token_scope
        ):
            raise NotAllowed(_("This token does not open this address."))
