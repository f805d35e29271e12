"""docker-compose.yml, checked as far as it can be without an engine.

Against the specification's schema, our settings, the Dockerfile, and rules of our own: no default passwords, nothing
reachable from outside.
"""

import importlib.resources
import importlib.util
import json
import re
import tomllib

import jsonschema
import pytest
import yaml

from backend.settings import REPOSITORY, Settings
from backend.web import callers

VARIABLE = re.compile(r"\$\{(?P<name>\w+)(?::(?P<kind>[-?])(?P<rest>[^}]*))?\}")
SECRETS = {"POSTGRES_PASSWORD", "REDIS_PASSWORD", "S3_SECRET_KEY"}
ONCE = {"migrate", "bucket"}


class UniqueKeys(yaml.SafeLoader):
    """A loader for which a key given twice is an error, as it is for compose."""

    def construct_mapping(self, node, deep=False):
        keys = [key.value for key, _ in node.value if key.value != "<<"]
        assert len(keys) == len(set(keys)), f"a key is given twice: {keys}"
        return super().construct_mapping(node, deep)


def text():
    return (REPOSITORY / "docker-compose.yml").read_text()


def filled(match):
    return match["rest"] if match["kind"] == "-" else "secret"


@pytest.fixture(scope="module")
def compose():
    """The file as compose reads it with every required variable set."""
    return yaml.load(VARIABLE.sub(filled, text()), UniqueKeys)


@pytest.fixture(scope="module")
def services(compose):
    return compose["services"]


@pytest.fixture(scope="module")
def stages():
    """Name of each stage of the Dockerfile and its instructions."""
    parts = re.split(r"(?m)^FROM \S+ AS (\w+)$", (REPOSITORY / "Dockerfile").read_text())
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def environment(service):
    return service.get("environment", {})


def test_it_follows_the_compose_specification(compose):
    if importlib.util.find_spec("check_jsonschema") is None:
        pytest.skip("the schema comes with the package check-jsonschema, which is not installed")
    vendored = importlib.resources.files("check_jsonschema") / "builtin_schemas" / "vendor" / "compose-spec.json"
    validator = jsonschema.Draft202012Validator(json.loads(vendored.read_text()))
    assert [f"{error.json_path}: {error.message}" for error in validator.iter_errors(compose)] == []


def test_secrets_are_required_and_have_no_default():
    found = {match["name"]: match["kind"] for match in VARIABLE.finditer(text())}
    assert {name for name, kind in found.items() if kind == "?"} == SECRETS
    assert all(found.values()), "a variable is neither required nor has a default"
    for line in text().splitlines():
        if re.match(r"(?i)\s*\w*(password|secret)\w*:", line):
            assert any(f"${{{secret}:?" in line for secret in SECRETS), line


def test_every_eyepiece_variable_is_a_setting(services):
    given = {name for service in services.values() for name in environment(service) if name.startswith("EYEPIECE_")}
    assert given
    assert given <= {f"EYEPIECE_{field.upper()}" for field in Settings.model_fields}


@pytest.mark.parametrize("name", ["migrate", "web", "worker", "live", "worker-cpu", "live-cpu"])
def test_the_environment_of_our_services_makes_settings(services, name):
    values = {key.removeprefix("EYEPIECE_").lower(): value for key, value in environment(services[name]).items()}
    settings = Settings(**values)
    assert settings.database_url.startswith("postgresql+psycopg2://eyepiece:secret@postgres:")
    assert settings.redis_url == "redis://:secret@redis:6379/0"
    assert settings.blob_url == "s3://eyepiece"


def test_nothing_is_reachable_from_outside_this_machine(services):
    published = [port for service in services.values() for port in service.get("ports", [])]
    assert published == ["127.0.0.1:3000:3000"]
    assert not any("network_mode" in service or service.get("privileged") for service in services.values())


def test_people_sign_in_and_proxies_are_counted(compose, services):
    values = environment(services["web"])
    assert (values["EYEPIECE_ACCESS"], values["EYEPIECE_PROXIES"]) == ("accounts", 2)
    settings = Settings(access=values["EYEPIECE_ACCESS"], public_url=values["EYEPIECE_PUBLIC_URL"])
    assert callers.public_origins(settings) == ("http://localhost:3000",)
    (config,) = services["proxy"]["configs"]
    assert "trusted_proxies static private_ranges" in compose["configs"][config["source"]]["content"]


def test_images_are_named_with_a_version(services):
    for name, service in services.items():
        if "build" not in service:
            assert re.fullmatch(r"[\w./-]+:(?!latest$)\S+", service["image"]), name


def test_what_is_built_exists_in_the_dockerfile(services, stages):
    for service in services.values():
        if "build" in service:
            assert service["build"]["target"] in stages
            for argument in service["build"].get("args", {}):
                assert f"ARG {argument}" in stages[service["build"]["target"]]


def test_what_the_dockerfile_copies_exists_and_is_not_ignored(stages):
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    let_in = [line.removeprefix("!") for line in lines if line.startswith("!")]
    for line in re.findall(r"(?m)^COPY (?!--from)(.*)$", "".join(stages.values())):
        for source in line.split()[:-1]:
            assert (REPOSITORY / source).exists(), source
            assert source == "." or source.rstrip("/") in let_in, source


def test_dependencies_are_services_whose_condition_can_come_true(services):
    for name, service in services.items():
        for needed, rule in service.get("depends_on", {}).items():
            other = services[needed]
            assert "profiles" not in other, f"{name} waits for {needed}, which may not be started"
            if rule["condition"] == "service_healthy":
                assert "healthcheck" in other, f"{name} waits for {needed}, which never says that it is healthy"
            else:
                assert rule["condition"] == "service_completed_successfully"
                assert other["restart"] == "no", f"{name} waits for {needed} to end, which starts again"


def test_services_restart_unless_they_run_once(services):
    assert {name for name, service in services.items() if service["restart"] == "no"} == ONCE
    assert {service["restart"] for name, service in services.items() if name not in ONCE} == {"unless-stopped"}


def test_volumes_are_declared_and_used(compose, services):
    mounted = [volume.split(":") for service in services.values() for volume in service.get("volumes", [])]
    assert {source for source, *_ in mounted if not source.startswith(".")} == set(compose["volumes"])
    assert all(mode == ["ro"] for source, _, *mode in mounted if source.startswith("."))


def test_every_setting_of_a_url_names_a_service(services):
    for service in services.values():
        for name, value in environment(service).items():
            if name == "EYEPIECE_PUBLIC_URL":
                continue  # what people open
            for host in re.findall(r"^(?:http|redis|postgresql\+psycopg2)://(?:[^@/]*@)?([\w.-]+)", str(value)):
                assert host in services


def test_commands_name_modules_that_exist(services, stages):
    commands = [service.get("command", []) for service in services.values()]
    commands += [json.loads(found) for found in re.findall(r"(?m)^CMD (.*)$", "".join(stages.values()))]
    modules = [command[2] for command in commands if command[:2] == ["python", "-m"]]
    modules += [command[1].partition(":")[0] for command in commands if command[:1] == ["uvicorn"]]
    assert modules
    for module in modules:
        path = REPOSITORY / module.replace(".", "/")
        assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), module


@pytest.mark.parametrize("name", ["worker", "live"])
def test_a_gpu_process_gets_one_gpu_and_its_cpu_twin_none(services, name):
    device = services[name]["deploy"]["resources"]["reservations"]["devices"]
    assert device == [{"driver": "nvidia", "device_ids": ["0"], "capabilities": ["gpu"]}]
    assert environment(services[name])["EYEPIECE_DEVICE"] == "cuda"
    twin = services[f"{name}-cpu"]
    assert environment(twin)["EYEPIECE_DEVICE"] == "cpu"
    assert "deploy" not in twin
    assert twin.get("command") == services[name].get("command")


def test_images_contain_every_package_of_ours():
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    patterns = tomllib.loads((REPOSITORY / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]["find"]
    assert {f"!{pattern.removesuffix('*')}" for pattern in patterns["include"]} <= set(lines)
