# SPDX-License-Identifier: MIT
"""The machine that measures, and a server to be measured."""
import contextlib
import os
import pathlib
import re
import subprocess


def _first(path, pattern):
    try:
        found = re.search(pattern, pathlib.Path(path).read_text(), re.M)
    except OSError:
        return None
    return found.group(1).strip() if found else None


def _package(name):
    done = subprocess.run(["dpkg-query", "-W", "-f", "${Version}", name], capture_output=True, text=True)
    return done.stdout or None


def describe(root):
    flags = set((_first("/proc/cpuinfo", r"^flags\s*: (.*)$") or "").split())
    caches = {}
    for index in sorted(pathlib.Path("/sys/devices/system/cpu/cpu0/cache").glob("index*")):
        kind, level, size = ((index / name).read_text().strip() for name in ("type", "level", "size"))
        if kind != "Instruction":
            caches[f"L{level}"] = size
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], cwd=root, capture_output=True, text=True).stdout.strip()
    return {
        "cpu": _first("/proc/cpuinfo", r"^model name\s*: (.*)$"), "model": _first("/proc/cpuinfo", r"^model\s*: (.*)$"), "cores": len(os.sched_getaffinity(0)), "caches": caches,
        "vector": [f for f in ("avx2", "fma", "avx512f", "avx512_bf16", "avx512_vnni", "avx_vnni", "amx_int8") if f in flags], "virtual": "hypervisor" in flags,
        "memory": _first("/proc/meminfo", r"^MemTotal:\s*(.*)$"), "kernel": os.uname().release, "system": _first("/etc/os-release", r'^PRETTY_NAME="?([^"\n]*)'),
        "compiler": subprocess.run(["c++", "--version"], capture_output=True, text=True).stdout.splitlines()[0],
        "libraries": {name: _package(name) for name in ("libgrpc++1.51", "libdnnl2", "libdnnl3.6", "libonnxruntime1.21", "python3-torch") if _package(name)},
        "commit": commit, "load_average_before": os.getloadavg()[0]}


@contextlib.contextmanager
def served(binary, models):
    """lstm-server with one shard on the first core: its address."""
    core = sorted(os.sched_getaffinity(0))[0]
    command = ["taskset", "-c", str(core), str(binary), "--listen", "127.0.0.1:0", "--http-listen", "", "--metrics-listen", "", "--shards", "1", "--models", str(models)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            said = []
            for line in server.stderr:
                said.append(line)
                if "listening on " in line:
                    break
            else:
                raise RuntimeError("the server did not start:\n" + "".join(said))
            yield line.split("listening on ")[1].strip()
        finally:
            server.kill()
