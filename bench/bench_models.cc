// SPDX-License-Identifier: MIT
#include "bench/bench_models.h"

#include <fstream>
#include <nlohmann/json.hpp>
#include <random>
#include <utility>
#include <vector>

#include "bench/measure.h"

namespace lstm::bench {
namespace {

namespace fs = std::filesystem;

struct Tensor {
  std::string name;
  std::vector<int64_t> shape;
  std::vector<float> values;
};

void WriteSafetensors(const fs::path& path, const std::vector<Tensor>& tensors) {
  nlohmann::ordered_json header = nlohmann::ordered_json::object();
  uint64_t at = 0;
  for (const Tensor& tensor : tensors) {
    const uint64_t bytes = tensor.values.size() * sizeof(float);
    header[tensor.name] = {{"dtype", "F32"}, {"shape", tensor.shape}, {"data_offsets", {at, at + bytes}}};
    at += bytes;
  }
  const std::string text = header.dump();
  const uint64_t length = text.size();
  std::ofstream out(path, std::ios::binary);
  out.write(reinterpret_cast<const char*>(&length), sizeof(length));
  out << text;
  for (const Tensor& tensor : tensors) out.write(reinterpret_cast<const char*>(tensor.values.data()), static_cast<std::streamsize>(tensor.values.size() * sizeof(float)));
  if (!out.flush()) Die("cannot write " + path.string());
}

Tensor Random(std::string name, std::vector<int64_t> shape, float scale, std::minstd_rand& random) {
  size_t n = 1;
  for (const int64_t d : shape) n *= static_cast<size_t>(d);
  Tensor tensor{std::move(name), std::move(shape), std::vector<float>(n)};
  for (float& v : tensor.values) v = std::uniform_real_distribution<float>(-scale, scale)(random);
  return tensor;
}

void WriteManifest(const fs::path& directory, int64_t in, const std::string& layer) {
  std::ofstream out(directory / "model.textproto");
  out << "input { name: \"x\" shape: " << in << " }\n" << layer << "\noutput { name: \"y\" }\n";
  if (!out.flush()) Die("cannot write " + directory.string());
}

}  // namespace

Models::Models() {
  std::string name = (fs::temp_directory_path() / "lstm-bench-models-XXXXXX").string();
  if (mkdtemp(name.data()) == nullptr) Die("no temporary directory");
  path_ = name;
}

Models::~Models() {
  std::error_code ignored;
  fs::remove_all(path_, ignored);
}

void Models::Clear() {
  for (const auto& entry : fs::directory_iterator(path_)) fs::remove_all(entry.path());
}

void Models::PutFree(const std::string& name, int64_t floats) {
  fs::create_directories(At(name));
  WriteSafetensors(At(name) / "model.safetensors", {});
  WriteManifest(At(name), floats, "layer { name: \"y\" activation { function: RELU } }");
}

void Models::PutLstm(const std::string& name, int64_t hidden) {
  fs::create_directories(At(name));
  std::minstd_rand random(1);
  const float scale = 1.0f / 16;
  WriteSafetensors(At(name) / "model.safetensors", {Random("y.weight_ih_l0", {4 * hidden, hidden}, scale, random), Random("y.weight_hh_l0", {4 * hidden, hidden}, scale, random),
                                                    Random("y.bias_ih_l0", {4 * hidden}, scale, random), Random("y.bias_hh_l0", {4 * hidden}, scale, random)});
  WriteManifest(At(name), hidden, "layer { name: \"y\" lstm { } }");
}

void Models::PutBundled(const std::string& name) {
  fs::create_directories(At(name));
  std::error_code error;
  fs::copy(fs::path("models/repository") / name / "1", At(name), fs::copy_options::recursive, error);
  if (error) Die("models/repository/" + name + ": " + error.message() + "; run it from the root of the sources");
}

}  // namespace lstm::bench
