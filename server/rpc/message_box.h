// SPDX-License-Identifier: MIT
#pragma once

#include <google/protobuf/arena.h>

#include <cstddef>

namespace lstm::server {

// A message that is filled and emptied over and over, in an arena that begins with room of its own: a small message takes no memory from
// elsewhere but for long strings, and a large one leaves nothing behind. (A message by itself frees what it has in a oneof at
// every Clear, and so all that a turn is made of.)
template <typename Message>
class ArenaBox {
 public:
  ArenaBox() : arena_(Options(room_)), message_(google::protobuf::Arena::CreateMessage<Message>(&arena_)) {}
  ArenaBox(const ArenaBox&) = delete;

  Message& operator*() { return *message_; }
  Message* operator->() { return message_; }
  // Whatever was in it is gone.
  void Renew() {
    arena_.Reset();
    message_ = google::protobuf::Arena::CreateMessage<Message>(&arena_);
  }

 private:
  static constexpr size_t kRoom = 1024, kFirstBlock = 4096, kLargestBlock = 64u << 10;
  static google::protobuf::ArenaOptions Options(char (&room)[kRoom]) {
    google::protobuf::ArenaOptions options;
    options.initial_block = room;
    options.initial_block_size = kRoom;
    options.start_block_size = kFirstBlock;
    options.max_block_size = kLargestBlock;
    return options;
  }

  alignas(std::max_align_t) char room_[kRoom];
  google::protobuf::Arena arena_;
  Message* message_;
};

// The same on the heap, for messages whose contents are taken over by Swap, which would have to copy them out of an arena.
template <typename Message>
class HeapBox {
 public:
  Message& operator*() { return message_; }
  Message* operator->() { return &message_; }
  void Renew() {
    message_.Clear();
    if (message_.SpaceUsedLong() > kKept) message_ = Message();
  }

 private:
  static constexpr size_t kKept = 256u << 10;
  Message message_;
};

}  // namespace lstm::server
