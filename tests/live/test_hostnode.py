"""What kubectl says about pods of the host node: the same as about a kubelet's."""

from __future__ import annotations

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from labkit.clock import wait_until
from labkit.cluster import RunningLab
from labkit.cluster.component import read_state
from labkit.kube import CONFIG_MAPS, EVENTS, NAMESPACES, PODS
from labkit.names import ADDON_NODE_LABEL, HOST_NODE

pytestmark = [pytest.mark.live, pytest.mark.timeout(900)]

NAMESPACE = "hostnode-test"
PORT = 18080
READY_SECONDS = 120.0

TWO_LIVES = """
import os, pathlib, time
lives = pathlib.Path('/data/lives')
life = len(lives.read_text()) if lives.exists() else 0
lives.write_text('x' * (life + 1))
print('life', life, flush=True)
if life == 0:
    os._exit(3)
time.sleep(1000)
"""
DEAF = """
import signal, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print('deaf', flush=True)
time.sleep(1000)
"""
SICK_ONCE = """
import pathlib, time
sick = pathlib.Path('/data/sick')
second_life = sick.exists()
sick.unlink(missing_ok=True)
time.sleep(2)
if not second_life:
    sick.touch()
time.sleep(1000)
"""
WHO_AM_I = """
from labkit.kube import Kube
review = {'kind': 'SelfSubjectReview', 'apiVersion': 'authentication.k8s.io/v1'}
answer = Kube.in_cluster().request('POST', '/apis/authentication.k8s.io/v1/selfsubjectreviews', body=review)
print(answer['status']['userInfo']['username'])
"""

ADDRESS = {"name": "ADDRESS", "valueFrom": {"fieldRef": {"fieldPath": "status.hostIP"}}}


def spec_of(*containers: dict[str, Any], **fields: Any) -> dict[str, Any]:
    return {
        "nodeSelector": {ADDON_NODE_LABEL: "true"},
        "tolerations": [{"operator": "Exists"}],
        "terminationGracePeriodSeconds": 2,
        "containers": [{"image": "labkit/services:0.1.0", **container} for container in containers],
        **fields,
    }


def pod_of(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}


def python(program: str, *, name: str = "main", **fields: Any) -> dict[str, Any]:
    return {"name": name, "command": ["python", "-c", program], "env": [ADDRESS], **fields}


def server(port: int = PORT, **fields: Any) -> dict[str, Any]:
    return {
        "name": "web",
        "command": ["python", "-m", "http.server"],
        "args": ["--bind", "$(ADDRESS)", str(port)],
        "env": [ADDRESS],
        "ports": [{"name": "http", "containerPort": port}],
        "readinessProbe": {"httpGet": {"path": "/", "port": "http"}, "periodSeconds": 1},
        **fields,
    }


def deployment(name: str, spec: dict[str, Any]) -> dict[str, Any]:
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": NAMESPACE},
        "spec": {
            "replicas": 1,
            "strategy": {"type": "Recreate"},
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": {"labels": {"app": name}}, "spec": spec},
        },
    }


class Cluster:
    """The lab and a namespace in it."""

    def __init__(self, lab: RunningLab) -> None:
        self.lab = lab
        self.kube = lab.kube

    def kubectl(self, *arguments: str) -> str:
        done = self.lab.kubectl("-n", NAMESPACE, *arguments, timeout_seconds=READY_SECONDS + 60)
        assert done.returncode == 0, done.stderr
        return done.stdout

    def pod(self, name: str) -> dict[str, Any]:
        return self.kube.get(PODS, name, NAMESPACE)

    def pods(self, app: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self.kube.list(PODS, NAMESPACE, label_selector=f"app={app}")["items"]
        return found

    def events(self, name: str) -> dict[str, str]:
        """Return reason → message of all events about a pod."""
        found = self.kube.list(EVENTS, NAMESPACE, field_selector=f"involvedObject.name={name}")["items"]
        return {event["reason"]: event["message"] for event in found}

    def wait_event(self, name: str, reason: str) -> str:
        """Wait for an event about a pod and return its message: it is written after the deed, and after the status."""
        return wait_until(
            lambda: self.events(name).get(reason),
            timeout_seconds=READY_SECONDS,
            what=f"the event {reason} of {name}",
            found=lambda: str(self.events(name)),
        )

    def wait_pod(self, name: str, condition: Callable[[dict[str, Any]], bool], what: str) -> dict[str, Any]:
        last: dict[str, Any] = {}

        def holds() -> bool:
            last.clear()
            last.update(self.kube.find(PODS, name, NAMESPACE) or {})
            return bool(last) and condition(last)

        wait_until(holds, timeout_seconds=READY_SECONDS, what=what, found=lambda: json.dumps(last.get("status")))
        return last

    def run_to_end(self, name: str, spec: dict[str, Any]) -> dict[str, Any]:
        self.kube.create(PODS, pod_of(name, {"restartPolicy": "Never", **spec}))
        return self.wait_pod(name, lambda pod: phase(pod) in ("Succeeded", "Failed"), f"pod {name} to end")

    @contextmanager
    def background(self, *arguments: str) -> Iterator[subprocess.Popen[str]]:
        command = [str(self.lab.folder.bin / "kubectl"), "-n", NAMESPACE, *arguments]
        process = subprocess.Popen(
            command,
            env=self.lab.environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        try:
            yield process
        finally:
            process.kill()
            process.wait()
            assert process.stdout is not None
            process.stdout.close()


def phase(pod: dict[str, Any]) -> str:
    return str(pod.get("status", {}).get("phase"))


def status_of(pod: dict[str, Any], container: int = 0) -> dict[str, Any]:
    statuses = pod.get("status", {}).get("containerStatuses") or [{}]
    found: dict[str, Any] = statuses[container]
    return found


def waiting_reason(pod: dict[str, Any]) -> str:
    return str(status_of(pod).get("state", {}).get("waiting", {}).get("reason", ""))


def is_ready(pod: dict[str, Any]) -> bool:
    return any(c["type"] == "Ready" and c["status"] == "True" for c in pod.get("status", {}).get("conditions") or ())


def answers(address: str, port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://{address}:{port}/", timeout=10) as response:
            return bool(response.status == 200)
    except OSError:
        return False


def listeners(address: str, port: int) -> int:
    """Count sockets that listen there."""
    wanted = f"{int.from_bytes(socket.inet_aton(address), 'little'):08X}:{port:04X}"
    lines = Path("/proc/net/tcp").read_text().splitlines()[1:]
    return sum(1 for line in lines if line.split()[1] == wanted and line.split()[3] == "0A")


@pytest.fixture(scope="module")
def cluster(lab: RunningLab) -> Iterator[Cluster]:
    if lab.backend != "local":
        pytest.skip("the host node is the local backend's")
    lab.kube.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}})
    wait_until(
        lambda: lab.kube.find(CONFIG_MAPS, "kube-root-ca.crt", NAMESPACE),
        timeout_seconds=READY_SECONDS,
        what="the namespace to be furnished",
    )
    yield Cluster(lab)
    lab.kube.delete(NAMESPACES, NAMESPACE)
    wait_until(
        lambda: lab.kube.find(NAMESPACES, NAMESPACE) is None, timeout_seconds=READY_SECONDS, what="the namespace to go"
    )


@pytest.fixture(scope="module")
def web(cluster: Cluster) -> Cluster:
    """Return the cluster with a Deployment and a Service ``web``."""
    cluster.kube.apply(deployment("web", spec_of(server())))
    cluster.kube.apply(
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web", "namespace": NAMESPACE},
            "spec": {"selector": {"app": "web"}, "ports": [{"port": PORT, "targetPort": "http"}]},
        }
    )
    assert "successfully rolled out" in cluster.kubectl("rollout", "status", "deployment/web", "--timeout=120s")
    return cluster


# --- the commands of the quickstart ----------------------------------------------------------------------


def test_get_pods_shows_a_running_pod_on_the_host_node(web: Cluster) -> None:
    line = web.kubectl("get", "pods", "-l", "app=web", "-o", "wide", "--no-headers").split()
    assert line[1:4] == ["1/1", "Running", "0"]
    assert HOST_NODE in line
    pod = web.pods("web")[0]
    assert "podIP" not in pod["status"]
    conditions = {c["type"]: c["status"] for c in pod["status"]["conditions"]}
    assert conditions == dict.fromkeys(
        ("PodReadyToStartContainers", "Initialized", "Ready", "ContainersReady", "PodScheduled"), "True"
    )


def test_get_events_tells_the_life_of_a_pod(web: Cluster) -> None:
    wanted = (
        r"Normal +Scheduled +pod/web-\S+ +Successfully assigned",
        r"Normal +Started +pod/web-\S+ +Started container web",
    )
    # Who writes events does so after the deed.
    wait_until(
        lambda: all(re.search(pattern, web.kubectl("get", "events")) for pattern in wanted),
        timeout_seconds=READY_SECONDS,
        what="both events",
        found=lambda: web.kubectl("get", "events"),
    )


def test_logs_shows_what_the_container_wrote(web: Cluster) -> None:
    assert answers(web.lab.address, PORT)
    assert '"GET / HTTP/1.1" 200' in web.kubectl("logs", "deployment/web")
    assert len(web.kubectl("logs", "deployment/web", "--tail=1").splitlines()) == 1
    assert re.match(r"\d{4}-\d\d-\d\dT\S+Z ", web.kubectl("logs", "-l", "app=web", "--timestamps"))


def test_logs_follow_shows_new_lines_as_they_come(web: Cluster) -> None:
    path = f"/{time.time_ns()}"
    seen = ""
    with web.background("logs", "deployment/web", "-f", "--tail=0") as follower:
        assert follower.stdout is not None
        descriptor = follower.stdout.fileno()
        os.set_blocking(descriptor, False)

        def shown() -> bool:
            nonlocal seen
            # Asked again and again: the follower may not have been there yet the first time.
            with pytest.raises(urllib.error.HTTPError):
                urllib.request.urlopen(f"http://{web.lab.address}:{PORT}{path}", timeout=10)
            with contextlib.suppress(BlockingIOError):
                seen += os.read(descriptor, 2**16).decode()
            return path in seen

        wait_until(shown, timeout_seconds=READY_SECONDS, poll_seconds=0.3, what="a request to show in the followed log")


def test_logs_previous_is_refused_before_a_restart(cluster: Cluster) -> None:
    cluster.kube.create(PODS, pod_of("first-life", spec_of(python("import time; time.sleep(1000)"))))
    cluster.wait_pod("first-life", is_ready, "the pod to run")
    done = cluster.lab.kubectl("-n", NAMESPACE, "logs", "-p", "first-life")
    assert done.returncode == 1
    assert 'previous terminated container "main" in pod "first-life" not found' in done.stderr
    cluster.kubectl("delete", "pod", "first-life")


def test_logs_previous_shows_the_life_before(cluster: Cluster) -> None:
    volume = {"name": "data", "emptyDir": {}}
    mount = {"name": "data", "mountPath": "/data"}
    cluster.kube.create(PODS, pod_of("lives", spec_of(python(TWO_LIVES, volumeMounts=[mount]), volumes=[volume])))
    pod = cluster.wait_pod("lives", lambda pod: status_of(pod).get("restartCount") == 1 and is_ready(pod), "a restart")
    ended = status_of(pod)["lastState"]["terminated"]
    assert (ended["exitCode"], ended["reason"]) == (3, "Error")
    assert cluster.kubectl("logs", "lives") == "life 1\n"
    assert cluster.kubectl("logs", "lives", "-p") == "life 0\n"
    line = cluster.kubectl("get", "pods", "lives", "--no-headers").split()
    assert line[1:4] == ["1/1", "Running", "1"]
    cluster.kubectl("delete", "pod", "lives")


def test_logs_follow_ends_with_the_container(cluster: Cluster) -> None:
    program = "import time; print('begin', flush=True); time.sleep(3); print('end', flush=True)"
    cluster.kube.create(PODS, pod_of("short", spec_of(python(program), restartPolicy="Never")))
    cluster.wait_pod("short", lambda pod: phase(pod) == "Running", "the pod to run")
    with cluster.background("logs", "-f", "short") as follower:
        output, _ = follower.communicate(timeout=READY_SECONDS)
    assert output == "begin\nend\n"
    assert follower.returncode == 0
    assert cluster.kubectl("logs", "-f", "short") == "begin\nend\n"
    cluster.kubectl("delete", "pod", "short")


def test_port_forward_leads_to_the_process(web: Cluster) -> None:
    with web.background("port-forward", "svc/web", f":{PORT}") as forward:
        assert forward.stdout is not None
        line = forward.stdout.readline()
        match = re.match(r"Forwarding from 127\.0\.0\.1:(\d+) -> " + str(PORT), line)
        assert match, line
        assert answers("127.0.0.1", int(match[1]))
        assert answers("127.0.0.1", int(match[1]))


def test_rollout_restart_replaces_the_pod(web: Cluster) -> None:
    before = {pod["metadata"]["name"] for pod in web.pods("web")}
    assert web.kubectl("rollout", "restart", "deployment/web") == "deployment.apps/web restarted\n"
    assert "successfully rolled out" in web.kubectl("rollout", "status", "deployment/web", "--timeout=120s")
    after = {pod["metadata"]["name"] for pod in web.pods("web")}
    assert len(after) == 1
    assert not before & after
    assert answers(web.lab.address, PORT)
    assert listeners(web.lab.address, PORT) == 1


def test_delete_pod_returns_when_its_port_is_free(cluster: Cluster) -> None:
    port = PORT + 1
    cluster.kube.create(PODS, pod_of("bare", spec_of(server(port))))
    cluster.wait_pod("bare", is_ready, "the pod to be ready")
    assert listeners(cluster.lab.address, port) == 1
    assert 'pod "bare" deleted' in cluster.kubectl("delete", "pod", "bare")
    assert listeners(cluster.lab.address, port) == 0
    assert cluster.wait_event("bare", "Killing") == "Stopping container web"


def test_delete_pod_kills_what_does_not_end_in_its_grace_period(cluster: Cluster) -> None:
    cluster.kube.create(PODS, pod_of("deaf", spec_of(python(DEAF))))
    cluster.wait_pod("deaf", is_ready, "the pod to run")
    wait_until(
        lambda: "deaf" in cluster.kubectl("logs", "deaf"), timeout_seconds=READY_SECONDS, what="the handler to be set"
    )
    began = time.monotonic()
    cluster.kubectl("delete", "pod", "deaf")
    assert 1.5 < time.monotonic() - began < 25  # the pod's two seconds, not the default of thirty


def test_forced_deletion_leaves_no_process(cluster: Cluster) -> None:
    port = PORT + 2
    cluster.kube.create(PODS, pod_of("forced", spec_of(server(port))))
    cluster.wait_pod("forced", is_ready, "the pod to be ready")
    cluster.kubectl("delete", "pod", "forced", "--force", "--grace-period=0")
    wait_until(
        lambda: listeners(cluster.lab.address, port) == 0, timeout_seconds=READY_SECONDS, what="the process to end"
    )


# --- restarts ------------------------------------------------------------------------------------------------


def test_crashing_container_backs_off(cluster: Cluster) -> None:
    cluster.kube.create(PODS, pod_of("crash", spec_of(python("raise SystemExit(7)"))))
    pod = cluster.wait_pod("crash", lambda pod: waiting_reason(pod) == "CrashLoopBackOff", "CrashLoopBackOff")
    status = status_of(pod)
    assert status["restartCount"] == 1  # the first restart comes at once
    assert status["lastState"]["terminated"]["exitCode"] == 7
    assert re.match(r"back-off 10s restarting failed container=main pod=crash_", status["state"]["waiting"]["message"])
    assert not is_ready(pod)
    assert cluster.kubectl("get", "pod", "crash", "--no-headers").split()[1:3] == ["0/1", "CrashLoopBackOff"]
    cluster.wait_event("crash", "BackOff")
    cluster.kubectl("delete", "pod", "crash")


def test_failing_liveness_probe_restarts_the_container(cluster: Cluster) -> None:
    probe = {"exec": {"command": ["test", "!", "-e", "/data/sick"]}, "periodSeconds": 1, "failureThreshold": 2}
    volume, mount = {"name": "data", "emptyDir": {}}, {"name": "data", "mountPath": "/data"}
    container = python(SICK_ONCE, livenessProbe=probe, volumeMounts=[mount])
    cluster.kube.create(PODS, pod_of("sick", spec_of(container, volumes=[volume])))
    pod = cluster.wait_pod("sick", lambda pod: status_of(pod).get("restartCount") == 1, "a restart")
    assert status_of(pod)["lastState"]["terminated"]["exitCode"] == 143
    ended = status_of(pod)["lastState"]["terminated"]
    lived = [datetime.fromisoformat(ended[name]).timestamp() for name in ("startedAt", "finishedAt")]
    assert lived[1] - lived[0] >= 2  # it was well until the file came
    assert cluster.wait_event("sick", "Unhealthy") == "Liveness probe failed: command exited with 1"
    assert cluster.wait_event("sick", "Killing") == "Container main failed liveness probe, will be restarted"
    cluster.kubectl("delete", "pod", "sick")


def test_killed_process_is_back_at_once(web: Cluster) -> None:
    pod = web.pods("web")[0]
    name, count = pod["metadata"]["name"], status_of(pod)["restartCount"]
    web.kubectl("get", "pod", name)
    victim = _process_listening(web.lab.address, PORT)
    os.kill(victim, signal.SIGKILL)
    pod = web.wait_pod(name, lambda pod: status_of(pod)["restartCount"] == count + 1 and is_ready(pod), "a restart")
    assert status_of(pod)["lastState"]["terminated"]["exitCode"] == 137
    assert answers(web.lab.address, PORT)


def test_killed_agent_leaves_no_second_copy(web: Cluster) -> None:
    pod = web.pods("web")[0]
    name, count = pod["metadata"]["name"], status_of(pod)["restartCount"]
    victim = _process_listening(web.lab.address, PORT)
    state = read_state(web.lab.folder.status_file)
    assert state is not None
    agent = state.components["host-node-agent"].pid
    assert agent is not None
    os.kill(agent, signal.SIGKILL)
    wait_until(
        lambda: not Path(f"/proc/{victim}").exists(),
        timeout_seconds=READY_SECONDS,
        what="the container to end with the agent",
    )
    pod = web.wait_pod(name, lambda pod: status_of(pod)["restartCount"] == count + 1 and is_ready(pod), "a restart")
    assert status_of(pod)["lastState"]["terminated"]["reason"] == "ContainerStatusUnknown"
    assert listeners(web.lab.address, PORT) == 1
    assert web.kubectl("logs", name, "-p")


def test_container_is_restarted_while_the_api_server_is_away(web: Cluster) -> None:
    # Settled first: a second death within ten minutes would be paused for, which is not what this is about.
    web.kubectl("rollout", "restart", "deployment/web")
    web.kubectl("rollout", "status", "deployment/web", "--timeout=120s")
    pod = web.pods("web")[0]
    name, count = pod["metadata"]["name"], status_of(pod)["restartCount"]
    state = read_state(web.lab.folder.status_file)
    assert state is not None
    server_pid = state.components["kube-apiserver"].pid
    assert server_pid is not None
    os.kill(server_pid, signal.SIGSTOP)
    try:
        os.kill(_process_listening(web.lab.address, PORT), signal.SIGKILL)
        wait_until(
            lambda: listeners(web.lab.address, PORT) == 0, timeout_seconds=READY_SECONDS, what="the process to end"
        )
        # A server that does not answer is taken for away after five seconds.
        wait_until(
            lambda: answers(web.lab.address, PORT), timeout_seconds=READY_SECONDS, what="the container to be back"
        )
    finally:
        os.kill(server_pid, signal.SIGCONT)
    pod = web.wait_pod(name, lambda pod: status_of(pod)["restartCount"] == count + 1 and is_ready(pod), "the status")
    assert status_of(pod)["lastState"]["terminated"]["exitCode"] == 137


def test_second_agent_is_refused(cluster: Cluster) -> None:
    command = [sys.executable, "-m", "labkit.cluster.hostnode", "--config", str(cluster.lab.folder.hostnode_file)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=READY_SECONDS, check=False)
    assert done.returncode == 1
    assert "another agent serves node lab-host" in done.stdout


def _process_listening(address: str, port: int) -> int:
    wanted = f"{int.from_bytes(socket.inet_aton(address), 'little'):08X}:{port:04X}"
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    inode = next(line[9] for line in lines if line[1] == wanted and line[3] == "0A")
    for folder in Path("/proc").glob("[0-9]*/fd"):
        try:
            if any(os.readlink(fd) == f"socket:[{inode}]" for fd in folder.iterdir()):
                return int(folder.parent.name)
        except OSError:
            continue
    raise AssertionError(f"nobody listens at {address}:{port}")


# --- what a container sees ---------------------------------------------------------------------------------

LOOK = """
import json, os, pathlib, socket, stat
read = lambda p: pathlib.Path(p).read_text()
token = '/var/run/secrets/kubernetes.io/serviceaccount/'
print(json.dumps({
    'env': dict(os.environ),
    'cwd': os.getcwd(),
    'whole': sorted(os.listdir('/policy-dir/deep')),
    'text': read('/policy-dir/deep/policy.yaml'),
    'item': read('/etc/prometheus-test/sub/renamed.yml'),
    'item_mode': oct(os.stat('/etc/prometheus-test/sub/renamed.yml').st_mode & 0o777),
    'secret': read('/certs/tls.key'),
    'secret_mode': oct(os.stat('/certs/tls.key').st_mode & 0o777),
    'sub_path': read('/opt/one-file.yaml'),
    'from_init': read('/shared/from-init'),
    'labels': read('/podinfo/labels'),
    'namespace': read(token + 'namespace'),
    'token_parts': read(token + 'token').count('.'),
    'ca': read(token + 'ca.crt')[:27],
    'service': socket.gethostbyname('web.hostnode-test.svc'),
    'short': socket.gethostbyname('web'),
    'other': socket.gethostbyname('prometheus.monitoring.svc'),
    'host_readable': os.path.isdir('/usr/bin'),
    'tmp': os.listdir('/tmp'),
    'pid_namespace': os.getpid() < 100,
}))
"""


def test_container_sees_volumes_environment_and_services(web: Cluster) -> None:
    kube, address = web.kube, web.lab.address
    kube.apply(_config_map("look", {"policy.yaml": "one: 1", "other": "2"}))
    kube.apply(
        {
            "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "look", "namespace": NAMESPACE},
            "stringData": {"tls.key": "secret text", "WORD": "hush"},
        }
    )  # fmt: skip
    mounts = {
        "whole": "/policy-dir/deep", "items": "/etc/prometheus-test", "secret": "/certs", "shared": "/shared",
        "podinfo": "/podinfo",
    }  # fmt: skip
    container = python(
        LOOK,
        workingDir="/work-place/here",
        volumeMounts=[{"name": name, "mountPath": path} for name, path in mounts.items()]
        + [{"name": "whole", "mountPath": "/opt/one-file.yaml", "subPath": "policy.yaml"}],
        envFrom=[{"configMapRef": {"name": "look"}, "prefix": "CM_"}, {"secretRef": {"name": "look"}}],
        env=[
            ADDRESS,
            {"name": "NAME", "valueFrom": {"fieldRef": {"fieldPath": "metadata.name"}}},
            {"name": "KEY", "valueFrom": {"configMapKeyRef": {"name": "look", "key": "other"}}},
            {"name": "HUSH", "valueFrom": {"secretKeyRef": {"name": "look", "key": "WORD"}}},
            {"name": "GONE", "valueFrom": {"secretKeyRef": {"name": "look", "key": "none", "optional": True}}},
            {"name": "BOTH", "value": "$(NAME)/$(KEY)/$$(KEY)/$(NOBODY)"},
        ],
    )
    init = python(
        "open('/shared/from-init', 'w').write('hello')", name="init", volumeMounts=[container["volumeMounts"][3]]
    )
    volumes = [
        {"name": "whole", "configMap": {"name": "look"}},
        {
            "name": "items",
            "configMap": {"name": "look", "items": [{"key": "policy.yaml", "path": "sub/renamed.yml", "mode": 0o440}]},
        },
        {"name": "secret", "secret": {"secretName": "look", "defaultMode": 0o400}},
        {"name": "shared", "emptyDir": {}},
        {
            "name": "podinfo",
            "downwardAPI": {"items": [{"path": "labels", "fieldRef": {"fieldPath": "metadata.labels"}}]},
        },
    ]
    pod = pod_of(
        "look", spec_of(container, initContainers=[init | {"image": "x"}], volumes=volumes, restartPolicy="Never")
    )
    pod["metadata"]["labels"] = {"colour": "red"}
    kube.create(PODS, pod)
    ended = web.wait_pod("look", lambda pod: phase(pod) in ("Succeeded", "Failed"), "the pod to end")
    output = web.kubectl("logs", "look", "-c", "main")
    assert phase(ended) == "Succeeded", output
    seen = json.loads(output)
    env = seen.pop("env")
    expected_env = {
        "CM_other": "2", "CM_policy.yaml": "one: 1", "WORD": "hush", "NAME": "look", "KEY": "2", "HUSH": "hush",
        "BOTH": "look/2/$(KEY)/$(NOBODY)", "ADDRESS": address, "KUBERNETES_SERVICE_HOST": address, "HOSTNAME": "look",
    }  # fmt: skip
    assert {key: env.get(key) for key in expected_env} == expected_env
    assert "GONE" not in env
    assert "KUBECONFIG" not in env
    assert seen.pop("tmp") is not None
    assert seen == {
        "cwd": "/work-place/here",
        "whole": ["..data", "..version_1", "other", "policy.yaml"],
        "text": "one: 1",
        "item": "one: 1",
        "item_mode": "0o440",
        "secret": "secret text",
        "secret_mode": "0o400",
        "sub_path": "one: 1",
        "from_init": "hello",
        "labels": 'colour="red"',
        "namespace": NAMESPACE,
        "token_parts": 2,
        "ca": "-----BEGIN CERTIFICATE-----",
        "service": address,
        "short": address,
        "other": address,
        "host_readable": True,
        "pid_namespace": True,
    }
    assert not Path("/policy-dir").exists()
    statuses = ended["status"]["initContainerStatuses"]
    assert statuses[0]["state"]["terminated"]["reason"] == "Completed"
    assert web.kubectl("get", "pod", "look", "--no-headers").split()[1:3] == ["0/1", "Completed"]


def test_service_account_token_is_accepted(cluster: Cluster) -> None:
    pod = cluster.run_to_end("who", spec_of(python(WHO_AM_I)))
    assert cluster.kubectl("logs", "who").strip() == f"system:serviceaccount:{NAMESPACE}:default"
    assert phase(pod) == "Succeeded"


def test_host_port_leads_to_the_container_port(cluster: Cluster) -> None:
    port, host_port = PORT + 3, PORT + 4
    ports = [{"name": "http", "containerPort": port, "hostPort": host_port}]
    cluster.kube.create(PODS, pod_of("host-port", spec_of(server(port, ports=ports))))
    cluster.wait_pod("host-port", is_ready, "the pod to be ready")
    assert answers(cluster.lab.address, host_port)
    cluster.kubectl("delete", "pod", "host-port")
    assert listeners(cluster.lab.address, host_port) == 0


def test_sidecar_starts_before_and_ends_after(cluster: Cluster) -> None:
    shared = {"volumeMounts": [{"name": "shared", "mountPath": "/shared"}]}
    begun = "import pathlib, time; print('up', flush=True); pathlib.Path('/shared/up').touch(); time.sleep(1000)"
    sidecar = python(begun, name="side") | shared | {"restartPolicy": "Always", "image": "x"}
    waits = "import pathlib\nwhile not pathlib.Path('/shared/up').exists(): pass"
    spec = spec_of(python(waits) | shared, initContainers=[sidecar], volumes=[{"name": "shared", "emptyDir": {}}])
    pod = cluster.run_to_end("with-sidecar", spec)
    assert phase(pod) == "Succeeded"
    assert cluster.kubectl("logs", "with-sidecar", "-c", "side") == "up\n"
    cluster.kubectl("delete", "pod", "with-sidecar")


# --- what is wrong is said -----------------------------------------------------------------------------------


def test_unsupported_field_is_refused_by_name(cluster: Cluster) -> None:
    container = python("print()", lifecycle={"preStop": {"exec": {"command": ["true"]}}})
    cluster.kube.create(PODS, pod_of("refused", spec_of(container)))
    pod = cluster.wait_pod("refused", lambda pod: waiting_reason(pod) == "Unsupported", "the pod to be refused")
    assert phase(pod) == "Pending"
    assert "spec.containers[0].lifecycle" in cluster.wait_event("refused", "Unsupported")
    cluster.kubectl("delete", "pod", "refused")


def test_missing_config_map_is_waited_for(cluster: Cluster) -> None:
    volume = {"name": "late", "configMap": {"name": "late"}}
    container = python("print(open('/late/word').read())", volumeMounts=[{"name": "late", "mountPath": "/late"}])
    cluster.kube.create(PODS, pod_of("late", spec_of(container, volumes=[volume], restartPolicy="Never")))
    assert (
        cluster.wait_event("late", "FailedMount")
        == 'MountVolume.SetUp failed for volume "late" : configmap "late" not found'
    )
    cluster.kube.create(CONFIG_MAPS, _config_map("late", {"word": "here"}))
    cluster.wait_pod("late", lambda pod: phase(pod) == "Succeeded", "the pod to succeed")
    assert cluster.kubectl("logs", "late") == "here\n"


def test_missing_environment_source_is_named(cluster: Cluster) -> None:
    cluster.kube.create(
        PODS, pod_of("no-env", spec_of(python("print()", envFrom=[{"configMapRef": {"name": "none"}}])))
    )
    pod = cluster.wait_pod("no-env", lambda pod: waiting_reason(pod) == "CreateContainerConfigError", "the complaint")
    assert status_of(pod)["state"]["waiting"]["message"] == 'configmap "none" not found'
    cluster.kubectl("delete", "pod", "no-env")


def test_missing_program_is_named(cluster: Cluster) -> None:
    cluster.kube.create(PODS, pod_of("no-program", spec_of({"name": "main", "command": ["no-such-program"]})))
    pod = cluster.wait_pod(
        "no-program",
        lambda pod: bool(waiting_reason(pod)) and "message" in status_of(pod)["state"]["waiting"],
        "a complaint",
    )
    assert "'no-such-program'" in status_of(pod)["state"]["waiting"]["message"]
    cluster.kubectl("delete", "pod", "no-program")


def test_taken_port_is_named_and_waited_for(cluster: Cluster) -> None:
    port = PORT + 5
    with socket.create_server((cluster.lab.address, port)):
        cluster.kube.create(PODS, pod_of("taken", spec_of(server(port))))
        pod = cluster.wait_pod("taken", lambda pod: waiting_reason(pod) == "PortInUse", "the complaint")
        assert str(port) in status_of(pod)["state"]["waiting"]["message"]
    cluster.wait_pod("taken", is_ready, "the pod to start once the port is free")
    cluster.kubectl("delete", "pod", "taken")


# --- the node ------------------------------------------------------------------------------------------------


def test_node_is_an_ordinary_ready_node(cluster: Cluster) -> None:
    line = cluster.kubectl("get", "node", HOST_NODE, "--no-headers").split()
    assert line[1] == "Ready"
    lease = json.loads(cluster.kubectl("get", "lease", HOST_NODE, "-n", "kube-node-lease", "-o", "json"))
    assert lease["spec"]["holderIdentity"] == HOST_NODE


@pytest.mark.slow
def test_frozen_agent_shows_as_not_ready_and_recovers(web: Cluster) -> None:
    """A suspended agent: the node controller marks node and pods, the agent corrects both when it wakes."""
    name = web.pods("web")[0]["metadata"]["name"]
    state = read_state(web.lab.folder.status_file)
    assert state is not None
    agent = state.components["host-node-agent"].pid
    assert agent is not None
    os.kill(agent, signal.SIGSTOP)
    try:
        wait_until(
            lambda: web.kubectl("get", "node", HOST_NODE, "--no-headers").split()[1] == "NotReady",
            timeout_seconds=2 * READY_SECONDS,
            poll_seconds=1.0,
            what="the node to be NotReady",
        )
        web.wait_pod(name, lambda pod: not is_ready(pod), "the pod to be not ready")
    finally:
        os.kill(agent, signal.SIGCONT)
    pod = web.wait_pod(name, is_ready, "the pod to be ready again")
    assert pod["metadata"]["name"] == name
    assert web.kubectl("get", "node", HOST_NODE, "--no-headers").split()[1] == "Ready"


@pytest.mark.parametrize(
    ("arguments", "allowed"),
    [
        (("get", "pods", "-A"), False),
        (("get", "pods", "-A", f"--field-selector=spec.nodeName={HOST_NODE}"), True),
        (("get", "secrets", "-n", NAMESPACE), False),
        (("get", "configmap", "kube-root-ca.crt", "-n", "kube-public"), False),
        (("delete", "deployment", "web", "-n", NAMESPACE), False),
        (("create", "token", "namespace-controller", "-n", "kube-system"), False),
    ],
    ids=["all-pods", "own-pods", "secrets", "config-map-of-others", "deployment", "token-of-others"],
)
def test_agent_may_do_only_what_its_pods_need(web: Cluster, arguments: tuple[str, ...], allowed: bool) -> None:
    kubeconfig = web.lab.folder.pki / "host-node-agent.kubeconfig"
    done = web.lab.kubectl("--kubeconfig", str(kubeconfig), *arguments)
    assert (done.returncode == 0) is allowed, done
    assert allowed or "forbidden" in done.stderr.lower()


def test_files_of_deleted_pods_are_removed(cluster: Cluster) -> None:
    pod = cluster.run_to_end("tidy", spec_of(python("print()")))
    uid = pod["metadata"]["uid"]
    state = cluster.lab.folder.hostnode / "pods" / uid
    assert state.is_dir()
    cluster.kubectl("delete", "pod", "tidy")
    wait_until(lambda: not state.exists(), timeout_seconds=READY_SECONDS, what="the pod's files to go")


def _config_map(name: str, data: dict[str, str]) -> dict[str, Any]:
    return {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": name, "namespace": NAMESPACE}, "data": data}
