// libnccl: ranks on emulated devices, each a thread or a process. Calls are checked when they are made, and done in the
// order of the stream when somebody waits for it.
#include <signal.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <fstream>
#include <memory>
#include <mutex>
#include <set>
#include <thread>

#include "nccl_ranks.h"

#define API extern "C" __attribute__((visibility("default")))

// The emulated driver's.
struct Stream;
extern "C" u32 cuCtxGetDevice(int* device);
extern "C" u32 cuda_emulator_enqueue(Stream* stream, u32 (*function)(void*), void* data, void (*free)(void*));
extern "C" bool cuda_emulator_inside(const void* address, u64 bytes);
extern "C" u32 cuda_emulator_failed(u32 code, const char* what);

struct UniqueId {
    u8 bytes[128];
};
// As NCCL 2.14 had it; later versions added to its end.
struct Config {
    size_t bytes;
    u32 magic, version;
    int blocking;
};

struct Comm {
    std::shared_ptr<Ranks> ranks;
    bool blocking = true;
    // Meets the others; of a communicator that does not block.
    std::thread meeting;
    // Whether the others were met, and whether the caller has yet to ask how its last call went.
    std::atomic<bool> met{false}, asking{false}, finalized{false};
    // The stream of its calls: orders on several would be hard to get right, so there is one.
    Stream* stream = nullptr;
    u64 calls = 0;
};

namespace {

enum Call : u32 { SEND, RECV, BROADCAST, ALL_GATHER };
const char* const NAMES[] = {"ncclSend", "ncclRecv", "ncclBroadcast", "ncclAllGather"};

struct Op {
    Call call;
    u32 type;
    u64 count;
    // The peer, or the root.
    int other;
    const void* from;
    void* to;
};

// The calls of a group, done together.
struct Work {
    std::shared_ptr<Ranks> ranks;
    std::vector<Op> ops;
};

std::mutex mutex;
std::set<Comm*> live;
thread_local int depth = 0;
thread_local Comm* grouped = nullptr;
thread_local Stream* grouped_stream = nullptr;
thread_local std::vector<Op> group;

Result refuse(Result code, const std::string& what) {
    cuda_emulator_failed(code, ("NCCL: " + what).c_str());
    return code;
}

// Bytes of an element by the numbers of types; 0 for one that does not exist.
u64 size_of(u32 type) {
    const u64 sizes[] = {1, 1, 4, 4, 8, 8, 2, 4, 8, 2, 1, 1};
    return type < 12 ? sizes[type] : 0;
}

std::string describe(const Op& op) {
    return std::string(NAMES[op.call]) + " of " + std::to_string(op.count) + " elements of type " +
           std::to_string(op.type) + (op.call == ALL_GATHER ? "" : ", rank " + std::to_string(op.other));
}

// Whether the caller may use a communicator now.
Result check(Comm* comm) {
    std::lock_guard<std::mutex> lock(mutex);
    if (comm == nullptr || live.count(comm) == 0) return refuse(INVALID_ARGUMENT, "a communicator that does not exist");
    return SUCCESS;
}

Result check_ready(Comm* comm) {
    if (const Result code = check(comm)) return code;
    if (!comm->met || comm->asking) return refuse(INVALID_USAGE, "a call before the last one is known to be done");
    return comm->finalized ? refuse(INVALID_USAGE, "a call after ncclCommFinalize") : SUCCESS;
}

// CUDA_EMULATOR_LOSE=rank:call: the process of that rank ends without a word at that call, counted from 1.
void maybe_vanish(Comm* comm) {
    comm->calls++;
    const char* lose = getenv("CUDA_EMULATOR_LOSE");
    int rank = -1;
    unsigned long long call = 0;
    if (lose == nullptr || sscanf(lose, "%d:%llu", &rank, &call) != 2) return;
    if (rank == comm->ranks->rank && call == comm->calls) kill(getpid(), SIGKILL);
}

Terms terms(const Op& op) { return {op.call, op.type, op.count, op.call == BROADCAST ? op.other : 0, 0}; }

// What this rank has to say for a call. What it will receive is undefined from now on.
void begin(Ranks& ranks, const Op& op) {
    const u64 bytes = op.count * size_of(op.type);
    const bool root = op.call == BROADCAST && op.other == ranks.rank;
    if (op.call == RECV || (op.call == BROADCAST && !root)) memset(op.to, 0xff, bytes);
    if (op.call == SEND) return ranks.say(op.other, SENT, terms(op), op.from, bytes);
    if (op.call == RECV) return ranks.say(op.other, READY, terms(op), nullptr, 0);
    for (int peer = 0; peer < ranks.size; peer++) {
        if (peer == ranks.rank) continue;
        ranks.say(peer, SHARED, terms(op), op.from, root || op.call == ALL_GATHER ? bytes : 0);
    }
}

// What a peer says for a call, which must be about the same.
bool meets(Ranks& ranks, const Op& op, int peer, Channel channel, Frame& frame) {
    if (!ranks.await(peer, channel, frame)) return false;
    const Terms own = terms(op), other = frame.terms;
    const bool same_call = op.call == SEND ? other.call == RECV : op.call == RECV ? other.call == SEND
                                                                                  : other.call == own.call;
    if (same_call && own.type == other.type && own.count == other.count && own.root == other.root) return true;
    const Op found = {static_cast<Call>(other.call), other.type, other.count, other.root, nullptr, nullptr};
    ranks.fail(INVALID_USAGE, describe(op) + " of rank " + std::to_string(ranks.rank) + " met " + describe(found) +
                                  " of rank " + std::to_string(peer));
    return false;
}

bool end(Ranks& ranks, const Op& op) {
    const u64 bytes = op.count * size_of(op.type);
    Frame frame;
    if (op.call == SEND) return meets(ranks, op, op.other, READY, frame);
    if (op.call == RECV) {
        if (!meets(ranks, op, op.other, SENT, frame)) return false;
        memcpy(op.to, frame.data.data(), bytes);
        return true;
    }
    u8* to = static_cast<u8*>(op.to);
    if (op.call == ALL_GATHER) memmove(to + ranks.rank * bytes, op.from, bytes);
    if (op.call == BROADCAST && op.other == ranks.rank) memmove(to, op.from, bytes);
    for (int peer = 0; peer < ranks.size; peer++) {
        if (peer == ranks.rank) continue;
        if (!meets(ranks, op, peer, SHARED, frame)) return false;
        if (op.call == ALL_GATHER) memcpy(to + peer * bytes, frame.data.data(), bytes);
        if (op.call == BROADCAST && op.other == peer) memcpy(to, frame.data.data(), bytes);
    }
    return true;
}

// As a kernel: after an error it does not end until the communicator is aborted. A mistake in the calls, for which NCCL
// would hang, fails like a kernel that does.
u32 work(void* data) {
    const Work& work = *static_cast<Work*>(data);
    Ranks& ranks = *work.ranks;
    if (ranks.aborted()) return 0;
    for (const Op& op : work.ops) begin(ranks, op);
    bool done = true;
    for (const Op& op : work.ops) done = done && end(ranks, op);
    if (done && ranks.flush()) return 0;
    if (ranks.error() == INVALID_USAGE) return 719;
    ranks.stand_still();
    return 0;
}

Result submit(Comm* comm, Stream* stream, std::vector<Op> ops) {
    if (comm->stream != nullptr && comm->stream != stream) return refuse(INVALID_USAGE, "a second stream");
    comm->stream = stream;
    auto* all = new Work{comm->ranks, std::move(ops)};
    if (cuda_emulator_enqueue(stream, work, all, [](void* data) { delete static_cast<Work*>(data); }) != 0) {
        return UNHANDLED_CUDA_ERROR;
    }
    comm->asking = !comm->blocking;
    return comm->blocking ? SUCCESS : IN_PROGRESS;
}

Result call(const Op& op, u64 reads, u64 writes, Comm* comm, Stream* stream) {
    if (const Result code = check_ready(comm)) return code;
    maybe_vanish(comm);
    const std::string what = describe(op);
    if (size_of(op.type) == 0) return refuse(INVALID_ARGUMENT, what + ": no such type");
    if (op.other < 0 || op.other >= comm->ranks->size) return refuse(INVALID_ARGUMENT, what + ": no such rank");
    if (op.call <= RECV && op.other == comm->ranks->rank) return refuse(INVALID_USAGE, what + ": to itself");
    const u64 element = size_of(op.type);
    if (reads > 0 && !cuda_emulator_inside(op.from, reads * element))
        return refuse(INVALID_ARGUMENT, what + " reads memory that is not the device's");
    if (writes > 0 && !cuda_emulator_inside(op.to, writes * element))
        return refuse(INVALID_ARGUMENT, what + " writes memory that is not the device's");
    if (depth == 0) return submit(comm, stream, {op});
    if (grouped != nullptr && (grouped != comm || grouped_stream != stream))
        return refuse(INVALID_USAGE, "a group of several communicators or streams");
    grouped = comm;
    grouped_stream = stream;
    group.push_back(op);
    return SUCCESS;
}

}  // namespace

API Result ncclGetVersion(int* version) {
    *version = 22705;
    return SUCCESS;
}

API const char* ncclGetErrorString(Result code) {
    const char* const texts[] = {"no error",         "unhandled cuda error", "unhandled system error",
                                 "internal error",   "invalid argument",     "invalid usage",
                                 "remote process exited or there was a network error", "NCCL operation in progress"};
    return code < 8 ? texts[code] : "unknown result code";
}

API const char* ncclGetLastError(Comm*) { return ""; }

// By NCCL_COMM_ID where that is set, as NCCL: then every rank can ask.
API Result ncclGetUniqueId(UniqueId* id) {
    memset(id, 0, sizeof *id);
    const char* address = getenv("NCCL_COMM_ID");
    if (address != nullptr) {
        // FNV-1a, three times.
        for (u64 part = 0; part < 3; part++) {
            u64 hash = 0xcbf29ce484222325 + part;
            for (const char* at = address; *at != 0; at++) hash = (hash ^ u8(*at)) * 0x100000001b3;
            memcpy(id->bytes + 8 * part, &hash, sizeof hash);
        }
        return SUCCESS;
    }
    std::ifstream random("/dev/urandom", std::ios::binary);
    return random.read(reinterpret_cast<char*>(id->bytes), 24) ? SUCCESS : SYSTEM_ERROR;
}

API Result ncclCommInitRankConfig(Comm** made, int size, UniqueId id, int rank, const Config* config) {
    if (config != nullptr && (config->bytes < sizeof *config || config->magic != 0xcafebeef || config->version < 21400))
        return refuse(INVALID_ARGUMENT, "a configuration that was not initialized");
    if (size < 1 || rank < 0 || rank >= size) return refuse(INVALID_ARGUMENT, "a rank that does not exist");
    int device = -1;
    if (cuCtxGetDevice(&device) != 0) return refuse(UNHANDLED_CUDA_ERROR, "no device is current");
    auto* comm = new Comm();
    comm->ranks = std::make_shared<Ranks>(rank, size, device, id.bytes);
    comm->blocking = config == nullptr || config->blocking != 0;
    *made = comm;
    {
        std::lock_guard<std::mutex> lock(mutex);
        live.insert(comm);
    }
    const auto meet = [comm] {
        comm->ranks->meet();
        comm->met = true;
    };
    if (comm->blocking) {
        meet();
        return comm->ranks->error();
    }
    comm->asking = true;
    comm->meeting = std::thread(meet);
    return IN_PROGRESS;
}

API Result ncclCommInitRank(Comm** made, int size, UniqueId id, int rank) {
    return ncclCommInitRankConfig(made, size, id, rank, nullptr);
}

API Result ncclCommGetAsyncError(Comm* comm, Result* state) {
    if (const Result code = check(comm)) return code;
    const Result error = comm->ranks->error();
    const bool met = comm->met;
    if (met) comm->asking = false;
    *state = error != SUCCESS ? error : met ? SUCCESS : IN_PROGRESS;
    return SUCCESS;
}

API Result ncclCommCount(Comm* comm, int* count) {
    if (const Result code = check_ready(comm)) return code;
    *count = comm->ranks->size;
    return SUCCESS;
}

API Result ncclCommUserRank(Comm* comm, int* rank) {
    if (const Result code = check_ready(comm)) return code;
    *rank = comm->ranks->rank;
    return SUCCESS;
}

API Result ncclCommFinalize(Comm* comm) {
    if (const Result code = check_ready(comm)) return code;
    comm->finalized = true;
    comm->asking = !comm->blocking;
    return comm->blocking ? SUCCESS : IN_PROGRESS;
}

// Ends a communicator whose calls are done, or does not wait for them.
API Result ncclCommAbort(Comm* comm) {
    if (const Result code = check(comm)) return code;
    {
        std::lock_guard<std::mutex> lock(mutex);
        live.erase(comm);
    }
    comm->ranks->abort();
    if (comm->meeting.joinable()) comm->meeting.join();
    delete comm;
    return SUCCESS;
}

API Result ncclCommDestroy(Comm* comm) {
    if (const Result code = check(comm)) return code;
    if (!comm->met || comm->asking) return refuse(INVALID_USAGE, "a call before the last one is known to be done");
    return ncclCommAbort(comm);
}

API Result ncclSend(const void* from, size_t count, u32 type, int peer, Comm* comm, Stream* stream) {
    return call({SEND, type, count, peer, from, nullptr}, count, 0, comm, stream);
}

API Result ncclRecv(void* to, size_t count, u32 type, int peer, Comm* comm, Stream* stream) {
    return call({RECV, type, count, peer, nullptr, to}, 0, count, comm, stream);
}

API Result ncclBroadcast(const void* from, void* to, size_t count, u32 type, int root, Comm* comm, Stream* stream) {
    if (const Result code = check_ready(comm)) return code;
    return call({BROADCAST, type, count, root, from, to}, root == comm->ranks->rank ? count : 0, count, comm, stream);
}

API Result ncclAllGather(const void* from, void* to, size_t count, u32 type, Comm* comm, Stream* stream) {
    if (const Result code = check_ready(comm)) return code;
    return call({ALL_GATHER, type, count, 0, from, to}, count, count * u64(comm->ranks->size), comm, stream);
}

API Result ncclGroupStart() {
    depth++;
    return SUCCESS;
}

API Result ncclGroupEnd() {
    if (depth == 0) return refuse(INVALID_USAGE, "ncclGroupEnd without ncclGroupStart");
    if (--depth > 0 || grouped == nullptr) return SUCCESS;
    Comm* comm = grouped;
    grouped = nullptr;
    std::vector<Op> ops;
    ops.swap(group);
    const Result code = check_ready(comm);
    return code != SUCCESS ? code : submit(comm, grouped_stream, std::move(ops));
}
