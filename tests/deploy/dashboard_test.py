# SPDX-License-Identifier: MIT
"""Prometheus, as Debian has it, scraping a real server under load: the dashboard's queries and the alerts' metrics.

Environment: LSTM_SERVER, LSTM_CLIENT, the binaries. Skipped (77) without `prometheus`."""
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import dashboard_check

ROOT = pathlib.Path(__file__).resolve().parents[2]


def told(process, pattern, what):
    for line in process.stderr:
        if found := re.search(pattern, line):
            return found[1]
    sys.exit(f"{what} did not start")


def main():
    if not shutil.which("prometheus"):
        print("skipped: prometheus is not installed (Debian's package of that name)")
        sys.exit(77)
    running = []

    def start(*command, **options):
        running.append(subprocess.Popen(command, cwd=ROOT, text=True, **options))
        return running[-1]

    with tempfile.TemporaryDirectory(dir=os.environ.get("LSTM_TEST_DIR")) as work:
        try:
            server = start(os.environ["LSTM_SERVER"], "--listen", "127.0.0.1:0", "--http-listen", "", "--metrics-listen", "127.0.0.1:0", "--models", "models/repository", "--shards", "1",
                           "--state-dir", f"{work}/state", stderr=subprocess.PIPE)
            address = told(server, r"listening on (\S+)", "the server")
            metrics = told(server, r"metrics on http://(\S+)/metrics", "the server")
            # The server's log is read by nobody from here on: it has nothing to say.
            client = [os.environ["LSTM_CLIENT"], "--server", address]
            start(*client, "load", "french", "--sessions", "4", "--rate", "20", "--seconds", "600", stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
            on_disk = "HOST" if os.statvfs(work).f_blocks and not on_tmpfs(work) else "PROCESS"
            words = start(*client, "stream", "french", "-", "--durability", on_disk.lower(), stdin=subprocess.PIPE, stdout=subprocess.DEVNULL)
            config = (ROOT / "docker/prometheus/prometheus.yml").read_text()
            config = config.replace('["server1:8002", "server2:8002"]', f'["{metrics}"]').replace("5s", "1s").replace("alerts.yaml", str(ROOT / "docker/prometheus/alerts.yaml"))
            assert metrics in config, "prometheus.yml is not as this test knows it"
            pathlib.Path(f"{work}/prometheus.yml").write_text(config)
            prometheus = start("prometheus", f"--config.file={work}/prometheus.yml", f"--storage.tsdb.path={work}/data", "--web.listen-address=127.0.0.1:0", stderr=subprocess.PIPE)
            address = told(prometheus, r'msg="Listening on" address=(\S+)', "Prometheus")
            start("sh", "-c", "while echo the clouds are in the; do sleep 0.1; done", stdout=words.stdin, stderr=subprocess.DEVNULL)
            start("cat", stdin=prometheus.stderr, stdout=subprocess.DEVNULL)
            dashboard_check.main(f"http://{address}", ROOT / "docker/grafana/lstm-server.json", ROOT / "docker/prometheus/alerts.yaml")
        finally:
            for process in reversed(running):
                process.kill()
                process.wait()


def on_tmpfs(path):
    return subprocess.run(["stat", "-f", "-c", "%T", path], capture_output=True, text=True, check=True).stdout.strip() in ("tmpfs", "ramfs")


main()
