#pragma once

#include "anyfp8/device/device.h"

namespace anyfp8 {

// A second stream of a CUDA device, beside a caller's, for work that may run at the same time; its blocks are
// started before those that wait on other streams. A graph that captures the caller's stream captures it too.
// A build without CUDA has it and throws.
class SideStream {
 public:
  explicit SideStream(const Device& device);
  ~SideStream();
  SideStream(SideStream&& other) noexcept;
  SideStream& operator=(SideStream&& other) noexcept;

  Stream stream() const noexcept { return {stream_}; }
  // What is queued here from now on waits for what is queued on `main` so far, and the other way round.
  void wait_for(Stream main) const;
  void let_wait(Stream main) const;

 private:
  void *stream_ = nullptr, *event_ = nullptr;  // cudaStream_t, cudaEvent_t
};

}  // namespace anyfp8
