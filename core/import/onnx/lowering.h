// SPDX-License-Identifier: MIT
#pragma once

#include <functional>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/statusor.h"
#include "core/import/onnx/arrange.h"
#include "core/import/onnx/graph.h"
#include "core/import/onnx/tensor.h"
#include "core/import/onnx/val.h"
#include "core/model/model_builder.h"
#include "core/model/sequence.h"

// Private to core/import/onnx: from a graph to the model of one step of one session. A session is a batch of one, so an axis
// of the batch has one item and mixes with nothing. The axis of time has one item too while it is tracked: an op that would
// mix it with anything is refused. Shapes that the graph computes see it as kTime.
namespace lstm::core::onnx {

struct Window;

class Lowering {
 public:
  // `whole`: to a sequence model, instead of the model of one step. `trial`: to see whether it can be; weights of 8 bits are zeros then, which
  // take up no memory.
  Lowering(const FileView& file, std::vector<GraphInput>& inputs, Reading& reading, int64_t& budget, bool whole, bool trial)
      : file_(file), inputs_(inputs), reading_(reading), budget_(budget), whole_(whole), trial_(trial) {
    stages_.push_back(std::make_unique<Stage>());
  }

  bool zeros() const { return zeros_; }  // a trial found such weights

  // Lowers the whole graph. ABORTED where `reading` learnt something: lower anew. INVALID_ARGUMENT names the node, the
  // value or the input, and says what stands against it; FAILED_PRECONDITION where that is that it looks ahead.
  absl::Status Run();

  ModelBuilder& builder() { return stages_[static_cast<size_t>(stage_)]->builder; }
  // Whole sequences alone, once it has run.
  absl::StatusOr<SequenceModel> TakeSequence();

  struct Output {
    std::string name;
    ValPtr value;
    int input = -1;  // it is the next value of this one
  };
  const std::vector<Output>& outputs() const { return outputs_; }

  // ---- for the parts of lowering in other files ----
  struct Call {
    const NodeView& node;
    std::vector<ValPtr> in;   // null: absent
    std::vector<ValPtr> out;
    const Val& operator[](size_t i) const { return *in[i]; }
    bool has(size_t i) const { return i < in.size() && in[i] != nullptr; }
  };

 private:
  struct Origin {
    int source = -1;
    SequenceRead::Kind kind = SequenceRead::kEach;
    int64_t shift = 0;
    bool reversed = false;
    int64_t at = 0;
    int64_t stride = 1;
    friend auto operator<=>(const Origin&, const Origin&) = default;
    bool plain() const { return shift == 0 && !reversed && stride == 1; }
  };
  struct Source {
    // kCell: the new cell state of a cell, no value of the model. kImport: of an input or an earlier stage.
    enum Kind { kValue, kInput, kConstant, kCell, kImport } kind;
    ValueId value = -1;  // in its stage; -1: not there yet
    int input = -1;
    TensorPtr constant;
    Shape shape;
    std::string cell = {};
    StateId state = -1;      // kCell
    Origin origin = {};      // kImport
    int stage = 0;           // where it is computed; -1: it comes from outside
  };
  struct Stage {
    ModelBuilder builder;
    int length = -1;     // as SequenceStage has it, for sequence_lens
    int rate = -1;       // how many frames there are for T steps, an index into lengths_; -1: T
    bool timed = false;  // it needs more than one step
    std::vector<SequenceRead> inputs;
    std::vector<ValueId> input_values;
    std::vector<std::pair<StateId, SequenceRead>> states;
    std::map<ValueId, int> shown;     // values that are read step by step -> output
    std::map<ValueId, StateId> kept;  // values that are read after the last step -> a state that holds them
  };
  struct Claim {  // a cell keeps these elements of an input as its own state
    int input;
    std::vector<int32_t> at;
    int source;   // of the new elements, in order
    int step_axis;  // of a graph of one step, where somebody must carry the state on: the axis that may be time; else -2
  };

  // lowering.cc: the walk
  absl::Status RunNodes(const GraphView& graph);
  absl::Status RunNode(std::string_view message);
  int NumberBehind(const Val& val);
  absl::Status RunIf(Call& call);
  absl::Status AddInputs();
  absl::Status Bind(std::string_view name, ValPtr value);
  absl::Status CountUses(std::string_view graph_message, int depth);

  // values.cc: values of the step
  absl::StatusOr<TensorPtr> Constant(const Val& val);              // INVALID_ARGUMENT for what is none
  absl::StatusOr<TensorPtr> ConstantOf(const Call& call, size_t i, const char* what);
  absl::StatusOr<std::vector<int64_t>> IntsOf(const Call& call, size_t i, const char* what);
  ValPtr MakeConstantVal(Tensor tensor);
  ValPtr Computed(ValueId id, Shape shape, const Val& like);       // time, last and labels from `like`
  absl::StatusOr<ValPtr> Arranged(const Val& val, const Arrangement& arrangement, Shape shape, double fill = 0);
  ValPtr Reshaped(const Val& val, Shape shape);                    // the same elements; time is left to the caller
  absl::StatusOr<ValueId> Use(const Val& val, const Shape& shape); // as a value of the model
  absl::StatusOr<ValueId> ValueOf(int source);
  absl::StatusOr<ValueId> Add(absl::string_view what, Op op, std::vector<ValueId> inputs);
  std::string FreshName(absl::string_view wanted);
  absl::StatusOr<StateId> AddState(absl::string_view wanted, Shape shape, std::vector<float> initial);
  absl::Status Spend(int64_t elements);
  absl::Status Affordable(int64_t elements) const;  // whether Spend would be refused
  // Weights that a file has once may be named by many nodes: what is made of one, of `shape`, is made once ...
  absl::StatusOr<ConstantPtr> Shared(const ValPtr& val, std::string how, Shape shape, const std::function<ConstantPtr(const Tensor&)>& make);
  absl::Status Bear(int64_t weights);       // ... or counted
  absl::Status CountFolded(const Call& call);  // constants that a node computed: what they hold, and what they took
  void Unite(int a, int b);
  int Root(int label);
  // True where the label's axes were made time, so that the graph must be lowered anew.
  bool MakeTime(int label);
  bool IsOpen(int label);
  Shape FullShape(const Val& val) const;
  absl::Status Refuse(absl::string_view why) const { return absl::InvalidArgumentError(why); }
  // For what no step can know: whole sequences may still be served.
  absl::Status LooksAhead(absl::string_view why) const { return absl::FailedPreconditionError(why); }
  int NewSource(Source source);

  // whole.cc: the stages of a sequence model. A value that is read in another stage, or at another step, is brought there.
  void NewStage(int length) { NewStage(length, stages_[static_cast<size_t>(stage_)]->rate); }
  void NewStage(int length, int rate);
  int RateOf(const Val& val) const;  // of one that time flows through
  // The rate of windows over what has `rate`: (n - less) / stride + 1 of n frames.
  absl::StatusOr<int> RateAfter(int rate, int64_t stride, int64_t less);
  int64_t TimeOf(int rate) const { return rate < 0 ? kTime : lengths_[static_cast<size_t>(rate)].Of(kTime); }
  std::optional<int> RateOfSize(int64_t size) const;  // whose length of time a graph computed
  std::string RateText(int rate) const { return rate < 0 ? "T" : lengths_[static_cast<size_t>(rate)].Text(); }
  absl::Status Settle(Call& call);  // before an op: all that it reads belongs to this stage
  bool Here(const Val& val) const;  // something of it changes over the steps of this stage
  bool StaysConstant(const Source& source, const Origin& how) const;
  bool CanBring(const Val& val, const Origin& how) const;  // else a new stage must begin first
  ValPtr Bring(const Val& val, const Origin& how);
  absl::StatusOr<ValPtr> Anew(const ValPtr& val, const Origin& how);  // brings it, into a new stage where that must be
  std::optional<Origin> Composed(const Source& import, const Origin& how) const;
  absl::StatusOr<ValueId> Materialize(int source);
  absl::StatusOr<ValueId> ValueIn(int source);  // in the stage of the source
  absl::StatusOr<SequenceRead> ReadOf(const Origin& origin);
  absl::StatusOr<SequenceRead> ReadAfter(const Val& val);   // elements in a row of one source
  absl::StatusOr<ValPtr> Accumulated(const Val& val, ReduceKind kind);  // over all steps
  absl::StatusOr<int> LengthOf(const Call& call);  // an index into lengths_, -1: all steps

  // structure.cc, math.cc, windows.cc (and pools.cc), recurrent.cc: the ops. UNIMPLEMENTED where an op is not theirs.
  absl::Status Structure(Call& call);
  absl::Status Math(Call& call);
  absl::Status Windows(Call& call);
  absl::Status Recurrent(Call& call);

  // scan.cc
  struct Scanned;
  absl::Status RunScan(Call& call);
  absl::StatusOr<Scanned> ReadScan(const Call& call);
  absl::Status ScanOverTime(Call& call, Scanned& scan);
  absl::Status ScanWithin(Call& call, Scanned& scan);
  absl::StatusOr<size_t> OutAxis(const Scanned& scan, size_t i, const Val& item);
  absl::StatusOr<std::vector<ValPtr>> RunBody(const GraphView& body, const std::vector<ValPtr>& inputs);
  absl::StatusOr<std::vector<ValPtr>> RunStep(const GraphView& body, const std::vector<ValPtr>& inputs);  // ... along time
  struct Carried {
    struct State {
      StateId id = -1;
      Shape shape;
      int input = -1;  // it begins as these elements of this input
      std::vector<int32_t> at;
    };
    std::vector<State> states;
    std::vector<ValPtr> before;
  };
  absl::Status BeginStates(const std::vector<ValPtr>& initial, bool turned, Carried& out);
  absl::StatusOr<std::vector<ValPtr>> EndStates(const Carried& carried, const std::vector<ValPtr>& after);
  ValPtr EachStep(const Val& item, size_t axis, int label);  // what every step gives, time in `axis`
  absl::StatusOr<ValPtr> Stacked(const std::vector<ValPtr>& items, size_t axis);

  // loop.cc
  absl::Status RunLoop(Call& call);
  absl::Status LoopOverTime(Call& call, const GraphView& body, const std::vector<bool>& stays);
  absl::Status LoopWithin(Call& call, const GraphView& body, int64_t trips);
  absl::Status FindTime(const GraphView& body);
  absl::Status WithNumber(Call& call);    // ops that read the number of a step
  absl::Status Sequences(Call& call);

  // quantized.cc
  absl::Status QuantizedOps(Call& call);
  absl::Status QuantizedLstm(Call& call);
  absl::StatusOr<ValPtr> Sub(std::string_view op, const Call& call, std::vector<ValPtr> in);  // that op, with the node's attributes
  absl::StatusOr<ValPtr> Beside(const Val& x, const ValPtr& number, int64_t axis, const char* what);
  absl::StatusOr<ValPtr> Dequantized(const ValPtr& x, const ValPtr& scale, const ValPtr& zero, int64_t axis);  // null: 1, 0
  absl::StatusOr<ValPtr> Quantize(const Val& x, const ValPtr& scale, const ValPtr& zero, int64_t axis, int64_t type);
  absl::Status QuantizeByRange(const ValPtr& from, ValPtr& y, ValPtr& scale, ValPtr& zero);
  absl::StatusOr<ValPtr> AsQuantized(const ValPtr& x);  // there and back: what is left of x

  absl::Status LowerShape(Call& call);
  absl::Status LowerReshape(Call& call, const std::vector<int64_t>& target, bool zero_copies);
  absl::Status LowerTranspose(Call& call);
  absl::Status LowerSlice(Call& call);
  absl::Status LowerGather(Call& call);
  absl::Status LowerConcat(Call& call);
  absl::Status LowerSplit(Call& call);
  absl::Status LowerPad(Call& call);
  absl::Status LowerExpand(Call& call, Shape target);
  absl::Status LowerTopK(Call& call);
  absl::Status LowerReverse(Call& call);
  absl::Status LowerOneHot(Call& call);
  absl::Status LowerScatter(Call& call);
  absl::StatusOr<std::vector<int64_t>> ScatterPlaces(const Call& call);
  absl::Status LowerMoves(Call& call);
  absl::Status LowerResize(Call& call);
  absl::Status ReadResize(const Call& call, Shape& sizes, std::vector<double>& scales);
  absl::StatusOr<ValPtr> Picked(const Val& x, const std::vector<int64_t>& places, Shape shape);
  absl::StatusOr<ValPtr> AsComputed(const ValPtr& val);
  absl::StatusOr<ValPtr> Embedding(const ValPtr& table, const Val& ids);
  absl::StatusOr<ValPtr> Cut(const Val& val, size_t axis, int64_t begin, int64_t count, int64_t step);

  absl::StatusOr<ValPtr> Combine(ElementwiseKind kind, const Val& a, const Val& b);
  absl::StatusOr<ValPtr> Activated(const Val& val, ActivationOp op);
  absl::StatusOr<ValPtr> Scaled(const Val& val, double scale, double offset);
  absl::StatusOr<ValPtr> Linear(const Val& val, ConstantPtr weight, ConstantPtr bias);
  absl::StatusOr<ValPtr> AsFloats(const ValPtr& val);
  absl::Status Decide(Call& call);
  absl::Status DecideComputed(Call& call);
  absl::Status Choose(Call& call, const std::vector<ValPtr>& in);
  absl::Status LowerMatMul(Call& call);
  absl::Status LowerGemm(Call& call);
  absl::Status LowerReduce(Call& call, ReduceKind kind);
  absl::StatusOr<ValPtr> Reduced(const Val& val, ReduceKind kind, std::vector<int64_t> axes, bool keep);
  absl::Status LowerSoftmax(Call& call, bool log);
  absl::Status SoftmaxOverTime(Call& call, bool log);
  absl::Status LowerNorm(Call& call);
  absl::Status LowerBatchNorm(Call& call);
  absl::StatusOr<ValPtr> WithReduced(ElementwiseKind kind, ValPtr& x, ValPtr reduced);
  absl::StatusOr<ValPtr> Normalized(ValPtr x, const std::vector<int64_t>& axes, double epsilon, bool centred);
  absl::Status LowerNorms(Call& call);
  absl::Status LowerArg(Call& call);
  absl::Status LowerCumSum(Call& call);
  int64_t FixedTime(int rate) const;  // the number of frames that the file fixes; 0: none
  void NoteGate(std::string_view op, const Call& call);

  absl::Status LowerConv(Call& call, bool transposed);
  absl::StatusOr<ValPtr> Spread(const ValPtr& x, const Window& window, const std::vector<int64_t>& every);
  // The value with the `frames` before it in front, along the axis of time. `initial` has a number for each frame before the
  // first; empty: zeros.
  absl::StatusOr<ValPtr> WithContext(const Val& val, int64_t frames, absl::string_view name, const std::vector<float>& initial = {});
  // Whole sequences alone: windows of reach + 1 frames, every stride-th, of the sequence with `front` and `behind` frames of
  // zeros around it. The axis of time has the frames of one window.
  absl::StatusOr<ValPtr> WindowsOverTime(const ValPtr& x, std::string_view mode, int64_t front, int64_t behind, int64_t reach, int64_t stride, int64_t& tail);
  absl::StatusOr<ValPtr> Windowed(const ValPtr& val, int64_t front, int64_t behind, int64_t reach, int64_t stride);

  // pools.cc
  struct Pool;
  absl::Status LowerPool(Call& call);
  absl::Status ReadPool(const Call& call, Pool& pool);
  absl::StatusOr<ValPtr> PoolFrames(const ValPtr& x, Pool& pool);
  absl::StatusOr<ValPtr> CausalFrames(const ValPtr& x, Pool& pool);
  absl::StatusOr<ValPtr> WholeFrames(const ValPtr& x, Pool& pool);
  absl::StatusOr<ValPtr> TapsOf(const Val& window, const Pool& pool, size_t j);
  absl::StatusOr<ValPtr> Apart(const Val& window, const Val& like, Pool& pool, size_t j);
  int One();  // a source that is one in every step
  absl::StatusOr<ValPtr> PoolRows(const Val& frames, Pool& pool, Shape& shape);
  absl::StatusOr<ValPtr> Averaged(ValPtr y, const Pool& pool);

  struct Cell;
  absl::Status ReadCell(Call& call, size_t direction, bool within, Cell& cell);
  absl::StatusOr<bool> RunsWithin(const Call& call);
  absl::Status RecurrentWithin(Call& call, const std::vector<Cell>& cells);
  absl::StatusOr<ValPtr> InitialWithin(const Call& call, size_t i, size_t directions, size_t d, const Cell& cell);
  absl::Status ReadActivations(const NodeView& node, size_t direction, size_t directions, Cell& cell);
  absl::Status RepeatedInTime(Call& call, size_t seq);
  absl::Status PlaceInTime(Call& call, Cell& cell);
  absl::Status RecurrentStep(Call& call, const Cell& cell);
  absl::Status RecurrentWhole(Call& call, const std::vector<Cell>& cells);
  // A state that the graph fixes for a whole batch: that of one item, where all are the same.
  absl::StatusOr<ValPtr> OfOneItem(const ValPtr& initial, size_t batch, int64_t items);
  absl::StatusOr<ValPtr> InitialPart(const Call& call, size_t i, size_t directions, size_t d, const Cell& cell, const char* part);
  absl::StatusOr<StateId> GivenState(const Cell& cell, const ValPtr& initial, const char* part);
  // One part of the state before the step: from an input of the graph, or kept by the cell. -1: `initial` is read as it is.
  absl::StatusOr<StateId> OwnState(const Cell& cell, const ValPtr& initial, const char* part, int& input, std::vector<int32_t>& at);
  absl::StatusOr<ValPtr> Native(const Cell& cell, const Val& x, StateId h, StateId c);
  absl::Status PlainStep(const Cell& cell, const Val& x, ValPtr& h, ValPtr& c);
  absl::StatusOr<ValPtr> Activate(const Val& val, const Cell& cell, size_t which);
  absl::StatusOr<ValPtr> Gates(const Val& x, const Val& h, const Cell& cell, size_t first, size_t count, bool inputs, bool recurrent, const ConstantPtr& bias);

  // states.cc: what the session carries
  absl::Status FinishStates();
  absl::Status PairStates();
  bool Matches(int input, const Val& output) const;  // all that is known of the input's new elements is there
  absl::Status WriteState(int input, const Val& next);
  bool UsedByNode(ValueId value);

  const FileView& file_;
  std::vector<GraphInput>& inputs_;
  Reading& reading_;
  int64_t& budget_;
  const bool whole_;
  const bool trial_;
  bool zeros_ = false;
  std::vector<std::unique_ptr<Stage>> stages_;
  int stage_ = 0;
  std::vector<SequenceLength> lengths_;
  std::vector<SequencePort> ports_;                       // what a sequence brings, whole_ alone
  std::vector<int> port_of_input_;                        // by input; -1: none
  std::map<Origin, int> imports_;                         // of this stage, and their sources
  int64_t visited_ = 0;                                   // elements that were looked at between stages
  std::unordered_map<std::string_view, ValPtr> values_;
  std::unordered_map<std::string_view, int64_t> uses_;
  std::vector<Source> sources_;
  std::vector<int> input_source_;
  std::vector<ValPtr> input_value_;
  std::map<int, StateId> read_states_;                    // inputs that are read by themselves
  std::vector<Claim> claims_;
  std::set<int> sigmoids_;                                // sources that are sigmoids
  std::map<int, Val> gated_;                              // source of a product -> elements of an input, times a sigmoid
  struct Gate {
    int input, source;
    Val elements;
  };
  std::vector<Gate> gates_;                               // ... and of the sum that it became: the next cell state
  std::map<std::pair<int, Shape>, ValueId> reshaped_;
  std::map<std::pair<const void*, Shape>, ValueId> selected_;
  std::vector<ValPtr> kept_;                              // keeps the keys of selected_ alive
  std::set<std::string> names_;
  std::vector<int> parents_;                              // of labels
  std::vector<Output> outputs_;
  int64_t elements_ = 0;
  int64_t weights_ = 0;
  int64_t quantized_weights_ = 0;  // of 8 bits, in the file
  std::map<std::pair<const void*, std::string>, std::pair<ValPtr, ConstantPtr>> shared_;  // the first keeps the key alive
  std::vector<std::pair<std::weak_ptr<const Tensor>, int64_t>> folded_;                   // and their bytes
  int64_t folded_bytes_ = 0;
  std::string node_name_;
  int bodies_ = 0;                                        // graphs that a Scan or Loop runs, one within another
  int label_ = -1;                                        // the axis of time that a Loop reads along
  absl::Status within_;                                   // what is refused if time flows nowhere and no state is carried: then a sequence may be no step's own
  absl::Status undecided_;                                // what is refused unless a later node tells which axis is time
};

// The axis as it is counted from the front. INVALID_ARGUMENT where there is none.
absl::StatusOr<size_t> Axis(int64_t axis, size_t rank);
// A size that a graph computed from the length of the sequence.
inline bool IsTimeLength(int64_t n) { return n >= kTime / 2; }

// For messages: the manifest line that answers a question.
std::string ManifestLine(std::string_view input, absl::string_view rest);

std::shared_ptr<Constant> NewConstant(Shape shape);

}  // namespace lstm::core::onnx
