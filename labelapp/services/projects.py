"""New projects: production's way in, before anybody is there to invite anybody."""

import secrets

from django.conf import settings
from django.core.exceptions import ValidationError
from django.core.validators import validate_slug
from django.db import IntegrityError, transaction
from django.utils.translation import gettext as _

from labelapp.errors import BadInput, StateConflict
from labelapp.models import Membership, Project, Role, User
from labelapp.services.people import user_create


@transaction.atomic
def project_create(*, slug: str, name: str, admin: str) -> tuple[Project, str | None]:
    """A project and its first admin; the password, where that person is made by this call.

    BadInput for a slug or name that cannot be one, StateConflict where the project exists.
    """
    try:
        validate_slug(slug)
    except ValidationError:
        raise BadInput(
            _("%(slug)s cannot stand in an address: use letters, digits, - and _.")
            % {"slug": repr(slug)}
        ) from None
    try:
        with transaction.atomic():
            project = Project.objects.create(
                slug=slug,
                name=name,
                min_demonstrations=settings.MIN_DEMONSTRATIONS,
                min_rankings=settings.MIN_RANKINGS,
            )
    except IntegrityError:
        raise StateConflict(
            _("There is a project %(slug)s already.") % {"slug": repr(slug)}
        ) from None
    password = None
    user = User.objects.filter(username=admin).first()
    if user is None:
        password = secrets.token_urlsafe(15)
        user = user_create(username=admin, password=password)
    Membership.objects.create(project=project, user=user, role=Role.ADMIN)
    return project, password
