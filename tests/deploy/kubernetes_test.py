# SPDX-License-Identifier: MIT
"""docker/kubernetes and compose.yaml without a cluster: what belongs together fits, and the binary takes what it is given.

Environment: LSTM_SERVER, the binary. Skipped (77) without Debian's python3-yaml."""
import os
import pathlib
import re
import subprocess
import sys
import tempfile
import unittest

try:
    import yaml
except ImportError:
    print("skipped: python3-yaml is not installed")
    sys.exit(77)

ROOT = pathlib.Path(__file__).resolve().parents[2]
KUBERNETES = ROOT / "docker/kubernetes"
# The fields that manifests may have, of those that Kubernetes knows: a wrong name would be ignored by it, or refused.
META = {"name": str, "labels": dict, "annotations": dict}
SELECTOR = {"matchLabels": dict}
EXEC = {"exec": {"command": list}, "grpc": {"port": int}, "periodSeconds": int, "timeoutSeconds": int, "failureThreshold": int}
PORTS = {"name": str, "port": int, "targetPort": (str, int), "protocol": str, "appProtocol": str}
CONTAINER = {"name": str, "image": str, "resources": {"requests": dict, "limits": dict}, "startupProbe": EXEC, "readinessProbe": EXEC, "livenessProbe": EXEC,
             "securityContext": {"readOnlyRootFilesystem": bool, "allowPrivilegeEscalation": bool, "capabilities": {"drop": list}},
             "env": [{"name": str, "value": str, "valueFrom": {"resourceFieldRef": {"resource": str}}}], "ports": [{"name": str, "containerPort": int}],
             "volumeMounts": [{"name": str, "mountPath": str}]}
POD = {"automountServiceAccountToken": bool, "enableServiceLinks": bool, "terminationGracePeriodSeconds": int, "containers": [CONTAINER],
       "securityContext": {"runAsNonRoot": bool, "runAsUser": int, "runAsGroup": int, "fsGroup": int, "fsGroupChangePolicy": str, "seccompProfile": {"type": str}},
       "topologySpreadConstraints": [{"maxSkew": int, "topologyKey": str, "whenUnsatisfiable": str, "labelSelector": SELECTOR}]}
KINDS = {
    ("apps/v1", "StatefulSet"): {"serviceName": str, "replicas": int, "podManagementPolicy": str, "updateStrategy": {"type": str}, "selector": SELECTOR,
                                 "template": {"metadata": META, "spec": POD},
                                 "volumeClaimTemplates": [{"metadata": META, "spec": {"accessModes": list, "resources": {"requests": dict}}}]},
    ("v1", "Service"): {"clusterIP": str, "publishNotReadyAddresses": bool, "selector": dict, "ports": [PORTS]},
    ("policy/v1", "PodDisruptionBudget"): {"maxUnavailable": int, "selector": SELECTOR},
    ("autoscaling/v2", "HorizontalPodAutoscaler"): {
        "scaleTargetRef": {"apiVersion": str, "kind": str, "name": str}, "minReplicas": int, "maxReplicas": int,
        "metrics": [{"type": str, "resource": {"name": str, "target": {"type": str, "averageUtilization": int}}}],
        "behavior": {"scaleUp": {"stabilizationWindowSeconds": int}, "scaleDown": {"selectPolicy": str}}},
    ("networking.k8s.io/v1", "NetworkPolicy"): {
        "podSelector": SELECTOR, "policyTypes": list, "egress": list,
        "ingress": [{"from": [{"podSelector": SELECTOR, "namespaceSelector": SELECTOR}], "ports": [{"protocol": str, "port": int}]}]},
}


def amount(text):
    number, unit = re.fullmatch(r"(\d+)(Ki|Mi|Gi)?", text).groups()
    return int(number) * {None: 1, "Ki": 1 << 10, "Mi": 1 << 20, "Gi": 1 << 30}[unit]


def image():
    """What docker/Dockerfile sets: environment, exposed ports, user, volumes."""
    last = (ROOT / "docker/Dockerfile").read_text().split("FROM scratch")[1].replace("\\\n", " ")
    line = lambda word: re.search(rf"^{word} (.*)$", last, re.M)[1]
    return dict(re.findall(r"(LSTM_\w+)=(\S+)", line("ENV"))), set(map(int, line("EXPOSE").split())), line("USER"), line("VOLUME").split()


class DeployTest(unittest.TestCase):
    maxDiff = None

    @classmethod
    def setUpClass(cls):
        names = yaml.safe_load((KUBERNETES / "kustomization.yaml").read_text())["resources"]
        cls.files = {name: list(yaml.safe_load_all((KUBERNETES / name).read_text())) for name in names}
        every = [document for documents in cls.files.values() for document in documents]
        cls.by_kind = {}
        for document in every:
            cls.by_kind.setdefault(document["kind"], []).append(document)
        cls.set = cls.by_kind["StatefulSet"][0]
        cls.pod = cls.set["spec"]["template"]["spec"]
        cls.container = cls.pod["containers"][0]
        cls.labels = cls.set["spec"]["template"]["metadata"]["labels"]
        cls.ports = {port["name"]: port["containerPort"] for port in cls.container["ports"]}
        cls.env = {entry["name"]: entry.get("value") for entry in cls.container["env"]}
        cls.image_env, cls.exposed, cls.user, cls.volumes = image()
        cls.compose = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())
        cls.help = subprocess.run([os.environ["LSTM_SERVER"], "--help"], capture_output=True, text=True, check=True).stdout

    def fits(self, value, schema, where):
        if isinstance(schema, dict):
            self.assertIsInstance(value, dict, where)
            for key, inner in value.items():
                self.assertIn(key, schema, where)
                self.fits(inner, schema[key], f"{where}.{key}")
        elif isinstance(schema, list):
            self.assertIsInstance(value, list, where)
            for i, inner in enumerate(value):
                self.fits(inner, schema[0], f"{where}[{i}]")
        else:
            self.assertIsInstance(value, schema, where)

    def test_every_file_is_listed_and_every_field_is_known(self):
        self.assertEqual(set(self.files), {path.name for path in KUBERNETES.glob("*.yaml")} - {"kustomization.yaml"})
        names = set()
        for file, documents in self.files.items():
            for document in documents:
                kind = document["apiVersion"], document["kind"]
                self.assertEqual(set(document), {"apiVersion", "kind", "metadata", "spec"}, file)
                self.assertIn(kind, KINDS, file)
                self.fits(document["metadata"], META, f"{file} metadata")
                self.fits(document["spec"], KINDS[kind], f"{file} {document['kind']}")
                self.assertRegex(document["metadata"]["name"], r"^[a-z]([-a-z0-9]{0,61}[a-z0-9])?$")
                self.assertNotIn((kind, document["metadata"]["name"]), names)
                names.add((kind, document["metadata"]["name"]))

    def test_selectors_find_the_pods(self):
        selectors = [self.set["spec"]["selector"]["matchLabels"], self.pod["topologySpreadConstraints"][0]["labelSelector"]["matchLabels"],
                     self.by_kind["PodDisruptionBudget"][0]["spec"]["selector"]["matchLabels"], self.by_kind["NetworkPolicy"][0]["spec"]["podSelector"]["matchLabels"]]
        selectors += [service["spec"]["selector"] for service in self.by_kind["Service"]]
        for selector in selectors:
            self.assertTrue(selector)
            self.assertLessEqual(selector.items(), self.labels.items())
        target = self.by_kind["HorizontalPodAutoscaler"][0]["spec"]["scaleTargetRef"]
        self.assertEqual((target["apiVersion"], target["kind"], target["name"]), (self.set["apiVersion"], self.set["kind"], self.set["metadata"]["name"]))
        headless = [service for service in self.by_kind["Service"] if service["spec"].get("clusterIP") == "None"]
        self.assertEqual([service["metadata"]["name"] for service in headless], [self.set["spec"]["serviceName"]])
        self.assertTrue(headless[0]["spec"]["publishNotReadyAddresses"], "a client finds its server again before it is ready")
        self.assertEqual(len(self.by_kind["Service"]), 2)

    def test_ports_are_those_that_the_server_listens_on(self):
        env = {**self.image_env, **self.env}
        listening = {name: int(env[variable].rsplit(":")[-1]) for name, variable in (("grpc", "LSTM_LISTEN"), ("http", "LSTM_HTTP_LISTEN"), ("metrics", "LSTM_METRICS_LISTEN"))}
        self.assertEqual(self.ports, listening)
        self.assertLessEqual(self.exposed, set(listening.values()))
        for service in self.by_kind["Service"]:
            for port in service["spec"]["ports"]:
                self.assertEqual(port["port"], self.ports[port["targetPort"]], "clients know one number")
        allowed = [port["port"] for rule in self.by_kind["NetworkPolicy"][0]["spec"]["ingress"] for port in rule["ports"]]
        self.assertEqual(sorted(allowed), sorted(self.ports.values()))
        self.assertEqual(self.container["readinessProbe"]["grpc"]["port"], self.ports["grpc"])
        self.assertEqual(int(self.set["spec"]["template"]["metadata"]["annotations"]["prometheus.io/port"]), self.ports["metrics"])
        scraped = re.findall(r'"(\w+):(\d+)"', (ROOT / "docker/prometheus/prometheus.yml").read_text())
        self.assertEqual({name for name, _ in scraped}, {name for name in self.compose["services"] if name.startswith("server")})
        for name, port in scraped:
            self.assertTrue(self.compose["services"][name]["environment"]["LSTM_METRICS_LISTEN"].endswith(f":{port}"))

    def test_probes_are_flags_of_the_binary(self):
        entry = re.search(r'ENTRYPOINT \["(\S+)"\]', (ROOT / "docker/Dockerfile").read_text())[1]
        for probe in "startupProbe", "livenessProbe":
            command = self.container[probe]["exec"]["command"]
            self.assertEqual(command[0], entry)
            for flag in command[1:]:
                self.assertRegex(self.help, rf"(?m)^\s+{flag}\b")
            self.assertGreater(self.container[probe]["timeoutSeconds"], 3, "the probe itself waits three seconds")

    def check_config(self, environment):
        with tempfile.TemporaryDirectory() as state:
            given = {**self.image_env, **environment, "LSTM_MODELS": str(ROOT / "models/repository"), "LSTM_STATE_DIR": state}
            done = subprocess.run([os.environ["LSTM_SERVER"], "--check-config"], env={"PATH": os.environ["PATH"], **given}, capture_output=True, text=True)
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)

    def test_the_binary_takes_the_environment(self):
        known = set(re.findall(r"LSTM_[A-Z_]+", self.help))
        cpus = self.container["resources"]["limits"]["cpu"]
        pods = {name: cpus if value is None else value for name, value in self.env.items()}
        self.assertLessEqual(pods.keys() | self.image_env.keys(), known, "names that are no option's are not looked at by the server")
        self.check_config(pods)
        for name, service in self.compose["services"].items():
            if name.startswith("server"):
                environment = {key: re.sub(r"\$\{\w+:-(.*)\}", r"\1", str(value)) for key, value in service["environment"].items()}
                self.assertLessEqual(environment.keys(), known)
                self.check_config(environment)

    def test_it_fits_into_its_limits(self):
        memory = amount(self.container["resources"]["limits"]["memory"])
        self.assertLessEqual(int(self.env["LSTM_MAX_SESSION_BYTES"]) + int(self.env["LSTM_GRPC_MEMORY_BYTES"]), memory * 3 // 4)
        server = self.compose["services"]["server1"]
        self.assertEqual(server["mem_limit"], "1g")
        self.assertLessEqual(int(server["environment"]["LSTM_MAX_SESSION_BYTES"]) + int(server["environment"]["LSTM_GRPC_MEMORY_BYTES"]), (1 << 30) * 3 // 4)
        claim = self.set["spec"]["volumeClaimTemplates"][0]
        self.assertLess(int(self.env["LSTM_MAX_STATE_BYTES"]) + int(self.env["LSTM_MAX_PARKED_BYTES"]), amount(claim["spec"]["resources"]["requests"]["storage"]))
        self.assertLess(int(self.env["LSTM_DRAIN_SECONDS"]) + 5, self.pod["terminationGracePeriodSeconds"])
        self.assertEqual(self.container["volumeMounts"], [{"name": claim["metadata"]["name"], "mountPath": self.image_env["LSTM_STATE_DIR"]}])
        self.assertEqual(self.volumes, [self.image_env["LSTM_STATE_DIR"]])

    def test_it_is_as_shut_in_as_in_compose(self):
        for name, service in self.compose["services"].items():
            self.assertEqual((service["cap_drop"], service["security_opt"]), (["ALL"], ["no-new-privileges:true"]), name)
            if name != "grafana":  # an image that is not ours
                self.assertTrue(service["read_only"], name)
        own, pod = self.container["securityContext"], self.pod["securityContext"]
        self.assertEqual(own, {"readOnlyRootFilesystem": True, "allowPrivilegeEscalation": False, "capabilities": {"drop": ["ALL"]}})
        self.assertEqual(f"{pod['runAsUser']}:{pod['runAsGroup']}", self.user)
        self.assertTrue(pod["runAsNonRoot"])
        self.assertEqual(pod["seccompProfile"], {"type": "RuntimeDefault"})
        self.assertFalse(self.pod["automountServiceAccountToken"])

    def test_no_session_is_lost_by_scaling(self):
        scaler, budget = self.by_kind["HorizontalPodAutoscaler"][0]["spec"], self.by_kind["PodDisruptionBudget"][0]["spec"]
        self.assertEqual(scaler["behavior"]["scaleDown"], {"selectPolicy": "Disabled"})
        self.assertEqual(scaler["minReplicas"], self.set["spec"]["replicas"])
        self.assertLess(budget["maxUnavailable"], self.set["spec"]["replicas"])


if __name__ == "__main__":
    unittest.main()
