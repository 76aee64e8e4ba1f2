#!/usr/bin/env python3
# SPDX-License-Identifier: MIT
"""Holds every #include against the link list of its folder's target: what a room does not link, it may not include."""
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
OWNERS = {  # header prefix -> the target that gives it
    "grpcpp/": "proto_grpc", "oneapi/": "dnnl::dnnl", "immintrin.h": "core_fused", "CLI/": "CLI11::CLI11", "spdlog/": "spdlog::spdlog",
    "nlohmann/": "nlohmann_json::nlohmann_json", "sndfile.h": "sndfile::sndfile", "xxhash.h": "xxhash::xxhash",
    "isa-l/": "isal::isal", "boost/": "boost::boost", "prometheus/": "prometheus::core"}
PROTO = {"grpc/health/v1/": "proto_health_grpc", "inference/grpc_service.grpc.pb.h": "proto_inference_grpc", "inference/": "proto_inference", "lstm/v1/prediction.grpc.pb.h": "proto_grpc", "lstm/v1/": "proto_api", "lstm/manifest/": "proto_manifest", "lstm/config/": "proto_config",
         "lstm/store/": "proto_store"}


def targets():
    """folder -> (target names, all they link)"""
    out = {}
    for path in ROOT.glob("**/CMakeLists.txt"):
        folder = path.parent.relative_to(ROOT).as_posix()
        if folder.split("/")[0] not in ("core", "server", "client", "docker", "proto"):
            continue
        for kind, name, body in re.findall(r"lstm_(library|binary)\((\S+)(.*?)\)", path.read_text(), re.S):
            words = body.split()
            sources = words[words.index("SOURCES") + 1:] if "SOURCES" in words else []
            links = [w for w in words if re.fullmatch(r"[a-z0-9_]+|[A-Za-z0-9_]+::[A-Za-z0-9_+]+", w)]
            for folder_of in {(pathlib.Path(folder) / s).parent.as_posix() for s in sources if s.endswith(".cc")}:
                names, deps = out.setdefault(folder_of, (set(), set()))
                names.add(name)
                deps.update(links)
    return out


def main():
    rooms = targets()
    home = {folder: names for folder, (names, _) in rooms.items()}
    bad = 0
    for file in subprocess.run(["git", "ls-files", "core", "server", "client", "docker"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split():
        if not file.endswith((".cc", ".h")):
            continue
        folder = pathlib.Path(file).parent.as_posix()
        names, deps = rooms.get(folder, (set(), set()))
        for header in re.findall(r'#include [<"]([^>"]+)[>"]', (ROOT / file).read_text()):
            wanted = next((t for p, t in PROTO.items() if header.startswith(p)), None) or next(
                (t for p, t in OWNERS.items() if header.startswith(p)), None)
            allowed = wanted in deps or wanted in names if wanted else True
            if not wanted and header.startswith(("core/", "server/", "client/")):
                other = pathlib.Path(header).parent.as_posix()
                wanted = "/".join(sorted(home.get(other, {other})))
                allowed = other == folder or bool(home.get(other, set()) & deps)
            if not allowed:
                print(f"includes: {file} includes {header}, but its folder does not link {wanted}")
                bad = 1
    sys.exit(bad)


if __name__ == "__main__":
    main()
