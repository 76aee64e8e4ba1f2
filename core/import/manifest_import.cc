// SPDX-License-Identifier: MIT
#include "core/import/manifest_import.h"

#include <google/protobuf/io/tokenizer.h>
#include <google/protobuf/text_format.h>
#include <openssl/evp.h>

#include <algorithm>
#include <cmath>
#include <memory>
#include <optional>
#include <span>
#include <utility>
#include <vector>

#include "absl/strings/str_cat.h"
#include "core/base/status_macros.h"
#include "core/import/layer_import.h"
#include "core/import/mapped_file.h"
#include "core/import/onnx/onnx_import.h"
#include "core/import/scales_file.h"
#include "core/model/round_weights.h"

namespace lstm::core {
namespace {

namespace pb = manifest::v1;

constexpr size_t kMaxManifestBytes = 4u << 20;
constexpr size_t kMaxWeightBytes = size_t{64} << 30;
constexpr size_t kMaxScalesBytes = size_t{64} << 20;
constexpr int kMaxTokens = 1'000'000;

constexpr uint64_t kMaxRepeatedBytes = 4u << 20;

class FirstError : public google::protobuf::io::ErrorCollector {
 public:
  void AddError(int line, int column, const std::string& message) override {
    if (text.empty()) text = absl::StrCat("line ", line + 1, ", column ", column + 1, ": ", message);
  }
  std::string text;
};

absl::Status RoundByFile(const std::string& name, std::span<const std::byte> file, Model& model) {
  const auto within = [&](const absl::Status& status) { return absl::InvalidArgumentError(absl::StrCat("round_scales '", name, "': ", status.message())); };
  auto scales = ParseScales(file);
  if (!scales.ok()) return within(scales.status());
  if (!model.not_streamable.empty()) return within(absl::InvalidArgumentError("the model has no steps, expected no such line: whole sequences are rounded by least squares alone"));
  const absl::Status rounded = RoundWeightsToInt8(model, *scales);
  return rounded.ok() ? rounded : within(rounded);
}

// `scales`: what is in the file of round_scales.
absl::Status Round(const pb::Manifest& manifest, std::span<const std::byte> scales, Model& model) {
  if (!manifest.round_scales().empty()) return RoundByFile(manifest.round_scales(), scales, model);
  if (manifest.round_weights() == pb::Manifest::BFLOAT16) RoundWeightsToBfloat16(model);
  if (manifest.round_weights() == pb::Manifest::INT8) RoundWeightsToInt8(model);
  return absl::OkStatus();
}

bool IsUtf8(const std::string& text) {
  for (size_t i = 0; i < text.size();) {
    const auto byte = [&](size_t k) { return i + k < text.size() ? static_cast<unsigned char>(text[i + k]) : 0u; };
    const unsigned first = byte(0);
    const size_t length = first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : first < 0xf5 ? 4 : 0;
    if (length == 0) return false;
    for (size_t k = 1; k < length; ++k) {
      if ((byte(k) & 0xc0u) != 0x80u) return false;
    }
    // Too long for what it says, a half of a UTF-16 pair, or beyond Unicode.
    if ((first == 0xe0 && byte(1) < 0xa0) || (first == 0xed && byte(1) > 0x9f) || (first == 0xf0 && byte(1) < 0x90) ||
        (first == 0xf4 && byte(1) > 0x8f)) {
      return false;
    }
    i += length;
  }
  return true;
}

// What text format lets through: numbers that are no value of their enum, floats that are not finite, and text that no client
// could read, for proto3 takes no string that is not UTF-8.
absl::Status CheckFields(const google::protobuf::Message& message, const std::string& path) {
  using Field = google::protobuf::FieldDescriptor;
  const google::protobuf::Reflection& reflection = *message.GetReflection();
  std::vector<const Field*> fields;
  reflection.ListFields(message, &fields);
  for (const Field* field : fields) {
    const int count = field->is_repeated() ? reflection.FieldSize(message, field) : 1;
    for (int i = 0; i < count; ++i) {
      const bool one = !field->is_repeated();
      const std::string name = one ? absl::StrCat(path, field->name()) : absl::StrCat(path, field->name(), "[", i, "]");
      if (field->cpp_type() == Field::CPPTYPE_MESSAGE) {
        const auto& part = one ? reflection.GetMessage(message, field) : reflection.GetRepeatedMessage(message, field, i);
        LSTM_RETURN_IF_ERROR(CheckFields(part, name + "."));
      } else if (field->cpp_type() == Field::CPPTYPE_ENUM) {
        const int number = one ? reflection.GetEnumValue(message, field) : reflection.GetRepeatedEnumValue(message, field, i);
        if (field->enum_type()->FindValueByNumber(number) == nullptr) {
          return absl::InvalidArgumentError(absl::StrCat("manifest: ", name, " is ", number, ", expected a value of ", field->enum_type()->name()));
        }
      } else if (field->cpp_type() == Field::CPPTYPE_FLOAT) {
        const float value = one ? reflection.GetFloat(message, field) : reflection.GetRepeatedFloat(message, field, i);
        if (!std::isfinite(value)) return absl::InvalidArgumentError(absl::StrCat("manifest: ", name, " is ", value, ", expected a finite number"));
      } else if (field->cpp_type() == Field::CPPTYPE_STRING) {
        if (!IsUtf8(one ? reflection.GetString(message, field) : reflection.GetRepeatedString(message, field, i))) {
          return absl::InvalidArgumentError(absl::StrCat("manifest: ", name, " has bytes that are not UTF-8"));
        }
      }
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<pb::Manifest> Parse(const std::string& text) {
  if (text.size() > kMaxManifestBytes) {
    return absl::InvalidArgumentError(absl::StrCat("the manifest has ", text.size(), " bytes, expected at most ", kMaxManifestBytes));
  }
  pb::Manifest manifest;
  google::protobuf::TextFormat::Parser parser;
  FirstError error;
  parser.RecordErrorsTo(&error);
  parser.SetRecursionLimit(8);
  if (!parser.ParseFromString(text, &manifest)) return absl::InvalidArgumentError(absl::StrCat("manifest ", error.text));
  LSTM_RETURN_IF_ERROR(CheckFields(manifest, ""));
  if (!manifest.round_scales().empty() && manifest.round_weights() != pb::Manifest::INT8) {
    return absl::InvalidArgumentError(
        absl::StrCat("manifest: round_scales stands beside round_weights: ", pb::Manifest::Rounding_Name(manifest.round_weights()), ", expected INT8"));
  }
  return manifest;
}

// (x - mean) / scale as one affine op.
absl::Status AddScaling(ModelBuilder& builder, const pb::Input& input, ValueId id) {
  const Shape& shape = builder.value(id).shape;
  const auto last = static_cast<int>(shape.empty() ? 1 : shape.back());
  for (int size : {input.mean_size(), input.scale_size()}) {
    if (size > 1 && size != last) {
      return absl::InvalidArgumentError(absl::StrCat("input '", input.name(), "': ", size, " numbers in mean or scale, expected 1 or ", last));
    }
  }
  const int n = std::max({input.mean_size(), input.scale_size(), 1});
  auto scale = MakeConstant({n}), offset = MakeConstant({n});
  for (int i = 0; i < n; ++i) {
    const double mean = input.mean_size() == 0 ? 0 : input.mean(input.mean_size() == 1 ? 0 : i);
    const double divisor = input.scale_size() == 0 ? 1 : input.scale(input.scale_size() == 1 ? 0 : i);
    if (divisor == 0) return absl::InvalidArgumentError(absl::StrCat("input '", input.name(), "': a scale of 0"));
    scale->values[static_cast<size_t>(i)] = static_cast<float>(1 / divisor);
    offset->values[static_cast<size_t>(i)] = static_cast<float>(-mean / divisor);
  }
  return builder.AddNode(input.name() + ".scaled", AffineOp{scale, offset}, {id}).status();
}

absl::Status AddInputs(ModelBuilder& builder, const pb::Manifest& manifest) {
  for (const pb::Input& input : manifest.input()) {
    Port port{.name = input.name()};
    port.labels.assign(input.labels().begin(), input.labels().end());
    port.uses_vocabulary = input.uses_vocabulary();
    LSTM_ASSIGN_OR_RETURN(port.wire, ReadWire(input));
    const bool ids = input.type() == pb::Input::INT32;
    if (ids && input.shape_size() > 0) {
      return absl::InvalidArgumentError(absl::StrCat("input '", input.name(), "': INT32 inputs are one id a step, expected no shape"));
    }
    LSTM_ASSIGN_OR_RETURN(const ValueId id, builder.AddInput(std::move(port), ids ? DType::kI32 : DType::kF32,
                                                             Shape(input.shape().begin(), input.shape().end())));
    if (input.mean_size() > 0 || input.scale_size() > 0) LSTM_RETURN_IF_ERROR(AddScaling(builder, input, id));
  }
  return absl::OkStatus();
}

// What a layer reads under the name of an input is the scaled one.
absl::StatusOr<ValueId> Read(const ModelBuilder& builder, const std::string& name) {
  auto scaled = builder.Find(name + ".scaled");
  return scaled.ok() ? scaled : builder.Find(name);
}

absl::Status AddLayer(ModelBuilder& builder, const Safetensors& weights, TensorsRead& used, const pb::Layer& layer, ValueId before) {
  LayerImport in{weights, builder, used, layer, (layer.tensors().empty() ? layer.name() : layer.tensors()) + ".", {}};
  for (const std::string& name : layer.input()) {
    auto value = Read(builder, name);
    if (!value.ok()) {
      return absl::InvalidArgumentError(absl::StrCat("layer '", layer.name(), "': ", value.status().message()));
    }
    in.inputs.push_back(*value);
  }
  if (in.inputs.empty()) in.inputs.push_back(before);
  const bool recurrent = layer.has_lstm() || layer.has_gru() || layer.has_rnn() || layer.has_cell();
  return recurrent ? ImportRecurrentLayer(in) : ImportPlainLayer(in);
}

absl::Status AddOutputs(ModelBuilder& builder, const pb::Manifest& manifest, ValueId last) {
  for (const pb::Output& output : manifest.output()) {
    Port port{.name = output.name()};
    port.value = last;
    if (!output.value().empty()) {
      auto value = builder.Find(output.value());
      if (!value.ok()) return absl::InvalidArgumentError(absl::StrCat("output '", output.name(), "': ", value.status().message()));
      port.value = *value;
    }
    port.labels.assign(output.labels().begin(), output.labels().end());
    port.uses_vocabulary = output.uses_vocabulary();
    LSTM_RETURN_IF_ERROR(builder.AddOutput(std::move(port)));
  }
  if (manifest.output().empty()) return builder.AddOutput({.name = "output", .value = last});
  return absl::OkStatus();
}

// `scales`: empty where there are none. The lengths tell three parts from two.
std::string Hash(const std::string& manifest, std::span<const std::byte> weights, std::span<const std::byte> scales) {
  std::vector<std::span<const std::byte>> parts = {std::as_bytes(std::span(manifest)), weights};
  if (!scales.empty()) parts.push_back(scales);
  std::unique_ptr<EVP_MD_CTX, decltype(&EVP_MD_CTX_free)> context(EVP_MD_CTX_new(), EVP_MD_CTX_free);
  std::string out(32, '\0');
  EVP_DigestInit_ex(context.get(), EVP_sha256(), nullptr);
  for (const std::span<const std::byte> part : parts) {
    const uint64_t length = part.size();
    EVP_DigestUpdate(context.get(), &length, sizeof(length));
    EVP_DigestUpdate(context.get(), part.data(), part.size());
  }
  EVP_DigestFinal_ex(context.get(), reinterpret_cast<unsigned char*>(out.data()), nullptr);
  return out;
}

}  // namespace

std::shared_ptr<Constant> MakeConstant(Shape shape) {
  auto constant = std::make_shared<Constant>();
  constant->values = AlignedBuffer<float>(static_cast<size_t>(CheckedElementCount(shape)));
  constant->shape = std::move(shape);
  return constant;
}

absl::StatusOr<ConstantPtr> LayerImport::Tensor(const std::string& name) {
  const auto it = weights.entries().find(prefix + name);
  if (it == weights.entries().end()) return weights.Load(prefix + name);
  const auto [last, first_time] = used.last.try_emplace(it->first);
  ConstantPtr tensor = last->second.lock();
  if (!first_time) {
    // Every layer packs its weights, and most copy them: a small file must not become a large model.
    used.repeated_bytes += static_cast<uint64_t>(CheckedElementCount(it->second.shape)) * sizeof(float);
    const uint64_t most = kMaxRepeatedBytes + (tensor ? weights.float_bytes() : 0);
    if (used.repeated_bytes > most) {
      return absl::InvalidArgumentError(absl::StrCat("tensor '", it->first, "' is read once more: ", used.repeated_bytes,
                                                     " bytes are shared by layers, expected at most ", most));
    }
  }
  if (!tensor) {
    LSTM_ASSIGN_OR_RETURN(tensor, weights.Load(it->first));
    last->second = tensor;
  }
  return tensor;
}

absl::StatusOr<ConstantPtr> LayerImport::Tensor(const std::string& name, const Shape& shape) {
  const auto it = weights.entries().find(prefix + name);
  if (it != weights.entries().end() && it->second.shape != shape) {
    return absl::InvalidArgumentError(absl::StrCat("tensor '", prefix, name, "' has shape ", ShapeString(it->second.shape), ", expected ",
                                                   ShapeString(shape)));
  }
  return Tensor(name);
}

absl::StatusOr<ConstantPtr> Transpose(const ConstantPtr& matrix, const std::string& name) {
  if (matrix->shape.size() != 2) {
    return absl::InvalidArgumentError(absl::StrCat("tensor '", name, "' has shape ", ShapeString(matrix->shape), ", expected two dimensions"));
  }
  const int64_t rows = matrix->shape[0], columns = matrix->shape[1];
  auto out = MakeConstant({columns, rows});
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) out->values.data()[c * rows + r] = matrix->values.data()[r * columns + c];
  }
  return ConstantPtr(out);
}

namespace {

absl::StatusOr<Model> FromManifest(const pb::Manifest& manifest, const std::string& text, std::span<const std::byte> weights,
                                   std::span<const std::byte> scales, ImportNotes* notes) {
  LSTM_ASSIGN_OR_RETURN(const Safetensors tensors, Safetensors::Parse(weights));
  ModelBuilder builder;
  LSTM_RETURN_IF_ERROR(AddInputs(builder, manifest));
  if (manifest.input().empty() || manifest.layer().empty()) {
    return absl::InvalidArgumentError(absl::StrCat("the manifest has ", manifest.input_size(), " inputs and ", manifest.layer_size(),
                                                   " layers, expected at least one of each"));
  }
  TensorsRead used;
  LSTM_ASSIGN_OR_RETURN(ValueId last, Read(builder, manifest.input(0).name()));
  for (const pb::Layer& layer : manifest.layer()) {
    LSTM_RETURN_IF_ERROR(AddLayer(builder, tensors, used, layer, last));
    LSTM_ASSIGN_OR_RETURN(last, builder.Find(layer.name()));
  }
  LSTM_RETURN_IF_ERROR(AddOutputs(builder, manifest, last));
  Model& model = builder.model();
  model.description = manifest.description();
  model.hash = Hash(text, weights, scales);
  if (manifest.has_vocabulary()) {
    const pb::Vocabulary& vocabulary = manifest.vocabulary();
    if (vocabulary.token_size() > kMaxTokens) return absl::InvalidArgumentError(absl::StrCat("vocabulary: more than ", kMaxTokens, " tokens"));
    model.vocabulary.emplace();
    model.vocabulary->words = vocabulary.unit() == pb::Vocabulary::WORD;
    model.vocabulary->tokens.assign(vocabulary.token().begin(), vocabulary.token().end());
    if (vocabulary.has_unknown()) model.vocabulary->unknown = vocabulary.unknown();
  }
  if (notes != nullptr) {
    google::protobuf::TextFormat::PrintToString(manifest, &notes->manifest);
    for (const auto& [name, entry] : tensors.entries()) {
      if (!used.last.contains(name)) notes->unused.push_back(name);
    }
  }
  LSTM_ASSIGN_OR_RETURN(Model built, std::move(builder).Build());
  LSTM_RETURN_IF_ERROR(Round(manifest, scales, built));
  return built;
}

absl::StatusOr<pb::Manifest> ReadManifest(const std::string& directory, std::string& text, HashList& hashes) {
  LSTM_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(directory + "/model.textproto", kMaxManifestBytes));
  LSTM_RETURN_IF_ERROR(hashes.Check("model.textproto", file.bytes()));
  text.assign(reinterpret_cast<const char*>(file.bytes().data()), file.bytes().size());
  return Parse(text);
}

absl::StatusOr<std::string> BesideManifest(const std::string& name, const char* field) {
  if (name.find('/') == std::string::npos && name.find('\0') == std::string::npos && name[0] != '.') return name;
  return absl::InvalidArgumentError(absl::StrCat(field, " must be the name of a file beside the manifest, without '/' and no leading '.'"));
}

// The file of round_scales; nothing where there is none.
absl::StatusOr<std::optional<MappedFile>> ReadScales(const std::string& directory, const pb::Manifest& manifest, HashList& hashes) {
  if (manifest.round_scales().empty()) return std::nullopt;
  LSTM_ASSIGN_OR_RETURN(const std::string name, BesideManifest(manifest.round_scales(), "round_scales"));
  LSTM_ASSIGN_OR_RETURN(MappedFile file, MappedFile::Open(absl::StrCat(directory, "/", name), kMaxScalesBytes));
  LSTM_RETURN_IF_ERROR(hashes.Check(name, file.bytes()));
  return std::optional<MappedFile>(std::move(file));
}

}  // namespace

absl::StatusOr<Model> ImportManifest(const std::string& text, std::span<const std::byte> weights, ImportNotes* notes, std::span<const std::byte> scales) {
  LSTM_ASSIGN_OR_RETURN(const pb::Manifest manifest, Parse(text));
  return FromManifest(manifest, text, weights, scales, notes);
}

absl::StatusOr<Model> LoadOnnxFile(const std::string& path, const std::string& manifest_text, const pb::Manifest& manifest,
                                   const std::map<std::string, onnx::Tensor>& given, ImportNotes* notes, HashList* hashes,
                                   std::span<const std::byte> scales) {
  LSTM_ASSIGN_OR_RETURN(const MappedFile file, MappedFile::Open(path, kMaxWeightBytes));
  if (hashes != nullptr) LSTM_RETURN_IF_ERROR(hashes->Check(path.substr(path.rfind('/') + 1), file.bytes()));
  OnnxNotes found;
  LSTM_ASSIGN_OR_RETURN(Model model, ImportOnnx(file.bytes(), manifest, given, &found));
  LSTM_RETURN_IF_ERROR(Round(manifest, scales, model));
  model.hash = Hash(manifest_text, file.bytes(), scales);
  if (notes != nullptr) {
    google::protobuf::TextFormat::PrintToString(manifest, &notes->manifest);
    notes->onnx = std::move(found);
    notes->is_onnx = true;
  }
  return model;
}

absl::StatusOr<Model> LoadModelDirectory(const std::string& directory, const std::string& name, const std::string& version,
                                         ImportNotes* notes, const std::map<std::string, onnx::Tensor>& given, bool exact) {
  std::string text;
  LSTM_ASSIGN_OR_RETURN(HashList hashes, HashList::Read(directory));
  auto found = ReadManifest(directory, text, hashes);
  if (!found.ok() && !absl::IsNotFound(found.status())) return found.status();
  pb::Manifest manifest = found.ok() ? *found : pb::Manifest();
  if (exact) manifest.clear_round_weights(), manifest.clear_round_scales();
  LSTM_ASSIGN_OR_RETURN(const std::optional<MappedFile> scales, ReadScales(directory, manifest, hashes));
  const std::span<const std::byte> scale_bytes = scales ? scales->bytes() : std::span<const std::byte>();
  Model model;
  std::string file;
  if (!found.ok() || manifest.has_onnx()) {  // a graph that leaves nothing open needs no manifest
    LSTM_ASSIGN_OR_RETURN(file, BesideManifest(manifest.onnx().file().empty() ? "model.onnx" : manifest.onnx().file(), "onnx.file"));
    auto loaded = LoadOnnxFile(absl::StrCat(directory, "/", file), text, manifest, given, notes, &hashes, scale_bytes);
    if (!found.ok() && absl::IsNotFound(loaded.status())) return found.status();
    LSTM_ASSIGN_OR_RETURN(model, std::move(loaded));
  } else {
    LSTM_ASSIGN_OR_RETURN(file, BesideManifest(manifest.weights().empty() ? "model.safetensors" : manifest.weights(), "weights"));
    LSTM_ASSIGN_OR_RETURN(const MappedFile weights, MappedFile::Open(absl::StrCat(directory, "/", file), kMaxWeightBytes));
    LSTM_RETURN_IF_ERROR(hashes.Check(file, weights.bytes()));
    LSTM_ASSIGN_OR_RETURN(model, FromManifest(manifest, text, weights.bytes(), scale_bytes, notes));
  }
  LSTM_RETURN_IF_ERROR(hashes.CheckRest(directory));
  if (notes != nullptr) {
    notes->files = found.ok() ? std::vector<std::string>{"model.textproto", file} : std::vector<std::string>{file};
    if (scales) notes->files.push_back(manifest.round_scales());
  }
  model.name = name;
  model.version = version;
  return model;
}

}  // namespace lstm::core
