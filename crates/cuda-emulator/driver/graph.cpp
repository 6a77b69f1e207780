// libcuda: graphs, made of what a stream was given while it was captured.
#include "stream.h"

struct Graph {
    std::shared_ptr<Works> works;
};

// What graphs of the calling thread have at most: a driver refuses what it cannot capture when it is given.
static __thread u64 most_captured = UINT64_MAX;
API void cuda_emulator_set_most_captured(u64 most) { most_captured = most; }

API Code cuStreamBeginCapture_v2(Stream* handle, u32) {
    if (const Code code = ready()) return code;
    // The default stream of a device cannot be captured.
    Stream* stream = stream_of(handle);
    if (stream == nullptr || stream != handle) return stream == nullptr ? INVALID_HANDLE : CAPTURE_UNSUPPORTED;
    return stream->begin_capture(most_captured) ? SUCCESS : CAPTURE_UNSUPPORTED;
}

API Code cuStreamEndCapture(Stream* handle, Graph** graph) {
    if (const Code code = ready()) return code;
    Stream* stream = stream_of(handle);
    if (stream == nullptr) return INVALID_HANDLE;
    const std::shared_ptr<Works> works = stream->end_capture();
    *graph = works ? new Graph{works} : nullptr;
    return works ? SUCCESS : CAPTURE_INVALIDATED;
}

// A graph that can be launched is told from one that cannot by its type alone.
API Code cuGraphInstantiateWithFlags(Graph** launched, const Graph* graph, unsigned long long) {
    if (graph == nullptr) return INVALID_HANDLE;
    *launched = new Graph(*graph);
    return SUCCESS;
}

API Code cuGraphLaunch(const Graph* graph, Stream* handle) {
    if (const Code code = ready()) return code;
    Stream* stream = stream_of(handle);
    if (graph == nullptr || stream == nullptr) return INVALID_HANDLE;
    cuda_emulator_count("graph");
    return stream->add([works = graph->works] {
        for (const auto& work : *works) {
            if (const Code code = work()) return code;
        }
        return Code(SUCCESS);
    });
}

API Code cuGraphDestroy(Graph* graph) {
    if (graph == nullptr) return INVALID_HANDLE;
    delete graph;
    return SUCCESS;
}

API Code cuGraphExecDestroy(Graph* graph) { return cuGraphDestroy(graph); }
