#include "stream.h"

#include <chrono>
#include <condition_variable>
#include <map>
#include <set>

namespace {

// One mutex guards all streams, and no work runs under it: with a mutex for each, held while its work waits for another
// stream, two threads that finish two streams from either end would wait for each other for ever.
struct Streams {
    std::mutex mutex;
    std::condition_variable changed;
    std::set<Stream*> live;
    // Of each device.
    std::map<int, Stream*> usual;

    // The mutex is locked.
    Stream* usual_of(int device) {
        Stream*& stream = usual[device];
        if (stream == nullptr) stream = new Stream(device, true);
        return stream;
    }
};

Streams& streams() {
    static Streams* const streams = new Streams();
    return *streams;
}

double now() {
    using namespace std::chrono;
    return duration<double, std::milli>(steady_clock::now().time_since_epoch()).count();
}

}  // namespace

struct Event {
    Stream* stream = nullptr;
    // The latest recording.
    std::shared_ptr<Mark> mark;
    // Milliseconds; negative while the event has not happened.
    double time = -1;
    // Not with CU_EVENT_DISABLE_TIMING.
    bool timed = true;
};

Code Stream::push(Item item) {
    std::unique_lock<std::mutex> lock(streams().mutex);
    if (capturing) {
        // A wait is for other streams, whose work would have to be part of the graph.
        if (item.after || (captured && captured->size() == most_captured)) captured = nullptr;
        if (captured) captured->push_back(std::move(item.work));
        return captured ? Code(SUCCESS) : Code(CAPTURE_INVALIDATED);
    }
    if (error == SUCCESS) queue.push_back(std::move(item));
    while (eager && !working && error == SUCCESS && !queue.empty()) {
        const std::shared_ptr<Mark>& after = queue.front().after;
        if (after && !after->done) break;
        step(lock);
    }
    return error;
}

// Does the oldest work, without the lock.
void Stream::step(std::unique_lock<std::mutex>& lock) {
    const Item item = std::move(queue.front());
    queue.pop_front();
    working = true;
    lock.unlock();
    const Code code = item.work();
    lock.lock();
    working = false;
    error = code;
    if (error != SUCCESS) queue.clear();
    streams().changed.notify_all();
}

Code Stream::add(std::function<Code()> work) { return push({std::move(work), nullptr}); }

bool Stream::begin_capture(u64 most) {
    std::lock_guard<std::mutex> lock(streams().mutex);
    if (capturing) return false;
    capturing = true;
    capturer = std::this_thread::get_id();
    captured = std::make_shared<Works>();
    most_captured = most;
    return true;
}

std::shared_ptr<Works> Stream::end_capture() {
    std::lock_guard<std::mutex> lock(streams().mutex);
    capturing = false;
    return std::move(captured);
}

Code Stream::add_mark(std::shared_ptr<Mark> mark) {
    {
        // An event that is recorded in a graph happens in the graph; nothing here needs one.
        std::lock_guard<std::mutex> lock(streams().mutex);
        if (capturing) {
            captured = nullptr;
            return CAPTURE_UNSUPPORTED;
        }
    }
    return push({[mark] {
                     mark->done = true;
                     return Code(SUCCESS);
                 },
                 nullptr});
}

Code Stream::add_wait(std::shared_ptr<Mark> mark) {
    // A stream never waits for itself: what was added before is done before.
    if (mark->stream == this) return add([] { return Code(SUCCESS); });
    return push({[mark] { return mark->stream->finish(mark.get()); }, mark});
}

// A mark precedes every wait for it, so among threads that wait for each other's streams one can always go on.
Code Stream::finish(const Mark* mark) {
    std::unique_lock<std::mutex> lock(streams().mutex);
    // Another thread that waits for all streams is given what was added before.
    if (capturing && capturer == std::this_thread::get_id()) {
        captured = nullptr;
        return CAPTURE_UNSUPPORTED;
    }
    while (error == SUCCESS && (working || !queue.empty()) && !(mark != nullptr && mark->done)) {
        if (working) {
            streams().changed.wait(lock);
        } else {
            step(lock);
        }
    }
    return mark != nullptr && mark->done ? Code(SUCCESS) : error;
}

// Whether streams that the calling thread makes from now on are eager, all but the default stream.
static __thread bool eager_streams = false;
API void cuda_emulator_set_eager(bool eager) { eager_streams = eager; }

// How often the calling thread has waited for a stream, or for an event whose work was not done.
static __thread u64 waits = 0;
API u64 cuda_emulator_waits() { return waits; }

Stream* stream_of(Stream* handle) {
    std::lock_guard<std::mutex> lock(streams().mutex);
    if (reinterpret_cast<uintptr_t>(handle) <= 2) return streams().usual_of(current_device());
    return streams().live.count(handle) != 0 ? handle : nullptr;
}

Code finish_all(bool only_blocking) {
    const int device = current_device();
    std::set<Stream*> all;
    Stream* usual = nullptr;
    {
        std::lock_guard<std::mutex> lock(streams().mutex);
        all = streams().live;
        usual = streams().usual_of(device);
    }
    Code first = usual->finish();
    for (Stream* stream : all) {
        if (stream->device != device || (only_blocking && !stream->blocking)) continue;
        const Code code = stream->finish();
        if (first == SUCCESS) first = code;
    }
    return first;
}

void forget_streams(int device) {
    std::lock_guard<std::mutex> lock(streams().mutex);
    std::set<Stream*>& live = streams().live;
    for (auto stream = live.begin(); stream != live.end();) {
        stream = (*stream)->device == device ? live.erase(stream) : std::next(stream);
    }
    streams().usual.erase(device);
}

API Code cuStreamCreate(Stream** stream, u32 flags) {
    if (const Code code = ready()) return code;
    *stream = new Stream(current_device(), (flags & 1) == 0);
    (*stream)->eager = eager_streams;
    std::lock_guard<std::mutex> lock(streams().mutex);
    streams().live.insert(*stream);
    return SUCCESS;
}

API Code cuStreamCreateWithPriority(Stream** stream, u32 flags, int) { return cuStreamCreate(stream, flags); }

API Code cuStreamDestroy_v2(Stream* stream) {
    if (stream == nullptr || stream_of(stream) != stream) return INVALID_HANDLE;
    stream->finish();
    std::lock_guard<std::mutex> lock(streams().mutex);
    // Not deleted: another thread that waits for all streams may be about to lock it.
    streams().live.erase(stream);
    return SUCCESS;
}

API Code cuStreamSynchronize(Stream* handle) {
    if (const Code code = ready()) return code;
    Stream* stream = stream_of(handle);
    waits++;
    return stream == nullptr ? Code(INVALID_HANDLE) : stream->finish();
}

API Code cuStreamQuery(Stream* handle) { return cuStreamSynchronize(handle); }

API Code cuCtxSynchronize() {
    if (const Code code = ready()) return code;
    return finish_all(false);
}

API Code cuLaunchHostFunc(Stream* handle, void (*function)(void*), void* data) {
    Stream* stream = stream_of(handle);
    if (stream == nullptr) return INVALID_HANDLE;
    return stream->add([=] {
        function(data);
        return Code(SUCCESS);
    });
}

// For the other emulated libraries: work that may fail as a kernel does, and is done again for each launch of a graph
// that has it. `data` is freed with the last of them, also if the stream refuses it.
API Code cuda_emulator_enqueue(Stream* handle, Code (*function)(void*), void* data, void (*free)(void*)) {
    const std::shared_ptr<void> kept(data, free);
    if (const Code code = ready()) return code;
    Stream* stream = stream_of(handle);
    return stream == nullptr ? Code(INVALID_HANDLE) : stream->add([=] { return function(kept.get()); });
}

API Code cuEventCreate(Event** event, u32 flags) {
    if (const Code code = ready()) return code;
    *event = new Event();
    (*event)->timed = (flags & 2) == 0;
    return SUCCESS;
}

API Code cuEventDestroy_v2(Event* event) {
    if (event == nullptr) return INVALID_HANDLE;
    if (event->stream != nullptr && stream_of(event->stream) != nullptr) stream_of(event->stream)->finish();
    delete event;
    return SUCCESS;
}

API Code cuEventRecord(Event* event, Stream* handle) {
    Stream* stream = stream_of(handle);
    if (event == nullptr || stream == nullptr) return INVALID_HANDLE;
    event->stream = stream;
    event->time = -1;
    const Code code = stream->add([event] {
        event->time = now();
        return Code(SUCCESS);
    });
    event->mark = std::make_shared<Mark>(stream);
    return code == SUCCESS ? stream->add_mark(event->mark) : code;
}

API Code cuEventSynchronize(Event* event) {
    if (event == nullptr) return INVALID_HANDLE;
    if (event->mark != nullptr && !event->mark->done) waits++;
    return event->stream == nullptr || stream_of(event->stream) == nullptr ? Code(SUCCESS) : event->stream->finish();
}

API Code cuEventQuery(Event* event) { return cuEventSynchronize(event); }

API Code cuEventElapsedTime(float* milliseconds, Event* start, Event* end) {
    if (start == nullptr || end == nullptr || start->stream == nullptr || end->stream == nullptr) return INVALID_HANDLE;
    if (!start->timed || !end->timed) return INVALID_HANDLE;
    if (start->time < 0 || end->time < 0) return NOT_READY;
    *milliseconds = static_cast<float>(end->time - start->time);
    return SUCCESS;
}

API Code cuEventElapsedTime_v2(float* milliseconds, Event* start, Event* end) {
    return cuEventElapsedTime(milliseconds, start, end);
}

API Code cuStreamWaitEvent(Stream* handle, Event* event, u32) {
    Stream* stream = stream_of(handle);
    if (event == nullptr || stream == nullptr) return INVALID_HANDLE;
    // An event that was never recorded counts as done; later recordings do not affect this wait.
    return event->mark == nullptr ? Code(SUCCESS) : stream->add_wait(event->mark);
}
