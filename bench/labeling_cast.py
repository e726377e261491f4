"""The project, the round and the labelers of the labeling load, written through Django.

Run inside the site's environment: ``python -m bench.labeling_cast LABELERS`` prints one JSON
object: a token and a session for each labeler.
"""

import json
import sys


def main() -> None:
    """Make what is not there, print the keys."""
    import django

    django.setup()
    from django.contrib.auth import BACKEND_SESSION_KEY, HASH_SESSION_KEY, SESSION_KEY
    from django.contrib.sessions.backends.db import SessionStore

    from bench.labeling_site import SLUG
    from labelapp.models import (
        InstructionVersion,
        Membership,
        ModelVersion,
        Project,
        Prompt,
        Round,
        Run,
        Sample,
        Task,
    )
    from labelapp.models import User as Person
    from labelapp.services.tokens import token_create

    project, new = Project.objects.get_or_create(slug=SLUG, defaults={"name": "Load"})
    if new:
        run = Run.objects.create(project=project, stage="base", state=Run.State.DONE)
        policy = ModelVersion.objects.create(
            project=project, role="policy", number=0, state="current", run=run, sha256="0" * 64
        )
        instructions = InstructionVersion.objects.create(
            project=project, number=1, body="Rank the answers. Be helpful first."
        )
        round_ = Round.objects.create(
            project=project, number=1, policy=policy, instructions=instructions
        )
        prompt = Prompt.objects.create(
            project=project,
            kind="plain",
            use_case="open_qa",
            author="load",
            split="train",
            text="A",
        )
        task = Task.objects.create(
            project=project, round=round_, prompt=prompt, kind="ranking", state="open", position=0
        )
        Sample.objects.create(
            project=project, prompt=prompt, task=task, version=policy, run=run, index=0, text="B",
            finished=True, seed=1, temperature=1.0, max_new_tokens=64,
        )  # fmt: skip
    keys = []
    for number in range(int(sys.argv[1])):
        person, fresh = Person.objects.get_or_create(username=f"load-{number}")
        if fresh:
            Membership.objects.create(project=project, user=person, role="labeler")
        session = SessionStore()
        session[SESSION_KEY] = str(person.pk)
        session[BACKEND_SESSION_KEY] = "django.contrib.auth.backends.ModelBackend"
        session[HASH_SESSION_KEY] = person.get_session_auth_hash()
        session.save()
        _, token = token_create(project=project, labeler=person)
        keys.append({"token": token, "session": session.session_key})
    print(json.dumps(keys))


if __name__ == "__main__":
    main()
