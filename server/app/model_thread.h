// SPDX-License-Identifier: MIT
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>

#include "server/models/model_keeper.h"

namespace lstm::server {

// Writes what a keeper has to tell to the log.
void LogNotes(const ModelKeeper::Notes& notes);

// The thread on which models are loaded and freed while the server runs: it looks at the directory from time to time and when
// it is asked to. Start and Stop are for one thread.
class ModelThread {
 public:
  // `keeper` has loaded what there was and is this thread's until Stop. `poll_seconds` 0: it looks only when asked.
  ModelThread(ModelKeeper* keeper, double poll_seconds, ModelKeeper::Forget forget);
  ~ModelThread() { Stop(); }

  // Asks for a look now, and for more until nothing changes any more. What did not load before is tried again. Thread-safe.
  void LookNow();
  void Stop();

 private:
  void Run();

  ModelKeeper* const keeper_;
  const double poll_seconds_;
  const ModelKeeper::Forget forget_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool asked_ = false, ending_ = false;
  std::thread thread_;
};

}  // namespace lstm::server
