// SPDX-License-Identifier: MIT
#pragma once

#include <condition_variable>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "server/models/model_admin.h"
#include "server/models/model_keeper.h"

namespace lstm::server {

// Writes what a keeper has to tell to the log.
void LogNotes(const ModelKeeper::Notes& notes);

// The thread on which models are loaded and freed while the server runs: it looks at the directory from time to time and when
// it is asked to. Start and Stop are for one thread.
class ModelThread : public ModelAdmin {
 public:
  // `poll_seconds` 0: it looks only when asked.
  ModelThread(ModelKeeper* keeper, double poll_seconds) : keeper_(keeper), poll_seconds_(poll_seconds) {}
  ~ModelThread() override { Stop(); }

  // `keeper` has loaded what there was and is this thread's from here until Stop.
  void Start(ModelKeeper::Forget forget);

  // Asks for a look now, and for more until nothing changes any more. What did not load before is tried again. Thread-safe.
  void LookNow();
  // Those that wait for the thread are answered with UNAVAILABLE.
  void Stop();

  void Load(const std::string& model, Done done) override { Ask({model, true, std::move(done)}); }
  void Unload(const std::string& model, Done done) override { Ask({model, false, std::move(done)}); }

 private:
  struct Wish {
    std::string model;
    bool load;
    Done done;
  };
  void Run();
  void Ask(Wish wish);
  void Grant(const Wish& wish, ModelKeeper::Notes& notes);
  bool Pause();  // false: the end has come

  ModelKeeper* const keeper_;
  const double poll_seconds_;
  ModelKeeper::Forget forget_;
  std::mutex mutex_;
  std::condition_variable changed_;
  bool asked_ = false, ending_ = false;  // guarded by mutex_, as the next
  std::vector<Wish> wishes_;
  std::thread thread_;
};

}  // namespace lstm::server
