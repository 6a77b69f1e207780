// Streams do their work when the program waits for it and no earlier, which exposes programs that forget to wait. Eager
// streams do it as early as they may, which exposes work that should have waited for other work.
#pragma once
#include <atomic>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "api.h"

struct Stream;

// Work in its order.
using Works = std::vector<std::function<Code()>>;

// One recording of an event.
struct Mark {
    explicit Mark(Stream* stream) : stream(stream) {}

    Stream* const stream;
    std::atomic<bool> done{false};
};

struct Stream {
    Stream(int device, bool blocking) : device(device), blocking(blocking) {}

    // Adds work, which returns its error code. After an error nothing is added: every call returns the first error.
    Code add(std::function<Code()> work);
    // Adds a mark that is done when all work before it is.
    Code add_mark(std::shared_ptr<Mark> mark);
    // Adds a wait: work that is added later runs after the mark is done.
    Code add_wait(std::shared_ptr<Mark> mark);
    // Does all work, or all up to a mark.
    Code finish(const Mark* mark = nullptr);
    // From now on work is kept for a graph and not done, up to `most` items; false if it is already.
    bool begin_capture(u64 most);
    // What was kept; null if nothing was to be, or if something was added or asked that a graph cannot hold.
    std::shared_ptr<Works> end_capture();

    const int device;
    // Whether work without a stream waits for this one.
    const bool blocking;
    // Whether work runs when it is added, unless it has to wait for another stream.
    bool eager = false;

  private:
    struct Item {
        std::function<Code()> work;
        // What it waits for, if anything.
        std::shared_ptr<Mark> after;
    };
    Code push(Item item);
    void step(std::unique_lock<std::mutex>& lock);

    std::deque<Item> queue;
    // A thread does the work that was the oldest.
    bool working = false;
    // What is kept for a graph, while one is made; null once it has failed.
    bool capturing = false;
    std::shared_ptr<Works> captured;
    u64 most_captured = 0;
    // The thread that makes the graph, to which alone the rules of making one apply.
    std::thread::id capturer;
    Code error = SUCCESS;
};

// The stream behind a handle, or null for one that does not exist. 0, 1 and 2 are the default stream of the device that
// is current.
Stream* stream_of(Stream* handle);
// Does the work of all streams of the device that is current, or of those that its default stream waits for.
Code finish_all(bool only_blocking);
// For a context that ends: all streams of its device, their work and errors.
void forget_streams(int device);
