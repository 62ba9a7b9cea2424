/// Work that was captured from a stream instead of being run.
public struct Graph: ~Copyable {
    private let context: Context
    private let handle: OpaquePointer?

    /// Captures what `body` puts into `stream`, and into streams that wait for events of it and are waited
    /// for again.
    ///
    /// Nothing runs meanwhile. The memory that the captured work uses must live as long as its executables.
    ///
    /// - Throws: `captureFailed` where something cannot be captured; what `body` throws.
    public init(capturing stream: Stream, _ body: () throws(CUDAError) -> Void) throws(CUDAError) {
        let functions = stream.context.functions
        let action = "capturing a graph"
        // 1: of this thread. What other threads do meanwhile is their own.
        try stream.context.check(functions.cuStreamBeginCapture(stream.handle, 1), action)
        var handle: OpaquePointer?
        do throws(CUDAError) {
            try body()
        } catch {
            _ = functions.cuStreamEndCapture(stream.handle, &handle)
            if handle != nil { _ = functions.cuGraphDestroy(handle) }
            throw error
        }
        try stream.context.check(functions.cuStreamEndCapture(stream.handle, &handle), action)
        context = stream.context
        self.handle = handle
    }

    deinit {
        if handle != nil { _ = context.functions.cuGraphDestroy(handle) }
    }

    /// Kernels, copies and flags in it.
    public var nodeCount: Int {
        get throws(CUDAError) {
            var count = 0
            try context.check(
                context.functions.cuGraphGetNodes(handle, nil, &count), "counting a graph's nodes")
            return count
        }
    }

    /// Makes what can be launched; the graph is not needed after that.
    public func instantiate() throws(CUDAError) -> GraphExecutable {
        var executable: OpaquePointer?
        let status = context.withCurrent {
            context.functions.cuGraphInstantiateWithFlags(&executable, handle, 0)
        }
        try context.check(status, "instantiating a graph")
        return GraphExecutable(context: context, handle: executable)
    }
}

/// A graph that is ready to run: one call for all of its kernels.
public final class GraphExecutable: @unchecked Sendable {  // a constant handle; the driver locks
    private let context: Context
    private let handle: OpaquePointer?

    init(context: Context, handle: OpaquePointer?) {
        self.context = context
        self.handle = handle
    }

    /// Waits for nothing: the driver keeps what still runs.
    deinit {
        if handle != nil { _ = context.withCurrent { context.functions.cuGraphExecDestroy(handle) } }
    }

    /// Sends it to the GPU ahead of the first launch, which is then as fast as the others.
    public func upload(on stream: Stream) throws(CUDAError) {
        try context.check(context.functions.cuGraphUpload(handle, stream.handle), "uploading a graph")
    }

    /// Puts all of it into a stream. Launches of one executable do not overlap: each waits for the one
    /// before.
    public func launch(on stream: Stream) throws(CUDAError) {
        try context.check(context.functions.cuGraphLaunch(handle, stream.handle), "launching a graph")
    }
}
