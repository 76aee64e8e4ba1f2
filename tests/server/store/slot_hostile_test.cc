// SPDX-License-Identifier: MIT
#include <gtest/gtest.h>
#include <sys/mman.h>

#include <cstdlib>

#include "server/store/session_store.h"
#include "tests/server/store/crc32c.h"
#include "tests/server/store/model_session.h"

// Bytes that somebody chose, with every seal made right: opening them reads nothing outside of the slot. The slot lies
// between two pages that may not be touched.
namespace lstm::server {
namespace {

constexpr size_t kPage = 4096;

class Guarded {
 public:
  explicit Guarded(size_t bytes) : bytes_(bytes) {
    void* all = mmap(nullptr, bytes + 2 * kPage, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (all == MAP_FAILED) std::abort();
    memory_ = static_cast<std::byte*>(all) + kPage;
    if (mprotect(memory_, bytes, PROT_READ | PROT_WRITE) != 0) std::abort();
  }
  ~Guarded() { munmap(memory_ - kPage, bytes_ + 2 * kPage); }
  Guarded(const Guarded&) = delete;
  Guarded& operator=(const Guarded&) = delete;
  std::span<std::byte> span() { return {memory_, bytes_}; }

 private:
  const size_t bytes_;
  std::byte* memory_;
};

template <typename T>
void Put(std::span<std::byte> memory, size_t at, T value) {
  if (at <= memory.size() && memory.size() - at >= sizeof(T)) std::memcpy(memory.data() + at, &value, sizeof(T));
}

std::span<std::byte> Part(std::span<std::byte> memory, size_t at, size_t bytes) {
  if (at > memory.size()) return {};
  return memory.subspan(at, std::min(bytes, memory.size() - at));
}

// What a forger can do: a head with this identity, and halves where they belong with seals that are right.
struct Forgery {
  store::v1::SessionIdentity identity;
  std::string identity_bytes;      // as written; may be another encoding, or no message at all
  uint32_t format_version = 1;
  uint32_t said_identity_bytes = 0, said_initial_floats = 0;
  struct Half {
    uint64_t epoch = 1, applied = 0, acked = 0, serial = 1;
    uint32_t answers = 0;
    std::vector<std::pair<uint32_t, uint32_t>> entries;  // offset and bytes
  } halves[2];
};

void Write(const Forgery& f, std::span<std::byte> memory) {
  const Layout at(f.identity);
  std::memcpy(memory.data() + 24, f.identity_bytes.data(), std::min(f.identity_bytes.size(), memory.size() - 24));
  Put(memory, 8, f.format_version);
  Put(memory, 12, f.said_identity_bytes);
  Put(memory, 16, f.said_initial_floats);
  uint32_t head = PlainCrc32c(Part(memory, 8, 16));
  head = PlainCrc32c(Part(memory, 24, f.said_identity_bytes), head);
  head = PlainCrc32c(Part(memory, at.initial_at, f.said_initial_floats * size_t{4}), head);
  Put(memory, 0, uint64_t{0x4d54534c} << 32 | head);
  for (size_t i = 0; i < 2; ++i) {
    const Forgery::Half& h = f.halves[i];
    const size_t half = at.half(i);
    Put(memory, half + 8, h.epoch);
    Put(memory, half + 16, h.applied);
    Put(memory, half + 24, h.acked);
    Put(memory, half + 56, h.answers);
    Put(memory, half + 96, h.serial);
    for (size_t k = 0; k < h.entries.size(); ++k) {
      Put(memory, half + 120 + k * 40 + 24, h.entries[k].first);
      Put(memory, half + 120 + k * 40 + 28, h.entries[k].second);
    }
    const uint32_t crc = PlainCrc32c(Part(memory, half + 8, 112 + size_t{h.answers} * 40), head);
    Put(memory, half, uint64_t{0x464c4148} << 32 | crc);
  }
}

enum class Outcome { kOpened, kRefused };
// Touches all that an opened slot gives.
Outcome Serve(std::span<std::byte> memory) {
  store::v1::SessionIdentity identity;
  absl::StatusOr<Slot> slot = Slot::Open(memory, &identity);
  if (!slot.ok()) return Outcome::kRefused;
  volatile float sum = 0;
  for (const float f : slot->initial()) sum = sum + f;
  static_cast<void>(slot->Verify());
  for (const float f : slot->state()) sum = sum + f;
  for (size_t i = 0; i < slot->answers(); ++i) {
    const auto bytes = slot->ReadAnswer(i);
    EXPECT_TRUE(!bytes.ok() || (bytes->data() >= memory.data() && bytes->data() + bytes->size() <= memory.data() + memory.size()));
  }
  const std::optional<uint32_t> place = slot->Place(40);
  if (place && slot->answers() < identity.window()) {
    StoredPosition position = slot->position();
    ++position.applied;
    slot->Commit(position, slot->state(), {}, 1, *place, std::vector<std::byte>(40));
  }
  return Outcome::kOpened;
}

Forgery Honest(Random& random) {
  Forgery f;
  f.identity.set_session_id(std::string(16, 'x'));
  f.identity.set_model("m");
  f.identity.set_window(static_cast<uint32_t>(1 + random() % 8));
  f.identity.set_state_floats(static_cast<uint32_t>(random() % 200));
  f.identity.set_ring_bytes(static_cast<uint32_t>(random() % 2000));
  f.identity.set_own_initial_state(random() % 2 == 0);
  for (Forgery::Half& h : f.halves) {
    h.answers = static_cast<uint32_t>(random() % (f.identity.window() + 1));
    h.acked = random() % 100;
    h.applied = h.acked + h.answers;
    h.serial = random() % 3;
    for (uint32_t k = 0; k < h.answers; ++k) h.entries.push_back({0u, f.identity.ring_bytes()});
  }
  return f;
}

void Seal(Forgery& f) {
  if (f.identity_bytes.empty()) f.identity_bytes = f.identity.SerializeAsString();
  if (f.said_identity_bytes == 0) f.said_identity_bytes = static_cast<uint32_t>(f.identity_bytes.size());
  if (f.said_initial_floats == 0 && f.identity.own_initial_state()) f.said_initial_floats = f.identity.state_floats();
}

// Near the bounds, beyond them, and where 32 bits wrap.
uint32_t Spiteful(Random& random, uint32_t honest) {
  const uint32_t values[] = {0u, 1u, honest - 1, honest + 1, honest * 2, 4096u, 16384u, 65535u, 65536u, 65537u, 0x1fffffffu, 0x20000000u,
                             0x3fffffffu, 0x40000000u, 0x7fffffffu, 0x80000000u, 0xfffffff0u, 0xffffffffu, static_cast<uint32_t>(random())};
  return values[random() % std::size(values)];
}

TEST(SlotHostileTest, AForgedSlotWithNothingWrongOpens) {
  Random random(1);
  Guarded memory(4 * kPage);
  for (int trial = 0; trial < 200; ++trial) {
    Forgery f = Honest(random);
    Seal(f);
    Write(f, memory.span());
    ASSERT_EQ(Serve(memory.span()), Outcome::kOpened) << "else the tests below test nothing";
  }
}

TEST(SlotHostileTest, FieldsThatLieUnderRightSealsReadNothingOutside) {
  Random random(2);
  Guarded memory(4 * kPage);
  int opened = 0, refused = 0;
  for (int trial = 0; trial < 60000; ++trial) {
    Forgery f = Honest(random);
    Forgery::Half& h = f.halves[random() % 2];
    for (uint64_t lies = 1 + random() % 2; lies > 0; --lies) {
      switch (random() % 10) {
        case 0: f.identity.set_window(Spiteful(random, f.identity.window())); break;
        case 1: f.identity.set_state_floats(Spiteful(random, f.identity.state_floats())); break;
        case 2: f.identity.set_ring_bytes(Spiteful(random, f.identity.ring_bytes())); break;
        case 3: f.said_initial_floats = Spiteful(random, f.identity.state_floats()); break;
        case 4: f.said_identity_bytes = Spiteful(random, static_cast<uint32_t>(f.identity.ByteSizeLong())); break;
        case 5: h.answers = Spiteful(random, h.answers); break;
        case 6: h.applied = Spiteful(random, h.answers) * (random() % 2 == 0 ? 1 : uint64_t{1} << 32); break;
        case 7: h.acked = uint64_t{0} - h.answers, h.applied = 0; break;
        case 8: f.identity_bytes = f.identity.SerializeAsString() + std::string("\x88\x01\x80\x00", 4); break;  // ring_bytes again, padded
        default:
          for (auto& [offset, bytes] : h.entries) {
            offset = Spiteful(random, f.identity.ring_bytes());
            bytes = Spiteful(random, f.identity.ring_bytes());
          }
      }
    }
    Seal(f);
    Write(f, memory.span());
    ++(Serve(memory.span()) == Outcome::kOpened ? opened : refused);
  }
  EXPECT_GT(opened, 1000);
  EXPECT_GT(refused, 10000);
}

TEST(SlotHostileTest, RandomBytesUnderARightHeadSealReadNothingOutside) {
  Random random(3);
  Guarded memory(kPage);
  for (int trial = 0; trial < 30000; ++trial) {
    for (size_t at = 0; at < 512; at += 8) Put(memory.span(), at, random());
    const auto identity = static_cast<uint32_t>(random() % 300);
    Put(memory.span(), 8, uint32_t{1});
    Put(memory.span(), 12, identity);
    Put(memory.span(), 16, uint32_t{0});
    const uint32_t crc = PlainCrc32c(Part(memory.span(), 24, identity), PlainCrc32c(Part(memory.span(), 8, 16)));
    Put(memory.span(), 0, uint64_t{0x4d54534c} << 32 | crc);
    Serve(memory.span());
  }
}

TEST(SlotHostileTest, ASlotTooSmallForAHeadIsRefused) {
  Guarded memory(kPage);
  store::v1::SessionIdentity identity;
  for (size_t bytes = 0; bytes < 24; ++bytes) {
    const auto end = memory.span().subspan(kPage - bytes / 8 * 8);
    EXPECT_TRUE(absl::IsDataLoss(Slot::Open(end, &identity).status()));
  }
}

// The layout counts in 64 bits: in 32, two halves of 2 GiB would be nothing.
TEST(SlotHostileTest, ALayoutBeyond32BitsIsNotFoldedIntoASmallSlot) {
  store::v1::SessionIdentity identity;
  identity.set_session_id(std::string(16, 'x'));
  identity.set_window(1);
  for (const uint32_t floats : {0x1fffffd0u, 0x20000000u, 0x3fffffffu, 0x40000000u, 0xffffffffu}) {
    identity.set_state_floats(floats);
    for (const uint32_t ring : {0u, 0x7fffffffu, 0xffffffffu}) {
      identity.set_ring_bytes(ring);
      for (const bool own : {false, true}) {
        identity.set_own_initial_state(own);
        EXPECT_EQ(Slot::BytesFor(identity), Layout(identity).total);
        EXPECT_GT(Slot::BytesFor(identity), floats * size_t{own ? 12u : 8u} + ring);
      }
    }
  }
}

TEST(SlotHostileTest, ALargeSlotWhoseHalvesDoNotFitIsRefused) {
  Guarded memory((size_t{5} << 29) + 2 * kPage);  // 2.5 GiB, of which a few pages are ever there
  Forgery f;
  f.identity.set_session_id(std::string(16, 'x'));
  f.identity.set_window(1);
  f.identity.set_ring_bytes(5000);
  for (const uint32_t floats : {0x1fffffd0u, 0x1fffffe0u, 0x20000000u, 0x20000040u, 0x28000000u}) {
    f.identity.set_state_floats(floats);
    f.identity_bytes.clear();
    f.said_identity_bytes = 0;
    Seal(f);
    Write(f, memory.span());
    store::v1::SessionIdentity read;
    const absl::Status status = Slot::Open(memory.span(), &read).status();
    EXPECT_TRUE(absl::IsDataLoss(status)) << status;
  }
}

}  // namespace
}  // namespace lstm::server
