// SPDX-License-Identifier: MIT
#include "core/engine/batch_engine.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <deque>
#include <limits>
#include <utility>

#include "core/model/model_builder.h"
#include "tests/core/import/tensors.h"
#include "tests/support/program_runner.h"
#include "tests/support/random_model.h"

namespace lstm::core {
namespace {

using testing::MustCompile;
using testing::Random;

// A session and its input, to be cut into turns at will.
struct Client {
  Client(const StepProgram& p, size_t steps, Random& random)
      : program(&p), width(p.inputs()[0].step_bytes), out_width(p.outputs()[0].step_bytes), input(steps * width / 4),
        output(steps * out_width / 4), state(p.state_floats()), rows{AlignedBuffer<float>(state.size()), AlignedBuffer<float>(state.size())} {
    for (float& v : input) v = random.Uniform();
    std::copy(p.initial_state().begin(), p.initial_state().end(), state.data());
  }
  size_t length() const { return input.size() * 4 / width; }

  void Begin(BatchEngine& engine, uint32_t n, bool last_only = false) {
    turn.program = program;
    turn.steps = n;
    turn.inputs = {reinterpret_cast<const std::byte*>(input.data()) + at * width};
    turn.outputs.assign(program->outputs().size(), nullptr);
    turn.outputs[0] = reinterpret_cast<std::byte*>(output.data()) + at * out_width;
    turn.last_step_only = last_only;
    turn.state = state.data();
    turn.scratch[0] = rows[0].data();
    turn.scratch[1] = rows[1].data();
    at += n;
    engine.Add(&turn);
  }
  void Accept() { std::memcpy(state.data(), turn.new_state, state.size() * sizeof(float)); }

  const StepProgram* program;
  size_t width, out_width, at = 0;
  std::vector<float> input, output;
  AlignedBuffer<float> state;
  AlignedBuffer<float> rows[2];
  Turn turn;
};

void RunToEnd(BatchEngine& engine, std::vector<Turn*>& finished) {
  while (!engine.idle()) engine.RunBatch(finished);
}

TEST(BatchEngineTest, AnyCutOfAnyStreamBesideAnyOthersGivesTheSameBits) {
  const auto lstm = MustCompile(testing::OneLayer("lstm", 7, 24, 1), 8);
  const auto gru = MustCompile(testing::OneLayer("gru_after", 5, 16, 2), 8);
  Random random(3);
  std::deque<Client> clients;
  std::vector<std::vector<float>> alone;
  for (int i = 0; i < 40; ++i) {
    Client& c = clients.emplace_back(i % 3 == 0 ? *gru : *lstm, 20 + random.Below(30), random);
    BatchEngine engine;
    std::vector<Turn*> finished;
    c.Begin(engine, static_cast<uint32_t>(c.length()));
    RunToEnd(engine, finished);
    ASSERT_EQ(finished.size(), 1u);
    alone.push_back(c.output);
    std::fill(c.output.begin(), c.output.end(), 0.0f);
    c.at = 0;
  }
  BatchEngine engine;
  std::vector<Turn*> finished;
  std::vector<bool> inside(clients.size(), false);
  size_t answered = 0;
  for (bool more = true; more || !engine.idle();) {
    more = false;
    for (size_t i = 0; i < clients.size(); ++i) {
      Client& c = clients[i];
      if (inside[i] || c.at == c.length()) continue;
      more = true;
      if (random.Below(3) == 0) continue;  // some wait while others go on
      c.Begin(engine, static_cast<uint32_t>(1 + random.Below(std::min<size_t>(9, c.length() - c.at))));
      inside[i] = true;
    }
    finished.clear();
    engine.RunBatch(finished);
    for (Turn* turn : finished) {
      ASSERT_TRUE(turn->status.ok()) << turn->status;
      for (size_t i = 0; i < clients.size(); ++i) {
        if (&clients[i].turn != turn) continue;
        clients[i].Accept();
        inside[i] = false;
        ++answered;
      }
    }
  }
  EXPECT_GT(answered, clients.size());
  for (size_t i = 0; i < clients.size(); ++i) {
    EXPECT_EQ(0, std::memcmp(alone[i].data(), clients[i].output.data(), alone[i].size() * sizeof(float))) << i;
  }
}

TEST(BatchEngineTest, LastStepOnlyGivesTheLastRow) {
  const auto program = MustCompile(testing::OneLayer("lstm", 7, 24, 1));
  Random random(3);
  Client all(*program, 12, random);
  Client last = [&] {
    Random again(3);
    return Client(*program, 12, again);
  }();
  BatchEngine engine;
  std::vector<Turn*> finished;
  all.Begin(engine, 12);
  last.Begin(engine, 12, true);
  RunToEnd(engine, finished);
  EXPECT_EQ(0, std::memcmp(all.output.data() + 11 * 24, last.output.data(), 24 * sizeof(float)));
}

TEST(BatchEngineTest, ATurnThatIsNotFiniteIsRefusedAlone) {
  const auto program = MustCompile(testing::OneLayer("rnn_relu", 3, 5, 1));
  Random random(3);
  Client good(*program, 4, random), bad(*program, 4, random), expected(*program, 4, random);
  expected.input = good.input;
  bad.input[3] = std::numeric_limits<float>::infinity();
  BatchEngine engine;
  std::vector<Turn*> finished;
  expected.Begin(engine, 4);
  RunToEnd(engine, finished);
  finished.clear();
  bad.Begin(engine, 4);
  good.Begin(engine, 4);
  RunToEnd(engine, finished);
  ASSERT_EQ(finished.size(), 2u);
  EXPECT_EQ(finished[0], &bad.turn);
  EXPECT_EQ(bad.turn.status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(bad.turn.done, 2u) << "it ends at the step that went wrong";
  EXPECT_TRUE(good.turn.status.ok());
  EXPECT_EQ(good.output, expected.output);
}

// y = the sum of x(s) + x(s - 1) over all s up to t.
Model Delay() {
  ModelBuilder builder;
  const ValueId x = builder.AddInput({.name = "x"}, DType::kF32, {7}).value();
  const StateId before = builder.AddState("before", {7}, {1, 2, 3, 4, 5, 6, 7}).value(), all = builder.AddState("all", {7}, {}).value();
  const ValueId last = builder.AddNode("last", StateReadOp{before}, {}).value();
  builder.AddNode("kept", StateWriteOp{before}, {x}).value();
  const ValueId both = builder.AddNode("both", ElementwiseOp{}, {x, last}).value();
  const ValueId old = builder.AddNode("old", StateReadOp{all}, {}).value();
  const ValueId sum = builder.AddNode("sum", ElementwiseOp{}, {old, both}).value();
  const ValueId y = builder.AddNode("y", StateWriteOp{all}, {sum}).value();
  EXPECT_TRUE(builder.AddOutput({.name = "y", .value = y}).ok());
  return std::move(builder).Build().value();
}

// The outputs of sessions of `program` whose turns are as long as they are, in one engine, or one step each.
std::vector<std::vector<float>> Outputs(const StepProgram& program, const std::vector<size_t>& lengths, bool step_by_step, size_t* most_rows) {
  Random random(3);
  std::deque<Client> clients;
  for (size_t length : lengths) clients.emplace_back(program, length, random);
  BatchEngine engine;
  std::vector<Turn*> finished;
  for (Client& c : clients) c.Begin(engine, step_by_step ? 1 : static_cast<uint32_t>(c.length()));
  while (!engine.idle()) {
    *most_rows = std::max(*most_rows, engine.RunBatch(finished));
    for (Turn* turn : std::exchange(finished, {})) {
      EXPECT_TRUE(turn->status.ok()) << turn->status;
      Client& c = *std::find_if(clients.begin(), clients.end(), [&](const Client& one) { return &one.turn == turn; });
      c.Accept();
      if (c.at < c.length()) c.Begin(engine, 1);
    }
  }
  std::vector<std::vector<float>> out;
  for (Client& c : clients) {
    out.push_back(c.output);
    out.back().insert(out.back().end(), c.state.span().begin(), c.state.span().end());
  }
  return out;
}

// Cells that are several ops, whose state goes through all of them; a delay, which reads what it is about to write; both in one.
std::shared_ptr<const StepProgram> Parts(const std::string& layers) {
  Tensors w;
  for (const auto& [name, gates] : {std::pair<std::string, int64_t>{"mgu", 2}, {"slstm", 4}, {"lstm", 4}}) {
    w.Add(name + ".weight_ih_l0", {gates * 12, name == "mgu" ? 7 : 12});
    w.Add(name + ".weight_hh_l0", {gates * 12, 12});
    for (const char* bias : {".bias_ih_l0", ".bias_hh_l0"}) w.Add(name + bias, {gates * 12});
    for (const char* part : {"ih", "hh", "c"}) {
      for (const char* what : {"_weight_l0", "_bias_l0"}) w.Add(name + ".norm_" + part + what, {part[0] == 'c' ? 12 : gates * 12});
    }
  }
  auto model = Import("input { name: 'x' shape: 7 } " + layers, w);
  EXPECT_TRUE(model.ok()) << model.status();
  return MustCompile(*std::move(model), 64);
}

TEST(BatchEngineTest, StepsInBlocksHaveTheBitsOfSingleSteps) {
  std::vector<std::pair<std::string, std::shared_ptr<const StepProgram>>> programs;
  const std::string mgu = "layer { name: 'mgu' cell { kind: MGU } } ";
  programs.emplace_back("MGU", Parts(mgu));
  programs.emplace_back("three kinds", Parts(mgu + "layer { name: 'slstm' cell { kind: SLSTM } } layer { name: 'lstm' lstm { layer_norm: true } }"));
  programs.emplace_back("a delay", MustCompile(Delay(), 64));
  for (const char* kind : {"lstm", "lstm_peephole_projection", "gru_after", "gru_before", "rnn_tanh", "conv1d"}) {
    programs.emplace_back(kind, MustCompile(testing::OneLayer(kind, 7, 24, 1), 64));
  }
  programs.emplace_back("a stack", MustCompile(testing::LstmStack(9, 40, 3, 1), 64));
  programs.emplace_back("pieces", MustCompile(testing::LstmStack(64, 400, 2, 1), 64));  // a block of it is more than one piece
  for (const auto& [name, program] : programs) {
    for (const std::vector<size_t>& lengths : {std::vector<size_t>{70}, {33, 34}, {5, 6, 40, 17, 4}}) {
      size_t blocks = 0, batches = 0;
      EXPECT_EQ(Outputs(*program, lengths, false, &blocks), Outputs(*program, lengths, true, &batches)) << name;
      EXPECT_GT(blocks, lengths.size()) << name << ": several steps at once";
      EXPECT_LE(batches, lengths.size());
    }
  }
}

TEST(BatchEngineTest, BetweenThePiecesOfABlockOthersRun) {
  const auto program = MustCompile(testing::LstmStack(64, 400, 2, 1), 64);
  Random random(3);
  Client many(*program, 8, random), one(*program, 1, random);
  BatchEngine engine;
  std::vector<Turn*> finished;
  many.Begin(engine, 8);
  EXPECT_EQ(engine.RunBatch(finished), 0u) << "the block goes on";
  one.Begin(engine, 1);
  EXPECT_EQ(engine.RunBatch(finished), 1u);
  ASSERT_EQ(finished.size(), 1u);
  EXPECT_EQ(finished[0], &one.turn);
  RunToEnd(engine, finished);
  EXPECT_EQ(finished.size(), 2u);
}

TEST(BatchEngineTest, ATurnThatIsGivenUpInABlockDisturbsNobody) {
  const auto program = MustCompile(testing::LstmStack(64, 400, 2, 1), 64);
  size_t unused = 0;
  const auto expected = Outputs(*program, {12, 12}, true, &unused);
  Random random(3);
  Client first(*program, 12, random), second(*program, 12, random);
  BatchEngine engine;
  std::vector<Turn*> finished;
  first.Begin(engine, 12);
  second.Begin(engine, 12);
  EXPECT_EQ(engine.RunBatch(finished), 0u);
  EXPECT_EQ(engine.RunBatch(finished), 0u);
  engine.Remove(&second.turn);
  second.turn = {};
  RunToEnd(engine, finished);
  ASSERT_EQ(finished.size(), 1u);
  first.Accept();
  first.output.insert(first.output.end(), first.state.span().begin(), first.state.span().end());
  EXPECT_EQ(first.output, expected[0]);
}

TEST(BatchEngineTest, TheStepsThatAreLeftAreThoseOfTheTurnsInside) {
  const auto relu = MustCompile(testing::OneLayer("rnn_relu", 3, 5, 1), 64);
  const auto pieces = MustCompile(testing::LstmStack(64, 400, 2, 1), 64);
  Random random(5);
  std::deque<Client> clients;
  for (int i = 0; i < 60; ++i) {
    Client& c = clients.emplace_back(i % 4 == 0 ? *pieces : *relu, 12, random);
    if (i % 4 == 1) c.input[random.Below(c.input.size() / 2)] = std::numeric_limits<float>::infinity();  // ends before its end
  }
  BatchEngine engine;
  std::vector<Turn*> finished, inside;
  size_t failed = 0;
  const auto check = [&] {
    uint64_t left = 0;
    for (const Turn* turn : inside) left += turn->steps - turn->done;
    ASSERT_EQ(engine.steps_left(), left);
    ASSERT_EQ(engine.waiting(), inside.size());
  };
  for (size_t next = 0; next < clients.size() || !engine.idle();) {
    if (next < clients.size() && random.Below(2) == 0) {
      clients[next].Begin(engine, static_cast<uint32_t>(next % 4 == 1 ? 12 : 1 + random.Below(12)));
      inside.push_back(&clients[next++].turn);
    } else if (!inside.empty() && random.Below(6) == 0) {
      const auto gone = inside.begin() + static_cast<std::ptrdiff_t>(random.Below(inside.size()));
      engine.Remove(*gone);
      inside.erase(gone);
    } else {
      engine.RunBatch(finished);
      for (const Turn* turn : std::exchange(finished, {})) {
        failed += turn->status.ok() ? 0 : 1;
        std::erase(inside, turn);
      }
    }
    check();
  }
  EXPECT_EQ(engine.steps_left(), 0u);
  EXPECT_GT(failed, 1u);
}

// A model whose step is more than one piece.
std::shared_ptr<const StepProgram> Long() { return MustCompile(testing::LstmStack(64, 900, 2, 1), 64); }

TEST(BatchEngineTest, ALongStepIsComputedInPiecesAndOthersRunBetween) {
  const auto large = Long(), small = MustCompile(testing::OneLayer("lstm", 3, 8, 2), 4);
  for (const auto& [sessions, fewest] : {std::pair<size_t, size_t>{1, 3}, {9, 6}}) {  // beside layers, panels
    Random random(3);
    std::deque<Client> clients;
    std::deque<testing::Row> alone;
    const auto scratch = large->MakeScratch();
    for (size_t i = 0; i < sessions; ++i) {
      Client& c = clients.emplace_back(*large, 1, random);
      testing::Row& row = alone.emplace_back(*large);
      row.input[0] = c.input;
      const StepRow rows[] = {row.row()};
      ASSERT_TRUE(large->Run(rows, *scratch).ok());
    }
    BatchEngine engine;
    std::vector<Turn*> finished;
    for (Client& c : clients) c.Begin(engine, 1);
    size_t pieces = 0;
    while (finished.empty()) {
      const size_t rows = engine.RunBatch(finished);
      EXPECT_EQ(rows, finished.size());
      ++pieces;
      if (!finished.empty()) break;
      Client one(*small, 1, random);
      one.Begin(engine, 1);
      EXPECT_EQ(engine.RunBatch(finished), 1u) << "after " << pieces << " pieces";
      ASSERT_EQ(finished.size(), 1u);
      EXPECT_EQ(finished[0], &one.turn);
      finished.clear();
    }
    EXPECT_GE(pieces, fewest);
    ASSERT_EQ(finished.size(), sessions);
    for (size_t i = 0; i < sessions; ++i) {
      EXPECT_EQ(clients[i].output, alone[i].output[0]);
      EXPECT_TRUE(std::equal(alone[i].next.span().begin(), alone[i].next.span().end(), clients[i].turn.new_state));
    }
  }
}

TEST(BatchEngineTest, ATurnThatIsGivenUpInALongStepDisturbsNobody) {
  const auto large = Long();
  size_t unused = 0;
  const auto expected = Outputs(*large, {1, 1, 1}, true, &unused);
  Random random(3);
  std::deque<Client> clients;
  for (int i = 0; i < 3; ++i) clients.emplace_back(*large, 1, random);
  BatchEngine engine;
  std::vector<Turn*> finished;
  clients[0].Begin(engine, 1);
  clients[1].Begin(engine, 1);
  EXPECT_EQ(engine.RunBatch(finished), 0u);
  clients[2].Begin(engine, 1);
  EXPECT_EQ(engine.RunBatch(finished), 0u);
  engine.Remove(&clients[0].turn);
  clients[0].turn = {};
  RunToEnd(engine, finished);
  ASSERT_EQ(finished.size(), 2u);
  for (size_t i : {1, 2}) {
    clients[i].Accept();
    clients[i].output.insert(clients[i].output.end(), clients[i].state.span().begin(), clients[i].state.span().end());
    EXPECT_EQ(clients[i].output, expected[i]);
  }
}

TEST(BatchEngineTest, WhoComesAndGoesStopsNobody) {
  const auto large = Long();
  for (const uint32_t steps : {1u, 12u}) {  // a step in pieces; a block
    Random random(3);
    Client victim(*large, steps, random);
    BatchEngine engine;
    std::vector<Turn*> finished;
    victim.Begin(engine, steps);
    for (int calls = 0; finished.empty() && calls < 100; ++calls) {
      Client other(*large, steps, random);
      other.Begin(engine, steps);
      engine.RunBatch(finished);
      if (std::find(finished.begin(), finished.end(), &other.turn) == finished.end()) engine.Remove(&other.turn);
      std::erase(finished, &other.turn);
    }
    ASSERT_EQ(finished.size(), 1u) << steps << " steps are begun again for ever";
    EXPECT_TRUE(victim.turn.status.ok());
  }
}

// Turns come and go at any moment, while a block and a long step beside it are half done: whoever stays has the bits of a run alone, and of
// whoever went nothing is touched any more.
TEST(BatchEngineTest, WhoeverGoesWheneverTheOthersHaveTheirBits) {
  const auto program = Long();
  Random random(7);
  struct Seat {
    explicit Seat(Client c) : client(std::move(c)) {}
    Client client;
    std::vector<float> output, state;  // of a run alone
    std::vector<float> left;           // of who went, as it was then
    bool inside = false, gone = false;
    std::vector<float> Touchable() {
      std::vector<float> all = client.output;
      for (const AlignedBuffer<float>& row : client.rows) all.insert(all.end(), row.span().begin(), row.span().end());
      return all;
    }
  };
  std::deque<Seat> seats;
  for (int i = 0; i < 240; ++i) {  // as they come: some that go into a block, then many with one step
    Seat& seat = seats.emplace_back(Client(*program, i % 8 < 3 ? 4 + random.Below(9) : 1, random));
    BatchEngine engine;
    std::vector<Turn*> finished;
    seat.client.Begin(engine, static_cast<uint32_t>(seat.client.length()));
    RunToEnd(engine, finished);
    seat.output = seat.client.output;
    seat.state.assign(seat.client.turn.new_state, seat.client.turn.new_state + program->state_floats());
    std::fill(seat.client.output.begin(), seat.client.output.end(), 0.0f);
    seat.client.at = 0;
  }
  BatchEngine engine;
  std::vector<Turn*> finished;
  size_t next = 0, stayed = 0, went = 0;
  while (next < seats.size() || !engine.idle()) {
    const uint64_t what = random.Below(32);
    if (next < seats.size() && what < 1) {
      for (const bool block = next % 8 < 3; next < seats.size() && (next % 8 < 3) == block; ++next) {
        seats[next].client.Begin(engine, static_cast<uint32_t>(seats[next].client.length()));
        seats[next].inside = true;
      }
    } else if (what == 1) {
      std::vector<Seat*> inside;
      for (Seat& seat : seats) {
        if (seat.inside) inside.push_back(&seat);
      }
      if (inside.empty()) continue;
      Seat& seat = *inside[random.Below(inside.size())];
      engine.Remove(&seat.client.turn);
      seat.client.turn = {};
      seat.inside = false;
      seat.gone = true;
      seat.left = seat.Touchable();
      ++went;
    } else {
      engine.RunBatch(finished);
      for (const Turn* turn : std::exchange(finished, {})) {
        const auto seat = std::find_if(seats.begin(), seats.end(), [&](const Seat& s) { return &s.client.turn == turn; });
        ASSERT_TRUE(seat != seats.end() && seat->inside);
        seat->inside = false;
        ASSERT_TRUE(turn->status.ok()) << turn->status;
        ASSERT_TRUE(seat->client.output == seat->output && std::equal(seat->state.begin(), seat->state.end(), turn->new_state));
        ++stayed;
      }
    }
  }
  for (Seat& seat : seats) {
    EXPECT_TRUE(!seat.gone || seat.Touchable() == seat.left);
  }
  EXPECT_GT(stayed, seats.size() / 4);
  EXPECT_GT(went, seats.size() / 16);
}

TEST(BatchEngineTest, ScratchMemoryIsLentOnlyWhereNoStepIsHalfDone) {
  const auto large = Long();
  size_t unused = 0;
  const auto expected = Outputs(*large, {1}, true, &unused);
  Random random(3);
  Client one(*large, 1, random);
  BatchEngine engine;
  std::vector<Turn*> finished;
  one.Begin(engine, 1);
  EXPECT_EQ(engine.RunBatch(finished), 0u);
  testing::Row other(*large);  // of another shard's batch, of which this one takes a part
  const StepRow rows[] = {other.row()};
  EXPECT_TRUE(large->Run(rows, engine.ScratchOf(large.get())).ok());
  RunToEnd(engine, finished);
  ASSERT_EQ(finished.size(), 1u);
  one.Accept();
  one.output.insert(one.output.end(), one.state.span().begin(), one.state.span().end());
  EXPECT_EQ(one.output, expected[0]);
}

TEST(BatchEngineTest, ProgramsTakeTurns) {
  const auto a = MustCompile(testing::OneLayer("lstm", 3, 8, 1), 4);
  const auto b = MustCompile(testing::OneLayer("lstm", 3, 8, 2), 4);
  Random random(3);
  std::deque<Client> busy;
  BatchEngine engine;
  for (int i = 0; i < 12; ++i) busy.emplace_back(*a, 5, random).Begin(engine, 5);
  Client small(*b, 1, random);
  small.Begin(engine, 1);
  std::vector<Turn*> finished;
  engine.RunBatch(finished);
  engine.RunBatch(finished);
  ASSERT_EQ(finished.size(), 1u) << "a busy program holds another up by one batch at most";
  EXPECT_EQ(finished[0], &small.turn);
  RunToEnd(engine, finished);
  EXPECT_EQ(finished.size(), 13u);
}

}  // namespace
}  // namespace lstm::core
