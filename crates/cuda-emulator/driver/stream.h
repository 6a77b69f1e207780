// Streams: work is done when somebody waits for it, no earlier, so that a program which does not wait is found out.
// Eager streams do it as soon as they may, so that one whose work does not wait is found out too.
#pragma once
#include <deque>
#include <functional>
#include <memory>
#include <mutex>

#include "api.h"

struct Stream;

// One recording of an event.
struct Mark {
    Stream* stream;
    bool done = false;
};

struct Stream {
    explicit Stream(bool blocking) : blocking(blocking) {}

    // Adds work, which returns what went wrong. After an error nothing is added: every call returns the first one.
    Code add(std::function<Code()> work);
    // Adds a mark that is done when all work before it is.
    Code add_mark(std::shared_ptr<Mark> mark);
    // Adds a wait: what is added later is not done before the mark is.
    Code add_wait(std::shared_ptr<Mark> mark);
    // Does all work, or all up to a mark.
    Code finish();
    Code finish(const Mark& mark);

    // Whether work without a stream waits for this one.
    const bool blocking;
    // Whether work is done when it is added, as far as it need not wait for another stream.
    bool eager = false;

  private:
    std::mutex mutex;
    struct Item {
        std::function<Code()> work;
        // What it waits for, if anything.
        std::shared_ptr<Mark> after;
    };
    Code push(Item item);
    Code step();

    std::deque<Item> queue;
    Code error = SUCCESS;
};

// The stream behind a handle, or null for one that does not exist. 0, 1 and 2 are the default stream's.
Stream* stream_of(Stream* handle);
// Does the work of all streams, or of those that the default stream waits for.
Code finish_all(bool only_blocking);
// For a context that ends: all streams, their work and errors.
void forget_streams();
