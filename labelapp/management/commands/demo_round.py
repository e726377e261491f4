"""Run a whole round with simulated labelers against the running stack, and tell the figures."""

from pathlib import Path
from typing import Any

from django.conf import settings
from django.core.management.base import BaseCommand, CommandError, CommandParser

from labelapp.errors import LabelappError
from labelapp.models import Project
from labelapp.profiles import PROFILES
from labelapp.simulation.crew import DEMONSTRATIONS, Plan
from labelapp.simulation.report import report_sentence, report_table, report_write
from labelapp.simulation.round import AGAIN, DemoRound, RoundPlan, one_at_a_time
from labelapp.simulation.utilities import UTILITIES
from labelapp.tasks import runs_nudge


class Command(BaseCommand):
    help = __doc__

    def add_arguments(self, parser: CommandParser) -> None:
        add = parser.add_argument
        add("--project", default="demo", help="slug of the project")
        add("--url", help="where labelapp answers (default: here, at LABELAPP_PORT)")
        add("--preference", choices=sorted(UTILITIES), default="concise")
        add("--demonstrations", type=Path, default=DEMONSTRATIONS, metavar="FILE")
        add("--labelers", type=int, default=3, help="how many at once")
        add("--rankings", type=int, default=200, help="ranking tasks")
        add("--both", type=int, default=40, help="ranking tasks that two labelers do")
        add("--k", type=int, default=4, help="answers to rank, and per test prompt")
        add("--max-new-tokens", type=int, default=48, help="longest answer")
        add("--profile", choices=sorted(PROFILES), default="demo", help="of the training")
        add("--seed", type=int, default=0, help="of the labelers' noise")

    def handle(self, *args: Any, **options: Any) -> None:
        project = Project.objects.filter(slug=options["project"]).first()
        if project is None:
            raise CommandError(f"There is no project {options['project']!r}.")
        labeling = Plan(
            url=options["url"] or f"http://127.0.0.1:{settings.LABELAPP_PORT}",
            count=options["labelers"],
            preference=options["preference"],
            demonstrations=options["demonstrations"],
            until_empty=True,
            seed=options["seed"],
        )
        plan = RoundPlan(
            labeling,
            **{n: options[n] for n in ("rankings", "both", "k", "max_new_tokens", "profile")},
        )
        path = Path(settings.LABELAPP_VAR) / "demo-round.json"
        try:
            with one_at_a_time(path.with_suffix(".lock")):
                steps = DemoRound(project, plan, say=self._say, nudge=runs_nudge)
                figures = steps.run()
                report_write(figures, path)
                steps.close()
        except LabelappError as error:
            raise CommandError(error.message) from None
        except KeyboardInterrupt:
            raise CommandError(f"Stopped. {AGAIN}", returncode=130) from None
        self._say(f"\n{report_table(figures)}\n\n{report_sentence(figures)}")
        self._say(f"The figures are in {path}. Promote the new policy on the models page.")

    def _say(self, line: str) -> None:
        self.stdout.write(line)
        self.stdout.flush()
