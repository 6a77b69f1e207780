// Streams: work is done when somebody waits for it, no earlier, so that a program which does not wait is found out.
#pragma once
#include <deque>
#include <functional>
#include <mutex>

#include "api.h"

struct Stream {
    explicit Stream(bool blocking) : blocking(blocking) {}

    // Adds work, which returns what went wrong. After an error nothing is added: every call returns the first one.
    Code add(std::function<Code()> work);
    // Does all work.
    Code finish();

    // Whether work without a stream waits for this one.
    const bool blocking;

  private:
    std::mutex mutex;
    std::deque<std::function<Code()>> queue;
    Code error = SUCCESS;
};

// The stream behind a handle, or null for one that does not exist. 0, 1 and 2 are the default stream's.
Stream* stream_of(Stream* handle);
// Does the work of all streams, or of those that the default stream waits for.
Code finish_all(bool only_blocking);
// For a context that ends: all streams, their work and errors.
void forget_streams();
