"""Make a labeler's token for the labeling API, shown this once, or revoke all they have."""

from typing import Any

from django.core.management.base import BaseCommand, CommandError, CommandParser

from labelapp.errors import LabelappError
from labelapp.models import Project, User
from labelapp.services.tokens import LONGEST_DAYS, TOKEN_DAYS, token_create, tokens_revoke


class Command(BaseCommand):
    help = __doc__

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("slug", help="the project's part of its address")
        parser.add_argument("username", help="the labeler's sign-in name")
        parser.add_argument(
            "--days", type=int, default=TOKEN_DAYS, help=f"it lives, 1 to {LONGEST_DAYS}"
        )
        parser.add_argument("--revoke", action="store_true", help="end their tokens instead")

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.filter(slug=options["slug"]).first()
        labeler = User.objects.filter(username=options["username"]).first()
        if project is None or labeler is None:
            raise CommandError("There is no such project, or nobody of that name.")
        if options["revoke"]:
            count = tokens_revoke(project=project, labeler=labeler)
            self.stdout.write(f"Tokens revoked: {count}.")
            return
        try:
            row, token = token_create(project=project, labeler=labeler, days=options["days"])
        except LabelappError as error:
            raise CommandError(error.message) from None
        self.stdout.write(f"{token} (shown this once; until {row.expires_at:%Y-%m-%d})")
        self.stdout.write("Send it as the header: Authorization: Bearer TOKEN")
