"""All models, by noun. Every row hangs on a project."""

from labelapp.models.assignments import LETTERS, Assignment, Standing, Task
from labelapp.models.concerns import Flag, Note, Thread
from labelapp.models.labels import Demonstration, Ranking, RankingPlace
from labelapp.models.people import ApiToken, Invite, Membership, Role, User
from labelapp.models.projects import InstructionVersion, Project
from labelapp.models.prompts import Prompt, PromptKind, Split, Upload, UseCase
from labelapp.models.registry import ModelVersion, Run, RunInput, Snapshot, WorkerSign
from labelapp.models.rounds import Round, Training
from labelapp.models.samples import Sample
from labelapp.models.sensitive import Sensitive

__all__ = [
    "LETTERS",
    "ApiToken",
    "Assignment",
    "Demonstration",
    "Flag",
    "InstructionVersion",
    "Invite",
    "Membership",
    "ModelVersion",
    "Note",
    "Project",
    "Prompt",
    "PromptKind",
    "Ranking",
    "RankingPlace",
    "Role",
    "Round",
    "Run",
    "RunInput",
    "Sample",
    "Sensitive",
    "Snapshot",
    "Split",
    "Standing",
    "Task",
    "Thread",
    "Training",
    "Upload",
    "UseCase",
    "User",
    "WorkerSign",
]
