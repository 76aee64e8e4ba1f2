// SPDX-License-Identifier: MIT
#pragma once

#include <map>
#include <string>
#include <vector>

// What the fuzzers begin from: small files of every kind, made here.
namespace lstm::testing {

using Seeds = std::map<std::string, std::string>;  // name -> bytes

Seeds OnnxSeeds();
Seeds SafetensorsSeeds();
Seeds ManifestSeeds();

// What the manifests of the seeds are read beside.
std::string SeedWeights();
std::string SeedGraph();

}  // namespace lstm::testing
