"""docker-compose.yml against the one list of processes and the settings: no container engine is needed for that."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

from labelapp import settings
from labelapp.processes import PREPARATIONS, PROCESSES, STAGE_STOP_SECONDS

ROOT = Path(__file__).resolve().parents[2]
COMPOSE = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = {name: service for name, service in SERVICES.items() if service.get("image") == "labelapp"}
VARIABLE = re.compile(r"\$\{(\w+)(:[?-][^}]*)?}")


def test_every_process_of_the_demo_is_a_service_with_the_same_command() -> None:
    for process in PROCESSES:
        assert SERVICES[process.name]["command"] == ["python", "-m", *process.command], process.name


def test_every_process_has_the_time_to_end_that_it_is_given_in_the_demo() -> None:
    for process in PROCESSES:
        grace = SERVICES[process.name]["stop_grace_period"]
        assert int(grace.removesuffix("s")) >= process.stop_seconds, process.name


def test_the_gpu_worker_outlives_the_stage_that_writes_its_checkpoint() -> None:
    seconds = {process.name: process.stop_seconds for process in PROCESSES}
    assert seconds.pop("worker-gpu") >= STAGE_STOP_SECONDS + 5
    assert max(seconds.values()) <= 10  # nothing there is worth a longer wait


def test_no_service_of_ours_runs_anything_that_the_demo_does_not() -> None:
    known = [["python", "-m", *process.command] for process in PROCESSES]
    known += [["python", "manage.py", *arguments] for arguments in PREPARATIONS]
    for name, service in OURS.items():
        assert service["command"] in known, name


@pytest.mark.parametrize("name", sorted(OURS))
def test_a_service_sets_only_variables_that_settings_read(name: str) -> None:
    assert set(OURS[name]["environment"]) <= set(settings.environment.declared)


@pytest.mark.parametrize("name", sorted(OURS))
def test_a_service_sets_every_variable_that_production_needs(name: str) -> None:
    variables = OURS[name]["environment"]
    required = {v.name for v in settings.environment.declared.values() if v.required}
    assert required <= set(variables)
    assert variables["LABELAPP_MODE"] == "production"
    for variable in required:
        assert ":?" in variables[variable], f"{variable} must be refused where it is unset"


def test_no_secret_has_a_value_in_the_file() -> None:
    for name, service in SERVICES.items():
        for variable, text in (service.get("environment") or {}).items():
            if re.search("KEY|PASSWORD|AUTH", variable):
                assert VARIABLE.fullmatch(text), f"{name}: {variable}"
                assert ":?" in text, f"{name}: {variable}"


def test_what_refuses_to_be_unset_says_what_to_do() -> None:
    for _, rule in VARIABLE.findall((ROOT / "docker-compose.yml").read_text()):
        if rule.startswith(":?"):
            assert rule.startswith(":?set "), rule


def test_servers_are_watched_and_ours_wait_for_them() -> None:
    for name in ("db", "redis", "web"):
        assert SERVICES[name]["healthcheck"]["test"][0] == "CMD"
    for name, service in OURS.items():
        assert service["depends_on"]["db"] == {"condition": "service_healthy"}, name
        if name != "migrate":
            waits = service["depends_on"]["migrate"]
            assert waits == {"condition": "service_completed_successfully"}, name


def test_the_gpu_worker_reserves_a_gpu_and_can_be_multiplied() -> None:
    deploy = SERVICES["worker-gpu"]["deploy"]
    (device,) = deploy["resources"]["reservations"]["devices"]
    assert (device["driver"], device["capabilities"]) == ("nvidia", ["gpu"])
    assert VARIABLE.fullmatch(deploy["replicas"])
    others = [name for name in OURS if "deploy" in OURS[name]]
    assert others == ["worker-gpu", "serve"]
    (serving,) = SERVICES["serve"]["deploy"]["resources"]["reservations"]["devices"]
    assert serving == device


def test_web_and_workers_share_the_store() -> None:
    for name, service in OURS.items():
        place = service["environment"]["LABELAPP_STORE"]
        assert f"store:{place}" in service["volumes"], name
    named = {volume.split(":")[0] for s in SERVICES.values() for volume in s.get("volumes", [])}
    assert {name for name in named if not name.startswith(".")} == set(COMPOSE["volumes"])


def test_only_the_proxy_is_reached_from_outside_and_tls_ends_there() -> None:
    assert [name for name, service in SERVICES.items() if "ports" in service] == ["proxy"]
    caddyfile = (ROOT / "deploy" / "Caddyfile").read_text()
    assert (
        f"reverse_proxy web:{settings.environment.declared['LABELAPP_PORT'].default}" in caddyfile
    )
    for service in OURS.values():
        assert service["environment"]["TRUST_PROXY_TLS"] == "1"


def test_the_proxy_has_pages_of_its_own_for_when_nobody_answers() -> None:
    caddyfile = (ROOT / "deploy" / "Caddyfile").read_text()
    pages = re.findall(r"rewrite @\w+ (/\w+\.html)", caddyfile)
    assert sorted(pages) == ["/away.html", "/large.html"]
    (folder,) = re.findall(r"root \* (\S+)", caddyfile)
    assert f"./deploy/pages:{folder}:ro" in SERVICES["proxy"]["volumes"]
    for page in pages:
        text = (ROOT / "deploy" / "pages" / page[1:]).read_text()
        assert "<html lang=" in text and '<section lang="de">' in text
        assert not re.search(r"(src|href)=[\"'][^\"']", text), "it needs nothing else"


def test_an_empty_variable_counts_as_unset() -> None:
    from labelapp.environment import Environment

    environment = Environment({"MIN_RANKINGS": ""})
    assert environment.integer("MIN_RANKINGS", "Rankings.", 8) == 8
    assert not environment.problems
