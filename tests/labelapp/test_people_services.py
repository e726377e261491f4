"""People come by invitation, may do what their role says, and cannot lock everyone out."""

from datetime import timedelta

import pytest
from django.db import IntegrityError
from django.utils import timezone

from labelapp.errors import BadInput, NotAllowed, NotFound, StateConflict
from labelapp.models import Invite, Membership, Role
from labelapp.selectors.access import membership_get
from labelapp.services.people import (
    invite_accept,
    invite_create,
    member_active_set,
    member_role_set,
    password_reset_link,
)
from tests.factories import PASSWORD, make_member, make_project, make_user

pytestmark = pytest.mark.django_db


def test_an_invite_makes_a_member_once() -> None:
    project = make_project()
    _, token = invite_create(project=project, role="labeler", by=make_member(project, "admin"))
    user = invite_accept(token=token, username="mo", password=PASSWORD, full_name="Mo de Vries")
    assert membership_get(user=user, slug=project.slug).role == Role.LABELER
    assert user.check_password(PASSWORD)
    with pytest.raises(NotFound, match="used or has expired"):
        invite_accept(token=token, username="other", password=PASSWORD)


def test_only_the_hash_of_an_invite_is_kept() -> None:
    project = make_project()
    invite, token = invite_create(project=project, role="admin", by=make_member(project, "admin"))
    assert token not in str(vars(Invite.objects.get(pk=invite.pk)))


def test_an_expired_invite_is_refused() -> None:
    project = make_project()
    _, token = invite_create(project=project, role="labeler", by=make_member(project, "admin"))
    Invite.objects.update(expires_at=timezone.now() - timedelta(seconds=1))
    with pytest.raises(NotFound):
        invite_accept(token=token, username="mo", password=PASSWORD)


@pytest.mark.parametrize(
    ("username", "password"), [("mo", "short"), ("mo", "123456789012345"), ("a b!", PASSWORD)]
)
def test_a_weak_password_or_odd_name_is_refused_and_the_invite_stays_good(
    username: str, password: str
) -> None:
    project = make_project()
    _, token = invite_create(project=project, role="labeler", by=make_member(project, "admin"))
    with pytest.raises(BadInput):
        invite_accept(token=token, username=username, password=password)
    assert invite_accept(token=token, username="mo", password=PASSWORD).username == "mo"


def test_a_taken_name_is_refused() -> None:
    project = make_project()
    make_user("mo")
    _, token = invite_create(project=project, role="labeler", by=make_member(project, "admin"))
    with pytest.raises(BadInput, match="taken"):
        invite_accept(token=token, username="mo", password=PASSWORD)


def test_the_last_admin_can_neither_step_down_nor_be_deactivated() -> None:
    project = make_project()
    admin = make_member(project, "admin")
    membership = Membership.objects.get(user=admin)
    with pytest.raises(StateConflict, match="last admin"):
        member_role_set(membership=membership, role="labeler")
    with pytest.raises(StateConflict, match="last admin"):
        member_active_set(membership=membership, active=False, by=admin)
    make_member(project, "admin")
    member_role_set(membership=membership, role="labeler")
    membership.refresh_from_db()
    assert membership.role == Role.LABELER


def test_a_deactivated_person_is_outside() -> None:
    project = make_project()
    user, admin = make_member(project), make_member(project, "admin")
    member_active_set(membership=Membership.objects.get(user=user), active=False, by=admin)
    with pytest.raises(NotFound):
        membership_get(user=user, slug=project.slug)


def test_an_admin_has_no_hold_on_people_of_other_projects() -> None:
    """Their password would open a project that the admin has no part in."""
    garden, orchard = make_project("garden"), make_project("orchard")
    admin, other = make_member(garden, "admin"), make_member(garden, "labeler")
    membership = Membership.objects.get(user=other)
    assert password_reset_link(membership=membership, by=admin)
    Membership.objects.create(project=orchard, user=other, role=Role.ADMIN)
    with pytest.raises(StateConflict, match="more than this project"):
        password_reset_link(membership=membership, by=admin)
    with pytest.raises(StateConflict, match="more than this project"):
        member_active_set(membership=membership, active=False, by=admin)
    other.refresh_from_db()
    assert other.is_active
    Membership.objects.create(project=orchard, user=admin, role=Role.ADMIN)
    assert password_reset_link(membership=membership, by=admin)
    other.is_staff = True
    other.save()
    with pytest.raises(StateConflict, match="site administration"):
        password_reset_link(membership=Membership.objects.get(pk=membership.pk), by=admin)


def test_a_project_is_unknown_to_members_of_another() -> None:
    make_project("orchard")
    outsider = make_member(make_project("garden"))
    with pytest.raises(NotFound):
        membership_get(user=outsider, slug="orchard")


def test_a_role_outside_the_list_is_not_allowed() -> None:
    project = make_project()
    with pytest.raises(NotAllowed):
        membership_get(user=make_member(project), slug=project.slug, roles=[Role.ADMIN])


def test_the_database_knows_only_the_three_roles_and_one_per_project() -> None:
    project = make_project()
    user = make_member(project)
    with pytest.raises(IntegrityError):
        Membership.objects.create(project=project, user=user, role="admin")
