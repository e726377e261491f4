"""The admins' and researchers' pages."""

from django.urls import URLPattern, path

from labelapp.views import concerns, data, instructions, models, people, prompts, rounds, trainings

_p = "p/<slug:slug>/"
_round = f"{_p}rounds/<int:number>/"
_training = f"{_p}trainings/<int:pk>/"
_model = f"{_p}models/<int:pk>/"
_upload = f"{_p}uploads/<int:pk>/"
_person = f"{_p}people/<int:pk>/"

urlpatterns: list[URLPattern] = [
    path(f"{_p}rounds/", rounds.rounds, name="rounds"),
    path(f"{_p}rounds/new/", rounds.round_new, name="round-new"),
    path(f"{_p}rounds/new/counts/", rounds.round_new_counts, name="round-new-counts"),
    path(_round, rounds.round_page, name="round"),
    path(f"{_round}live/", rounds.round_live, name="round-live"),
    path(f"{_round}labels/", rounds.round_labels, name="round-labels"),
    path(f"{_round}close/", rounds.round_end, name="round-close"),
    path(f"{_round}train/", rounds.round_train, name="training-start"),
    path(f"{_round}answers/", rounds.round_sample_again, name="round-answers"),
    path(f"{_round}scores/", rounds.round_score_again, name="round-scores"),
    path(_training, trainings.training_page, name="training"),
    path(f"{_training}live/", trainings.training_live, name="training-live"),
    path(f"{_training}stop/", trainings.training_end, name="training-stop"),
    path(f"{_training}retry/", trainings.training_again, name="training-retry"),
    path(f"{_p}models/", models.models, name="models"),
    path(_model, models.model, name="model"),
    path(f"{_model}promote/", models.model_promote, name="model-promote"),
    path(f"{_model}refuse/", models.model_refuse, name="model-refuse"),
    path(f"{_model}rollback/", models.model_rollback, name="model-rollback"),
    path(f"{_p}prompts/", prompts.prompts, name="prompts"),
    path(f"{_p}prompts/<int:pk>/sensitive/", prompts.prompt_sensitive, name="prompt-sensitive"),
    path(f"{_p}prompts/upload/", prompts.upload, name="upload"),
    path(_upload, prompts.upload_page, name="upload-preview"),
    path(f"{_upload}apply/", prompts.upload_accept, name="upload-apply"),
    path(f"{_upload}discard/", prompts.upload_refuse, name="upload-discard"),
    path(f"{_p}people/", people.people, name="people"),
    path(f"{_p}people/invite/", people.person_invite, name="person-invite"),
    path(f"{_person}role/", people.person_role, name="person-role"),
    path(f"{_person}active/", people.person_active, name="person-active"),
    path(f"{_person}reset/", people.person_reset, name="person-reset"),
    path(f"{_p}instructions/", instructions.instructions, name="instructions"),
    path(
        f"{_p}instructions/<int:number>/",
        instructions.instructions_version,
        name="instructions-version",
    ),
    path(f"{_p}concerns/", concerns.concerns, name="concerns"),
    path(f"{_p}concerns/<int:pk>/answer/", concerns.thread_answer, name="thread-answer"),
    path(f"{_p}concerns/flags/<int:pk>/done/", concerns.flag_done, name="flag-done"),
    path(f"{_p}data/", data.data, name="data"),
    path(f"{_p}data/freeze/", data.snapshot_new, name="snapshot-new"),
    path(f"{_p}data/<slug:snapshot>/<slug:form>/", data.export, name="export"),
]
