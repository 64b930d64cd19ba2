"""The manifests for Kubernetes are valid, and stop, restrict and spread the workers with care."""

from __future__ import annotations

import re
from typing import Any

import kubernetes_validate
import pytest
import yaml

from .conftest import DEPLOY
from .test_compose import services

FOLDER = DEPLOY / "kubernetes"
FILES = sorted(path.name for path in FOLDER.glob("*.yaml"))
VERSIONS = ("1.27", "1.36")
"""The oldest and the newest Kubernetes that the manifests are checked for."""


def manifest(name: str) -> dict[str, Any]:
    """Return the one object that a file holds."""
    [found] = yaml.safe_load_all((FOLDER / name).read_text(encoding="utf-8"))
    return dict(found)


def pod() -> dict[str, Any]:
    return dict(manifest("deployment.yaml")["spec"]["template"]["spec"])


def container() -> dict[str, Any]:
    [found] = pod()["containers"]
    return dict(found)


@pytest.mark.parametrize("name", FILES)
def test_kubernetes_schema_accepts_the_manifest(name: str) -> None:
    """No field is missing, unknown, or of a wrong type."""
    for version in VERSIONS:
        assert kubernetes_validate.validate(manifest(name), version, strict=True) == version


def test_the_schema_notices_an_unknown_field() -> None:
    wrong = manifest("deployment.yaml")
    wrong["spec"]["template"]["spec"]["terminationGracePeriod"] = 90
    with pytest.raises(kubernetes_validate.ValidationError, match="terminationGracePeriod"):
        kubernetes_validate.validate(wrong, VERSIONS[-1], strict=True)


def test_the_grace_period_is_longer_than_the_longest_turn() -> None:
    """The hook waits for the turns that run. Then there is time left for SIGTERM and the leases."""
    limit = float(manifest("configmap.yaml")["data"]["WORKER_TURN_LIMIT"])
    assert pod()["terminationGracePeriodSeconds"] >= limit + 20
    assert container()["lifecycle"]["preStop"]["exec"]["command"] == ["python", "/app/worker.py", "--drain"]


def test_the_probes_ask_what_the_worker_answers() -> None:
    """Alive as long as the event loop runs; ready if the server answers, too."""
    [port] = container()["ports"]
    assert str(port["containerPort"]) == manifest("configmap.yaml")["data"]["WORKER_PORT"]
    for probe, path in (("startupProbe", "/live"), ("livenessProbe", "/live"), ("readinessProbe", "/ready")):
        assert container()[probe]["httpGet"] == {"path": path, "port": port["name"]}


def test_the_worker_has_no_rights() -> None:
    """Not root, no capabilities, a file system that cannot be written, and no token for Kubernetes."""
    assert pod()["automountServiceAccountToken"] is False
    inside = pod()["securityContext"]
    assert inside["runAsNonRoot"] is True
    assert inside["seccompProfile"] == {"type": "RuntimeDefault"}
    # The user of the image.
    dockerfile = (DEPLOY / "worker/Dockerfile").read_text(encoding="utf-8")
    assert f"\nUSER {inside['runAsUser']}:{inside['runAsGroup']}\n" in dockerfile
    assert container()["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }
    assert [mount["mountPath"] for mount in container()["volumeMounts"]] == ["/tmp"]
    assert {"cpu", "memory"} <= container()["resources"]["requests"].keys()
    assert "memory" in container()["resources"]["limits"]


def test_all_objects_are_about_the_same_pods() -> None:
    """Deployment, disruption budget and network policy select the pods; the settings have the names that they use."""
    labels = manifest("deployment.yaml")["spec"]["template"]["metadata"]["labels"]
    assert manifest("deployment.yaml")["spec"]["selector"]["matchLabels"] == labels
    assert manifest("disruption-budget.yaml")["spec"]["selector"]["matchLabels"] == labels
    assert manifest("network-policy.yaml")["spec"]["podSelector"]["matchLabels"] == labels
    sources = [next(iter(source.values()))["name"] for source in container()["envFrom"]]
    assert sources == [manifest(name)["metadata"]["name"] for name in ("configmap.yaml", "secret.example.yaml")]
    budget, replicas = manifest("disruption-budget.yaml")["spec"], manifest("deployment.yaml")["spec"]["replicas"]
    assert budget["maxUnavailable"] < replicas


def test_workers_are_reached_by_nobody() -> None:
    """No ingress. Egress to the name service, to the server, and to the model, but not to the cloud's metadata."""
    policy = manifest("network-policy.yaml")["spec"]
    assert sorted(policy["policyTypes"]) == ["Egress", "Ingress"]
    assert policy["ingress"] == []
    ports = [[port["port"] for port in rule["ports"]] for rule in policy["egress"]]
    assert ports == [[53, 53], [6379, 26379], [443]]
    assert policy["egress"][2]["to"][0]["ipBlock"]["except"] == ["169.254.0.0/16"]


def test_examples_cannot_be_mistaken_for_real_ones() -> None:
    """Hosts end in .invalid, and addresses are those for documentation."""
    [url] = manifest("secret.example.yaml")["stringData"].values()
    assert re.fullmatch(r"rediss://EXAMPLE-\w+:EXAMPLE-\w+@[\w.]+\.invalid:6379/0", url)
    assert container()["image"].split("/")[0].endswith(".invalid")
    assert manifest("network-policy.yaml")["spec"]["egress"][1]["to"] == [{"ipBlock": {"cidr": "192.0.2.0/24"}}]


def test_the_settings_are_those_of_the_worker() -> None:
    """The worker documents each variable that a manifest or a compose file sets."""
    program = (DEPLOY / "worker/worker.py").read_text(encoding="utf-8")
    known = set(re.findall(r"^    ([A-Z_]+)  ", program.split('"""')[1], re.MULTILINE))
    given = {*manifest("configmap.yaml")["data"], *manifest("secret.example.yaml")["stringData"]}
    for file in ("docker-compose.yml", "docker-compose.sentinel.yml", "docker-compose.cluster.yml"):
        given |= services(file)["worker"]["environment"].keys()
    assert given <= known
    assert known == set(re.findall(r'(?:setting\(|environ\[)"([A-Z_]+)"', program))
