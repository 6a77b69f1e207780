// The ranks of one communicator: who they are, and what they say to each other.
//
// Every rank has a socket to every other. What a call has to say to a peer goes there as one frame, and the call is
// over when the peers' frames for it have come: none ends before its peers have made their calls too. Ranks that wait
// for each other in a circle, where NCCL would hang, find that out by probes (see `Ranks::announce`).
#pragma once
#include <atomic>
#include <deque>
#include <string>
#include <vector>

#include "../runtime/types.h"

typedef u32 Result;
enum : Result {
    SUCCESS = 0,
    UNHANDLED_CUDA_ERROR = 1,
    SYSTEM_ERROR = 2,
    INTERNAL_ERROR = 3,
    INVALID_ARGUMENT = 4,
    INVALID_USAGE = 5,
    REMOTE_ERROR = 6,
    IN_PROGRESS = 7,
};

// What a frame is for: the data of a send, the readiness of a receive, or a part in a call of all ranks.
enum Channel : u32 { SENT, READY, SHARED, CHANNELS, PROBE = CHANNELS };

// What both sides of a call must agree on.
struct Terms {
    u32 call, type;
    u64 count;
    i32 root;
    u32 reserved;
};

struct Frame {
    Terms terms;
    std::vector<u8> data;
};

// "Rank `origin` is in its wait `number`, and so on along a path of ranks that each wait for the next."
struct Probe {
    u32 origin;
    u32 received;
    u64 number;
};

class Ranks {
  public:
    Ranks(int rank, int size, int device, const u8* id);
    ~Ranks();
    // Connects this rank to all others; an error if they do not belong together.
    Result meet();
    // Says something to a peer. It goes on its way while something is awaited.
    void say(int peer, Channel channel, const Terms& terms, const void* data, u64 bytes);
    // Waits for what a peer says; false after an error, or when the communicator was aborted.
    bool await(int peer, Channel channel, Frame& frame);
    // Waits until all that was said has gone.
    bool flush();
    // Remembers the first error and says it.
    void fail(Result code, const std::string& what);
    // Blocks until somebody aborts, as a kernel does whose peer is gone.
    void stand_still();
    // From any thread.
    void abort();
    bool aborted() const { return stopped; }
    Result error() const { return first_error; }

    const int rank, size, device;

  private:
    struct Peer {
        int socket = -1;
        bool gone = false;
        std::vector<u8> in, out;
        // Bytes of `out` up to the end of its last frame that is no probe: what the peer waits for.
        u64 owed = 0;
        std::deque<Frame> frames[CHANNELS];
        // Frames that were said to it, and that came from it.
        u64 said = 0, heard = 0;
        // What it has told about who waits for it.
        std::vector<Probe> probes;
    };
    int listen();
    int connect(int peer);
    Result greet(int socket, int& peer);
    void announce();
    void tell(int peer, Probe probe);
    void heed(int peer, const Probe& probe);
    void write(int peer, const void* bytes, u64 count);
    void take(int peer);
    // Moves bytes; returns when some have moved, or the communicator was aborted.
    void move();

    const std::string name;
    std::vector<Peer> peers;
    // Readable when aborted.
    int bell;
    std::atomic<bool> stopped{false};
    std::atomic<Result> first_error{SUCCESS};
    // What this rank waits for still has to come.
    bool waits_on() const { return awaited >= 0 && peers[awaited].frames[awaited_channel].empty(); }

    // Whom this rank waits for, or -1, and for what; how often it has begun to wait; whether that is for ever.
    int awaited = -1;
    Channel awaited_channel = SENT;
    u64 waits = 0;
    bool in_a_circle = false;
};
