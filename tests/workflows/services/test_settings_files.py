"""What the services are told: files that their own programs accept, and that name no more than the set holds."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import tomllib
from pathlib import Path

import pytest

from triggers.settings import load_settings
from workflows.engine.claims import start_time
from workflows.outbox import load_outbox_settings
from workflows.services import alertmanager, prometheus
from workflows.services.config import ServicesConfig, load_config
from workflows.services.errors import ServicesConfigError
from workflows.services.loop_services import Reconciler, Triggers
from workflows.services.neighbours import Airflow
from workflows.services.service import Launch
from workflows.services.site import Site, open_site
from workflows.services.table import NAMES, chosen, services
from workflows.services.toml_text import toml_text

ALL = frozenset(NAMES)
PEOPLE = {
    "slack_url": "http://127.0.0.1:1/hook",
    "mail": {"host": "smtp.example.org", "sender": "a@b.c", "to": "d@e.f"},
}


def site_in(folder: Path, names: frozenset[str] = ALL, config: ServicesConfig | None = None) -> Site:
    return open_site(config or load_config(), folder, names)


def reachable() -> ServicesConfig:
    config = load_config()
    return config.model_copy(update={"people": config.people.model_validate(PEOPLE)})


def test_prometheus_accepts_its_file(tmp_path: Path) -> None:
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("no promtool: apt-get install prometheus")
    (tmp_path / "door.key").write_text("k")
    path = tmp_path / "prometheus.yml"
    path.write_text(json.dumps(prometheus.settings(site_in(tmp_path), tmp_path)))
    done = subprocess.run([promtool, "check", "config", path], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


def test_prometheus_scrapes_only_what_is_in_the_set(tmp_path: Path) -> None:
    def jobs(*names: str) -> set[str]:
        found = prometheus.settings(site_in(tmp_path, frozenset(names)), tmp_path)
        return {job["job_name"] for job in found["scrape_configs"]} - {"prometheus", "endpoint", "ray"}

    assert jobs() == set()
    assert jobs("minio", "triggers") == {"minio", "triggers"}
    assert jobs(*ALL) == {"minio", "triggers", "reconciler", "alertmanager", "n8n"}


@pytest.mark.parametrize("config", [load_config(), reachable()], ids=["nobody", "people"])
def test_alertmanager_accepts_its_file(tmp_path: Path, config: ServicesConfig) -> None:
    amtool = shutil.which("amtool")
    if amtool is None:
        pytest.skip("no amtool: apt-get install prometheus-alertmanager")
    (tmp_path / "key").write_text("k")
    path = tmp_path / "alertmanager.yml"
    path.write_text(json.dumps(alertmanager.settings(site_in(tmp_path, config=config), str(tmp_path / "key"))))
    done = subprocess.run([amtool, "check-config", path], capture_output=True, text=True, check=False)

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize(
    ("labels", "receiver"),
    [
        (["alertname=Drift", "alias=tiny", "signal=drift"], "door"),
        (["alertname=RunStuck", "alias=tiny"], "people"),
        (["alertname=TargetDown"], "people"),
    ],
)
def test_signals_go_to_the_door_and_failures_to_people(tmp_path: Path, labels: list[str], receiver: str) -> None:
    amtool = shutil.which("amtool")
    if amtool is None:
        pytest.skip("no amtool: apt-get install prometheus-alertmanager")
    path = tmp_path / "alertmanager.yml"
    path.write_text(json.dumps(alertmanager.settings(site_in(tmp_path), str(tmp_path / "key"))))
    done = subprocess.run(
        [amtool, "config", "routes", "test", f"--config.file={path}", *labels],
        capture_output=True,
        text=True,
        check=False,
    )

    assert done.stdout.split() == [receiver], done.stderr


def test_the_door_accepts_its_file(tmp_path: Path) -> None:
    site = site_in(tmp_path)
    command = Triggers(site).launch().command
    settings = load_settings(Path(command[-1]))

    assert settings.storage == site.storage
    assert settings.port == site.config.ports.triggers
    assert set(settings.webhook_secrets) == set(site.secrets.webhooks)


def test_the_reconciler_accepts_its_file_and_tells_n8n_by_its_two_flows(tmp_path: Path) -> None:
    command = Reconciler(site_in(tmp_path)).launch().command
    settings = load_outbox_settings(Path(command[command.index("--settings") + 1]))

    assert [(receiver.name, receiver.events) for receiver in settings.notify] == [
        ("n8n-notify", ("*", "!approval.requested")),
        ("n8n-approve", ("approval.requested",)),
    ]


def test_without_n8n_nobody_is_told(tmp_path: Path) -> None:
    command = Reconciler(site_in(tmp_path, ALL - {"n8n"})).launch().command

    assert load_outbox_settings(Path(command[command.index("--settings") + 1])).notify == ()


def test_the_drivers_of_airflow_act_as_airflow_and_its_environment_holds_no_key_of_theirs(tmp_path: Path) -> None:
    site = site_in(tmp_path)
    variables = Airflow(site).variables()
    told = subprocess.run(
        [variables["EVERLOOP_PYTHON"], "-c", "import os; print(os.environ['EVERLOOP_API_KEY'])"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert told.stdout.strip() == site.secrets.api_keys["Service::airflow"]
    assert site.secrets.minio_loop[1] not in json.dumps(variables)
    assert Path(variables["EVERLOOP_PYTHON"]).stat().st_mode & 0o077 == 0


def test_airflow_is_told_when_and_with_which_fields_a_round_starts(tmp_path: Path) -> None:
    config = load_config()
    loop = config.loop.model_copy(update={"overrides": ("train.num_steps=7",)})
    airflow = config.airflow.model_copy(update={"cron": "* * * * *"})
    site = site_in(tmp_path, config=config.model_copy(update={"loop": loop, "airflow": airflow}))
    variables = Airflow(site).variables()

    assert (variables["EVERLOOP_CRON"], variables["EVERLOOP_OVERRIDES"]) == ("* * * * *", '["train.num_steps=7"]')


def test_a_component_of_airflow_that_is_gone_is_a_death(tmp_path: Path) -> None:
    airflow = Airflow(site_in(tmp_path))
    airflow.folder.mkdir(parents=True)
    assert not airflow.has_died()

    (airflow.folder / "pid").write_text("{}")
    own = {"pid": os.getpid(), "started": start_time(os.getpid())}
    (airflow.folder / "processes.json").write_text(json.dumps({"scheduler": own}))
    assert not airflow.has_died()

    (airflow.folder / "processes.json").write_text(json.dumps({"scheduler": own, "triggerer": {**own, "started": 1}}))
    assert airflow.gone() == ["triggerer"]
    assert airflow.has_died()
    assert airflow.status().detail.startswith("triggerer gone")


def test_the_storage_is_the_bucket_or_a_folder(tmp_path: Path) -> None:
    assert site_in(tmp_path).storage == "s3://everloop/loop?endpoint_override=http://127.0.0.1:9000"
    assert site_in(tmp_path, ALL - {"minio"}).storage == (tmp_path / "storage").as_uri()
    assert "AWS_ACCESS_KEY_ID" not in site_in(tmp_path, ALL - {"minio"}).loop_environment("Service::runner")


def test_a_set_is_named_by_what_is_in_it_or_not() -> None:
    assert chosen((), ()) == ALL
    assert chosen((), ("ray", "airflow")) == ALL - {"ray", "airflow"}
    assert chosen(("minio",), ()) == {"minio"}
    with pytest.raises(ServicesConfigError, match="redis: no such service"):
        chosen(("redis",), ())


def test_what_a_service_needs_stands_before_it(tmp_path: Path) -> None:
    seen: set[str] = set()
    for service in services(site_in(tmp_path)):
        assert set(service.after) <= seen, service.name
        seen.add(service.name)


def test_changed_settings_change_the_digest(tmp_path: Path) -> None:
    path = tmp_path / "settings"
    path.write_text("a")
    launch = Launch(["program"], {"A": "1"}, [path])
    before = launch.digest()
    path.write_text("b")

    assert launch.digest() != before
    assert Launch(["program"], {"A": "2"}, [path]).digest() != launch.digest()


def test_written_toml_is_read_back() -> None:
    document = {
        "text": 'a "quoted" \\ line\nand another',
        "number": 1.5,
        "truth": True,
        "list": ["a", "b"],
        "none": [],
        "table": {"key with space": 1, "deeper": {"x": "y"}},
        "entries": [{"a": 1, "of": {"b": 2}}, {"a": 3}],
    }

    assert tomllib.loads(toml_text(document)) == document
