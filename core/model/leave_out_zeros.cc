// SPDX-License-Identifier: MIT
#include "core/model/leave_out_zeros.h"

#include <algorithm>
#include <map>
#include <utility>

#include "absl/strings/str_cat.h"
#include "core/model/selections.h"

namespace lstm::core {
namespace {

constexpr size_t kFewestSaved = 2048;             // products of a weight and a number: less is not worth an op
constexpr size_t kLeastPart = 16;                 // of all that there are, one in so many
constexpr size_t kMostGroups = 8;                 // of rows: each has weights of its own
constexpr size_t kMostWeights = size_t{1} << 24;  // that are made for one model
constexpr size_t kMostLooks = size_t{1} << 26;    // at an element that a product reads, for one model

// Rows of a product that meet zeros in the same places.
struct Group {
  std::vector<size_t> columns;  // the others
  std::vector<size_t> rows;
};

class Cutter {
 public:
  explicit Cutter(Model& model) : model_(model), maker_(model.values.size(), nullptr) {}

  void Run() {
    const std::vector<Node> nodes = std::exchange(model_.nodes, {});
    for (const Node& node : nodes) maker_[static_cast<size_t>(node.output)] = &node;
    bool any = false;
    for (const Node& node : nodes) {
      const auto groups = Groups(node);
      any = any || !groups.empty();
      if (groups.empty()) {
        model_.nodes.push_back(node);
      } else {
        Cut(node, groups);
      }
    }
    if (!any) return;
    JoinSelections(model_);
    DropUnused(model_);
  }

 private:
  // Empty: it stays as it is.
  std::vector<Group> Groups(const Node& node) {
    const auto* linear = std::get_if<LinearOp>(&node.op);
    const Node* const from = linear == nullptr ? nullptr : maker_[static_cast<size_t>(node.inputs[0])];
    const auto* select = from == nullptr ? nullptr : std::get_if<SelectOp>(&from->op);
    if (select == nullptr || node.name.size() > kLongestSplitName || std::max(select->index->size(), Count(model_, node.output)) > kMostIndexes) return {};
    size_t looks = select->index->size();
    for (const ValueId id : from->inputs) looks += Count(model_, id);
    if (looks > looks_) return {};
    looks_ -= looks;
    std::vector<bool> zero;  // of the selection's inputs, laid end to end
    for (const ValueId id : from->inputs) {
      const Node* const made = maker_[static_cast<size_t>(id)];
      const auto* constant = made == nullptr ? nullptr : std::get_if<ConstantOp>(&made->op);
      for (size_t i = 0; i < Count(model_, id); ++i) zero.push_back(constant != nullptr && constant->value->values[i] == 0);
    }
    const auto width = static_cast<size_t>(linear->weight->shape[1]), outputs = static_cast<size_t>(linear->weight->shape[0]);
    std::map<std::vector<bool>, size_t> seen;
    std::vector<Group> groups;
    for (size_t row = 0; row * width < select->index->size(); ++row) {
      std::vector<bool> zeros;
      for (size_t c = 0; c < width; ++c) zeros.push_back(zero[static_cast<size_t>((*select->index)[row * width + c])]);
      const auto [at, is_new] = seen.try_emplace(zeros, groups.size());
      if (is_new) {
        if (groups.size() == kMostGroups) return {};
        Group& group = groups.emplace_back();
        for (size_t c = 0; c < width; ++c) {
          if (!zeros[c]) group.columns.push_back(c);
        }
        if (group.columns.empty()) group.columns.push_back(0);  // no product is over nothing
      }
      groups[at->second].rows.push_back(row);
    }
    size_t all = 0, kept = 0, weights = 0;
    for (const Group& group : groups) {
      all += group.rows.size() * width * outputs;
      kept += group.rows.size() * group.columns.size() * outputs;
      weights += group.columns.size() * outputs;
    }
    const bool pays = all - kept >= kFewestSaved && (all - kept) * kLeastPart >= all && made_ + weights <= kMostWeights;
    return pays ? groups : std::vector<Group>{};
  }

  ValueId Add(const std::string& name, Shape shape) {
    model_.values.push_back({name, DType::kF32, std::move(shape)});
    return static_cast<ValueId>(model_.values.size()) - 1;
  }

  void Cut(const Node& node, const std::vector<Group>& groups) {
    const auto& linear = std::get<LinearOp>(node.op);
    const Node& from = *maker_[static_cast<size_t>(node.inputs[0])];
    const std::vector<int32_t>& index = *std::get<SelectOp>(from.op).index;
    const auto width = static_cast<size_t>(linear.weight->shape[1]), outputs = static_cast<size_t>(linear.weight->shape[0]);
    auto back = std::make_shared<std::vector<int32_t>>(index.size() / width * outputs);
    std::vector<ValueId> parts;
    int32_t begin = 0;
    for (const Group& group : groups) {
      auto chosen = std::make_shared<std::vector<int32_t>>();
      auto weight = std::make_shared<Constant>();
      weight->shape = {static_cast<int64_t>(outputs), static_cast<int64_t>(group.columns.size())};
      weight->values = AlignedBuffer<float>(outputs * group.columns.size());
      made_ += weight->values.size();
      float* w = weight->values.data();
      for (size_t o = 0; o < outputs; ++o) {
        for (const size_t c : group.columns) *w++ = linear.weight->values[o * width + c];
      }
      for (const size_t row : group.rows) {
        for (const size_t c : group.columns) chosen->push_back(index[row * width + c]);
        for (size_t o = 0; o < outputs; ++o) (*back)[row * outputs + o] = begin++;
      }
      const std::string name = absl::StrCat(node.name, ".rows", group.rows[0]);
      const auto rows = static_cast<int64_t>(group.rows.size());
      const bool all = groups.size() == 1;  // rows, in their order
      Shape in = all ? model_.values[static_cast<size_t>(node.inputs[0])].shape : Shape{rows, 0};
      in.back() = static_cast<int64_t>(group.columns.size());
      const ValueId x = Add(name + ".in", in);
      model_.nodes.push_back({name + ".in", SelectOp{std::move(chosen), in}, from.inputs, x});
      if (all) {
        model_.nodes.push_back({node.name, LinearOp{std::move(weight), linear.bias}, {x}, node.output});
        return;
      }
      parts.push_back(Add(name, {rows, static_cast<int64_t>(outputs)}));
      model_.nodes.push_back({name, LinearOp{std::move(weight), linear.bias}, {x}, parts.back()});
    }
    model_.nodes.push_back({node.name, SelectOp{std::move(back), model_.values[static_cast<size_t>(node.output)].shape}, std::move(parts), node.output});
  }

  Model& model_;
  std::vector<const Node*> maker_;  // by value; null: an input
  size_t looks_ = kMostLooks, made_ = 0;
};

}  // namespace

void LeaveOutZeros(Model& model) { Cutter(model).Run(); }

}  // namespace lstm::core
