"""All models, by noun. Every row hangs on a project."""

from labelapp.models.assignments import LETTERS, Assignment, Task
from labelapp.models.labels import Demonstration, Ranking, RankingPlace
from labelapp.models.live import LivePrompt
from labelapp.models.people import Invite, Membership, Role, User
from labelapp.models.projects import InstructionVersion, Project
from labelapp.models.prompts import Prompt, PromptKind, Split, Upload, UseCase
from labelapp.models.registry import ModelVersion, Run, RunInput, Snapshot, WorkerSign
from labelapp.models.rounds import Round, Training
from labelapp.models.samples import Sample

__all__ = [
    "LETTERS",
    "Assignment",
    "Demonstration",
    "InstructionVersion",
    "Invite",
    "LivePrompt",
    "Membership",
    "ModelVersion",
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
    "Snapshot",
    "Split",
    "Task",
    "Training",
    "Upload",
    "UseCase",
    "User",
    "WorkerSign",
]
