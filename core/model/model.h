// SPDX-License-Identifier: MIT
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <variant>
#include <vector>

#include "core/base/aligned_buffer.h"
#include "core/base/shape.h"

// The description of a model: what every importer produces and every engine consumes. It says what ONE time step of ONE
// session computes; the batch axis N belongs to the step program. Letters: I input width, H hidden, P projection, O output.
namespace lstm::core {

enum class DType { kF32, kI32 };

// An immutable array of trained numbers, shared by all that use the model.
struct Constant {
  Shape shape;
  AlignedBuffer<float> values;
  bool untouched = false;  // zeros that stand for values, of a model that will not run: looking at them could take up memory
};
using ConstantPtr = std::shared_ptr<const Constant>;

using ValueId = int;  // index into Model::values
using StateId = int;  // index into Model::state

struct EmbeddingOp {  // y = weight[id]
  ConstantPtr weight;  // [V, E]
};

struct LinearOp {  // y = W x + b over the last axis
  ConstantPtr weight;  // [O, I]
  ConstantPtr bias;    // [O], or null
};

// Gates in the order i f g o, g being the candidate.
//   i = s(Wi x + Ri h + bi + pi*c)   f = s(Wf x + Rf h + bf + pf*c)   g = tanh(Wg x + Rg h + bg)
//   c' = f*c + i*g                   o = s(Wo x + Ro h + bo + po*c')  h' = o*tanh(c'), with projection Wp (o*tanh(c'))
// (Hochreiter and Schmidhuber 1997; Gers, Schmidhuber and Cummins 2000 for f and the peepholes; Sak et al. 2014 for Wp)
struct LstmOp {
  ConstantPtr weight;      // [4H, I]
  ConstantPtr recurrent;   // [4H, H], or [4H, P] with a projection
  ConstantPtr bias;        // [4H]
  ConstantPtr peephole = {};    // [3H] in the order i f o, or null
  ConstantPtr projection = {};  // [P, H], or null
  StateId hidden = -1;     // [H] or [P]
  StateId cell = -1;       // [H]
};

// Gates in the order z r n.  h' = (1 - z)*n + z*h
//   reset after the product:   n = tanh(Wn x + bn + r*(Rn h + cn));  bias [4H] = z r n c
//   reset before the product:  n = tanh(Wn x + Rn (r*h) + bn);       bias [3H]
// (Cho et al. 2014; the first form is that of cuDNN, PyTorch and Keras 3)
struct GruOp {
  ConstantPtr weight;     // [3H, I]
  ConstantPtr recurrent;  // [3H, H]
  ConstantPtr bias;
  bool reset_after = true;
  StateId hidden = -1;
};

struct RnnOp {  // h' = f(W x + R h + b)  (Elman 1990)
  ConstantPtr weight;     // [H, I]
  ConstantPtr recurrent;  // [H, H]
  ConstantPtr bias;       // [H]
  bool relu = false;      // else tanh
  StateId hidden = -1;
};

struct LayerNormOp {  // over the last axis (Ba, Kiros and Hinton 2016)
  ConstantPtr scale;  // [D], or null
  ConstantPtr bias;   // [D], or null
  float epsilon = 1e-5f;
};

// Causal convolution over time; the oldest frame of the context comes first in the state.
struct Conv1dOp {
  ConstantPtr weight;  // [O, C / groups, K]; tap K-1 meets the newest frame
  ConstantPtr bias;    // [O], or null
  int64_t dilation = 1;
  int64_t groups = 1;
  StateId context = -1;  // [(K-1) * dilation, C], -1 where K == 1
};

enum class ActivationKind {
  kRelu, kSigmoid, kTanh, kSoftplus, kLeakyRelu, kElu, kHardSigmoid, kGelu, kSilu, kClip, kExp, kLog, kAbs, kNegate,
  kSqrt, kSquare,
  kPower,            // x to the alpha
  kReciprocal, kErf, kSoftsign,
  kThresholdedRelu,  // x above alpha, else 0
  kFloor, kSign, kSin, kCos, kAtan,
  kRound             // to the nearest, of two the even one
};
struct ActivationOp {
  ActivationKind kind = ActivationKind::kRelu;
  float alpha = 0;
  float beta = 0;
};

struct SoftmaxOp {  // over the last axis
  bool log = false;
};

enum class ElementwiseKind { kAdd, kSubtract, kMultiply, kDivide, kMinimum, kMaximum };
struct ElementwiseOp {  // equal shapes, or one element against many
  ElementwiseKind kind = ElementwiseKind::kAdd;
};

struct ConcatOp {};  // along the last axis; the other axes agree

struct SliceOp {  // elements [begin, end) of the last axis
  int64_t begin = 0;
  int64_t end = 0;
};

struct AffineOp {  // y = scale*x + offset; one element each, or one per element of the last axis
  ConstantPtr scale;
  ConstantPtr offset;
};

struct ReshapeOp {
  Shape shape;
};

// State that is no cell's own: y is the tensor before the step; x is the tensor after it, and y is x.
struct StateReadOp {
  StateId state = -1;
};
struct StateWriteOp {
  StateId state = -1;
};

struct ConstantOp {  // reads nothing
  ConstantPtr value;
};

struct SelectOp {  // y[i] is element index[i] of the inputs laid end to end
  std::shared_ptr<const std::vector<int32_t>> index;
  Shape shape;
};

enum class ReduceKind { kMean, kSum, kMaximum, kMinimum, kProduct };
struct ReduceOp {  // over the last axis, which goes
  ReduceKind kind = ReduceKind::kMean;
};

struct MatMulOp {  // [.., A, K] and [.., K, B] to [.., A, B]; the axes before them agree
};

using Op = std::variant<EmbeddingOp, LinearOp, LstmOp, GruOp, RnnOp, LayerNormOp, Conv1dOp, ActivationOp, SoftmaxOp,
                        ElementwiseOp, ConcatOp, SliceOp, AffineOp, ReshapeOp, StateReadOp, StateWriteOp, ConstantOp,
                        SelectOp, ReduceOp, MatMulOp>;

// The kind of an op, as messages and `lstm-model inspect` print it: "LSTM", "Linear", ...
const char* OpName(const Op& op);

struct Value {
  std::string name;
  DType dtype = DType::kF32;
  Shape shape;  // of one step
};

struct Node {
  std::string name;
  Op op;
  std::vector<ValueId> inputs;
  ValueId output = -1;
};

struct StateTensor {
  std::string name;  // "lstm.l0.h"
  Shape shape;
  std::vector<float> initial;  // empty: zeros
};

// How the numbers of a float input may travel beside as they are: a model sees scale * x + offset.
struct Wire {
  enum Type { kFloat32, kInt16, kUint8 } type = kFloat32;
  float scale = 1;
  float offset = 0;
};

struct Port {  // an input or output of the model
  std::string name;
  ValueId value = -1;
  int64_t limit = 0;  // kI32 inputs: ids lie in [0, limit)
  std::vector<std::string> labels = {};
  bool uses_vocabulary = false;
  Wire wire = {};
};

struct Vocabulary {
  bool words = false;  // else characters
  std::vector<std::string> tokens;
  std::optional<int64_t> unknown;
};

struct SequenceModel;  // core/model/sequence.h

// Immutable once it left the builder. One that cannot run a step at a time has no values and nodes, only `sequence`.
struct Model {
  std::string name;
  std::string version;
  std::string description;
  std::string hash;  // 32 bytes, SHA-256 over manifest, weights and scales
  std::vector<Value> values;
  std::vector<Node> nodes;  // in an order that can be executed
  std::vector<StateTensor> state;
  std::vector<Port> inputs;
  std::vector<Port> outputs;
  std::optional<Vocabulary> vocabulary;
  uint64_t parameters = 0;  // trained numbers
  std::shared_ptr<const SequenceModel> sequence;  // how whole sequences are computed, where that is more than their steps
  std::string not_streamable;                     // why it has no steps; empty: it has
};

}  // namespace lstm::core
