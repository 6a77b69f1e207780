#include "nccl_ranks.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstddef>
#include <cstdio>
#include <cstdlib>
#include <cstring>

// The emulated driver's.
extern "C" u32 cuda_emulator_failed(u32 code, const char* what);

namespace {

// Before a frame.
struct Head {
    u32 channel, reserved;
    u64 bytes;
    Terms terms;
};

// What ranks tell each other first.
struct Hello {
    u64 magic;
    i32 rank, size, device, reserved;
    char host[64];
};
constexpr u64 MAGIC = 0x6e63636c68656c6c;

// Ranks with different names are on different machines; NCCL reads the same variable.
Hello hello(int rank, int size, int device) {
    Hello hello = {MAGIC, rank, size, device, 0, {}};
    const char* host = getenv("NCCL_HOSTID");
    snprintf(hello.host, sizeof hello.host, "%s", host == nullptr ? "" : host);
    return hello;
}

std::string hexadecimal(const u8* id) {
    std::string text;
    for (int i = 0; i < 24; i++) {
        char digits[3];
        snprintf(digits, sizeof digits, "%02x", id[i]);
        text += digits;
    }
    return text;
}

// A name that no file has: nothing is left of it when its process is gone.
sockaddr_un address(const std::string& name, int rank, socklen_t& bytes) {
    sockaddr_un address = {};
    address.sun_family = AF_UNIX;
    const std::string text = "cuda-emulator-nccl-" + name + "-" + std::to_string(rank);
    memcpy(address.sun_path + 1, text.data(), text.size());
    bytes = static_cast<socklen_t>(offsetof(sockaddr_un, sun_path) + 1 + text.size());
    return address;
}

bool exchange(int socket, const Hello& own, Hello& other) {
    return send(socket, &own, sizeof own, MSG_NOSIGNAL) == ssize_t(sizeof own) &&
           recv(socket, &other, sizeof other, MSG_WAITALL) == ssize_t(sizeof other) && other.magic == MAGIC;
}

}  // namespace

Ranks::Ranks(int rank, int size, int device, const u8* id)
    : rank(rank), size(size), device(device), name(hexadecimal(id)), peers(size), bell(eventfd(0, EFD_CLOEXEC)) {}

Ranks::~Ranks() {
    for (Peer& peer : peers) {
        if (peer.socket >= 0) close(peer.socket);
    }
    close(bell);
}

int Ranks::listen() {
    const int listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    socklen_t bytes = 0;
    const sockaddr_un own = address(name, rank, bytes);
    if (bind(listener, reinterpret_cast<const sockaddr*>(&own), bytes) == 0 && ::listen(listener, size) == 0) {
        return listener;
    }
    close(listener);
    return -1;
}

// Again and again until the peer listens.
int Ranks::connect(int peer) {
    socklen_t bytes = 0;
    const sockaddr_un other = address(name, peer, bytes);
    while (!stopped) {
        const int made = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
        if (::connect(made, reinterpret_cast<const sockaddr*>(&other), bytes) == 0) return made;
        close(made);
        usleep(2000);
    }
    return -1;
}

Result Ranks::greet(int socket, int& peer) {
    const Hello own = hello(rank, size, device);
    Hello other;
    if (!exchange(socket, own, other)) return REMOTE_ERROR;
    if (other.size != size) {
        fail(INVALID_USAGE, "rank " + std::to_string(rank) + " is one of " + std::to_string(size) + ", rank " +
                                std::to_string(other.rank) + " one of " + std::to_string(other.size));
        return INVALID_USAGE;
    }
    if (strcmp(other.host, own.host) == 0 && other.device == device) {
        fail(INVALID_USAGE, "ranks " + std::to_string(rank) + " and " + std::to_string(other.rank) +
                                " are both on device " + std::to_string(device));
        return INVALID_USAGE;
    }
    peer = other.rank;
    return SUCCESS;
}

// Each rank connects to those before it and hears from those behind it.
Result Ranks::meet() {
    const int listener = listen();
    if (listener < 0) {
        fail(INVALID_USAGE, "rank " + std::to_string(rank) + " is there twice");
        return INVALID_USAGE;
    }
    for (int left = size - 1; left > 0 && first_error == SUCCESS && !stopped; left--) {
        int made = -1, peer = -1;
        if (left > size - 1 - rank) {
            made = connect(size - 1 - left);
        } else {
            pollfd waiting[2] = {{listener, POLLIN, 0}, {bell, POLLIN, 0}};
            poll(waiting, 2, -1);
            made = accept4(listener, nullptr, nullptr, SOCK_CLOEXEC);
        }
        if (stopped || made < 0) {
            left += made < 0 ? 1 : 0;
            continue;
        }
        const Result code = greet(made, peer);
        if (code != SUCCESS || peer < 0 || peer >= size || peers[peer].socket >= 0) {
            close(made);
            if (code != SUCCESS) fail(code, "rank " + std::to_string(rank) + " cannot meet the others");
            continue;
        }
        fcntl(made, F_SETFL, O_NONBLOCK);
        peers[peer].socket = made;
    }
    close(listener);
    return first_error;
}

void Ranks::fail(Result code, const std::string& what) {
    Result none = SUCCESS;
    if (first_error.compare_exchange_strong(none, code)) cuda_emulator_failed(code, ("NCCL: " + what).c_str());
    // Peers that wait for this rank learn that it makes no more calls.
    for (Peer& peer : peers) {
        if (peer.socket >= 0) shutdown(peer.socket, SHUT_RDWR);
    }
}

void Ranks::abort() {
    stopped = true;
    const u64 one = 1;
    if (::write(bell, &one, sizeof one) < 0) perror("eventfd");
}

void Ranks::stand_still() {
    pollfd waiting = {bell, POLLIN, 0};
    while (!stopped) poll(&waiting, 1, -1);
}

void Ranks::write(int to, const void* bytes, u64 count) {
    const u8* from = static_cast<const u8*>(bytes);
    peers[to].out.insert(peers[to].out.end(), from, from + count);
}

void Ranks::say(int to, Channel channel, const Terms& terms, const void* data, u64 bytes) {
    const Head head = {channel, 0, bytes, terms};
    write(to, &head, sizeof head);
    if (bytes > 0) write(to, data, bytes);
    peers[to].owed = peers[to].out.size();
    peers[to].said++;
    // It no longer waits for ever, as far as is known here.
    peers[to].probes.clear();
}

void Ranks::tell(int to, Probe probe) {
    const Head head = {PROBE, 0, sizeof probe, {}};
    probe.received = static_cast<u32>(peers[to].heard);
    write(to, &head, sizeof head);
    write(to, &probe, sizeof probe);
}

// Tells whom this rank waits for that it does, and who waits for this one: what comes back along a circle was true of
// each of its ranks, and stays true, because none of them goes on before another does. Each part of the path is
// believed only if no frame is on its way back: the numbers of frames said and heard are the same.
void Ranks::announce() {
    tell(awaited, {static_cast<u32>(rank), 0, waits});
    for (Peer& peer : peers) {
        for (const Probe& probe : peer.probes) tell(awaited, probe);
    }
}

void Ranks::heed(int from, const Probe& probe) {
    Peer& peer = peers[from];
    if (probe.received != static_cast<u32>(peer.said)) return;
    if (probe.origin == static_cast<u32>(rank)) {
        in_a_circle |= waits_on() && probe.number == waits;
        return;
    }
    for (const Probe& known : peer.probes) {
        if (known.origin == probe.origin && known.number == probe.number) return;
    }
    peer.probes.push_back(probe);
    if (waits_on()) tell(awaited, probe);
}

// What has come from a peer, as far as it is whole.
void Ranks::take(int from) {
    Peer& peer = peers[from];
    u64 at = 0;
    while (peer.in.size() - at >= sizeof(Head)) {
        Head head;
        memcpy(&head, &peer.in[at], sizeof head);
        if (peer.in.size() - at - sizeof head < head.bytes) break;
        const u8* data = peer.in.data() + at + sizeof head;
        at += sizeof head + head.bytes;
        if (head.channel == PROBE) {
            Probe probe;
            memcpy(&probe, data, sizeof probe);
            heed(from, probe);
        } else {
            peer.frames[head.channel].push_back({head.terms, std::vector<u8>(data, data + head.bytes)});
            peer.heard++;
        }
    }
    peer.in.erase(peer.in.begin(), peer.in.begin() + static_cast<std::ptrdiff_t>(at));
}

void Ranks::move() {
    std::vector<pollfd> waiting = {{bell, POLLIN, 0}};
    std::vector<int> numbers = {-1};
    for (int i = 0; i < size; i++) {
        if (peers[i].socket < 0 || peers[i].gone) continue;
        const short out = peers[i].out.empty() ? 0 : POLLOUT;
        waiting.push_back({peers[i].socket, static_cast<short>(POLLIN | out), 0});
        numbers.push_back(i);
    }
    poll(waiting.data(), waiting.size(), -1);
    for (size_t i = 1; i < waiting.size() && !stopped; i++) {
        Peer& peer = peers[numbers[i]];
        if ((waiting[i].revents & POLLOUT) != 0) {
            const ssize_t gone = send(peer.socket, peer.out.data(), peer.out.size(), MSG_NOSIGNAL);
            if (gone > 0) {
                peer.out.erase(peer.out.begin(), peer.out.begin() + gone);
                peer.owed -= std::min<u64>(peer.owed, gone);
            }
        }
        if ((waiting[i].revents & (POLLIN | POLLHUP | POLLERR)) == 0) continue;
        static thread_local u8 piece[1 << 16];
        const ssize_t came = recv(peer.socket, piece, sizeof piece, 0);
        if (came > 0) {
            peer.in.insert(peer.in.end(), piece, piece + came);
            take(numbers[i]);
        } else if (came == 0 || (errno != EAGAIN && errno != EINTR)) {
            peer.gone = true;
        }
    }
}

bool Ranks::await(int from, Channel channel, Frame& frame) {
    std::deque<Frame>& frames = peers[from].frames[channel];
    if (frames.empty()) {
        awaited = from;
        awaited_channel = channel;
        waits++;
        in_a_circle = false;
        announce();
    }
    u64 heard = peers[from].heard;
    while (frames.empty() && !stopped && first_error == SUCCESS) {
        if (peers[from].gone) {
            fail(REMOTE_ERROR, "rank " + std::to_string(from) + " is gone, rank " + std::to_string(rank) + " waits");
        } else if (in_a_circle) {
            fail(INVALID_USAGE, "rank " + std::to_string(rank) + " waits for rank " + std::to_string(from) +
                                    " for ever, which waits for it: their calls do not match");
        } else {
            move();
            // Another call's frame: what was told about this wait named an older number.
            if (frames.empty() && heard != peers[from].heard) announce();
            heard = peers[from].heard;
        }
    }
    awaited = -1;
    if (stopped || frames.empty()) return false;
    frame = std::move(frames.front());
    frames.pop_front();
    return true;
}

bool Ranks::flush() {
    while (!stopped && first_error == SUCCESS) {
        bool done = true;
        for (int i = 0; i < size; i++) {
            // Of a peer that has all it was owed, and left, nobody reads that this rank once waited for it.
            if (peers[i].gone && peers[i].owed == 0) peers[i].out.clear();
            if (peers[i].out.empty()) continue;
            done = false;
            if (peers[i].gone) fail(REMOTE_ERROR, "rank " + std::to_string(i) + " is gone");
        }
        if (done) return true;
        move();
    }
    return false;
}
