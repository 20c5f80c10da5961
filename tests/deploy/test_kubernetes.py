"""The Kubernetes manifests are what the API servers' published schemas allow, and no more."""

import json
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.deploy.deployment import ROOT

OVERLAYS = ("one-node", "cluster", "replicas")
WORKLOADS = ("StatefulSet", "Deployment")
POD_MONITOR = Path(__file__).parent / "data/podmonitor.schema.json"
KUSTOMIZE = next(
    (
        command
        for command in (["kubectl", "kustomize"], ["kustomize", "build"])
        if shutil.which(command[0])
    ),
    None,
)
pytestmark = pytest.mark.skipif(KUSTOMIZE is None, reason="neither kubectl nor kustomize is here")


@cache
def manifests(overlay: str) -> list[dict[str, Any]]:
    assert KUSTOMIZE is not None
    command = [*KUSTOMIZE, str(ROOT / "deploy/kubernetes" / overlay)]
    built = subprocess.run(command, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    return list(yaml.safe_load_all(built.stdout))


def closed(schema: Any) -> Any:
    """Return a schema that refuses unknown fields, which an API server drops in silence."""
    if isinstance(schema, list):
        return [closed(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    is_open = "additionalProperties" in schema or "properties" not in schema
    return {k: closed(v) for k, v in schema.items()} | (
        {} if is_open else {"additionalProperties": False}
    )


def pod_of(overlay: str, name: str) -> dict[str, Any]:
    (found,) = (
        m for m in manifests(overlay) if m["kind"] in WORKLOADS and m["metadata"]["name"] == name
    )
    spec: dict[str, Any] = found["spec"]
    return spec


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_each_manifest_keeps_to_its_published_schema(overlay: str) -> None:
    """Kubernetes' own kinds by its strict schemas, the PodMonitor by its operator's."""
    monitor = Draft202012Validator(closed(json.loads(POD_MONITOR.read_text())))
    for manifest in manifests(overlay):
        if manifest["kind"] == "PodMonitor":
            monitor.validate(manifest)
        else:
            kubernetes_validate.validate(manifest, "1.37", strict=True)


def test_a_field_that_does_not_exist_is_found() -> None:
    """Both validations refuse a misspelt field, so that they mean something."""
    misspelt = json.loads(json.dumps(pod_of("cluster", "agent") | {}))
    misspelt["replica"] = 2
    set_ = {"apiVersion": "apps/v1", "kind": "StatefulSet", "spec": misspelt}
    with pytest.raises(kubernetes_validate.ValidationError, match="replica"):
        kubernetes_validate.validate(set_, "1.37", strict=True)
    (monitor,) = (m for m in manifests("cluster") if m["kind"] == "PodMonitor")
    schema = closed(json.loads(POD_MONITOR.read_text()))
    wrong = monitor | {"spec": monitor["spec"] | {"selectors": {}}}
    assert not Draft202012Validator(schema).is_valid(wrong)


@pytest.mark.parametrize("overlay", OVERLAYS)
@pytest.mark.parametrize("name", ["agent", "trainer"])
def test_pods_meet_the_restricted_security_standard(overlay: str, name: str) -> None:
    """Pods meet the namespace's policy, or none would start, and have a read-only root."""
    (namespace,) = (m for m in manifests(overlay) if m["kind"] == "Namespace")
    pod = pod_of(overlay, name)["template"]["spec"]
    (container,) = pod["containers"]

    enforced = namespace["metadata"]["labels"]["pod-security.kubernetes.io/enforce"]
    assert enforced == "restricted"
    assert pod["securityContext"]["runAsNonRoot"]
    assert pod["securityContext"]["seccompProfile"] == {"type": "RuntimeDefault"}
    assert container["securityContext"] == {
        "allowPrivilegeEscalation": False,
        "readOnlyRootFilesystem": True,
        "capabilities": {"drop": ["ALL"]},
    }


def test_replicas_of_the_agent_have_nothing_of_their_own() -> None:
    """Two of them, called in turn by the trainers; the database's password is a file."""
    (workload,) = (
        m["kind"] for m in manifests("replicas") if m["kind"] in WORKLOADS and is_agent(m)
    )
    assert workload == "Deployment"
    agents = pod_of("replicas", "agent")
    (container,) = agents["template"]["spec"]["containers"]
    env = {e["name"]: e["value"] for e in container["env"]}
    mounted = {m["name"]: m["mountPath"] for m in container["volumeMounts"]}
    (trainer,) = pod_of("replicas", "trainer")["template"]["spec"]["containers"]

    assert agents["replicas"] == 2
    assert "volumeClaimTemplates" not in agents
    assert env["AGENT_SERVICE_SERVE_STORE_PASSWORD"].startswith(mounted["store"] + "/")
    assert {"name": "TRAINER_SERVICE_SERVE_AGENT", "value": "dns:///agent:50051"} in trainer["env"]


def test_one_of_the_replicas_serves_whatever_is_drained_or_rolled_out() -> None:
    """A drained node takes one at the most, a new version comes before an old one goes."""
    agents = pod_of("replicas", "agent")
    (budget,) = (
        m["spec"]
        for m in manifests("replicas")
        if m["kind"] == "PodDisruptionBudget" and is_agent(m)
    )
    pods = agents["template"]["metadata"]["labels"]

    assert agents["replicas"] - budget["maxUnavailable"] == 1
    assert agents["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
    (spread,) = agents["template"]["spec"]["topologySpreadConstraints"]
    for selector in (budget["selector"], spread["labelSelector"], agents["selector"]):
        assert selector["matchLabels"].items() <= pods.items()


def is_agent(manifest: dict[str, Any]) -> bool:
    return bool(manifest["metadata"]["name"] == "agent")


def test_each_trainer_has_one_gpu_in_a_cluster_and_none_on_one_node() -> None:
    """A replica is a GPU; the one-node overlay trains on the CPU."""
    limits = {
        overlay: pod_of(overlay, "trainer")["template"]["spec"]["containers"][0]["resources"]
        for overlay in OVERLAYS
    }
    assert limits["cluster"]["limits"]["nvidia.com/gpu"] == 1
    assert "nvidia.com/gpu" not in limits["one-node"]["limits"]
    (container,) = pod_of("one-node", "trainer")["template"]["spec"]["containers"]
    env = {e["name"]: e["value"] for e in container["env"]}
    assert env["TRAINER_SERVICE_SERVE_DEVICE"] == "cpu"


@pytest.mark.parametrize("overlay", OVERLAYS)
def test_names_that_refer_to_one_another_agree(overlay: str) -> None:
    """Budgets, policies and the monitor select pods that are there, by port names."""
    pods = [m["spec"]["template"] for m in manifests(overlay) if m["kind"] in WORKLOADS]
    components = {p["metadata"]["labels"]["app.kubernetes.io/component"] for p in pods}
    ports = {p["name"] for pod in pods for c in pod["spec"]["containers"] for p in c["ports"]}

    for manifest in manifests(overlay):
        text = json.dumps(manifest)
        spec = manifest.get("spec", {})
        if manifest["kind"] in ("PodDisruptionBudget", "NetworkPolicy"):
            selector = spec.get("podSelector") or spec["selector"]
            assert selector["matchLabels"]["app.kubernetes.io/component"] in components
        if manifest["kind"] == "PodMonitor":
            assert {e["port"] for e in spec["podMetricsEndpoints"]} <= ports
            assert set(spec["selector"]["matchExpressions"][0]["values"]) == components
        if manifest["kind"] == "NetworkPolicy":
            named = {p["port"] for rule in spec["ingress"] for p in rule["ports"]}
            assert named <= ports, text
