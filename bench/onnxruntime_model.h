// SPDX-License-Identifier: MIT
#pragma once

#include <string>
#include <vector>

namespace Ort {
struct Env;
}

namespace lstm::bench {

// A step of the model in `directory` (model.onnx and model.textproto), for so many sessions in a batch, against ONNX Runtime, which runs that file for one
// session at a time: CPU for each session.
void CompareModel(Ort::Env& env, const std::string& directory, const std::vector<int>& batch, int samples, bool json);

}  // namespace lstm::bench
