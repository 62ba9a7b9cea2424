import Foundation
import HostRuntime
import Synchronization

@testable import CUDA

/// A stream of the emulated GPU that runs beside the others: a thread that does its work in order.
final class EmulatedStream: @unchecked Sendable {  // `work` and `isClosed` are guarded by `changed`
    private let changed = NSCondition()
    private var work: [() -> Void] = []
    private var isClosed = false

    /// Of the context that was current when it was made: every context is a GPU of its own.
    private let gpu = EmulatedGPU.currentContext

    /// Those that have not ended, closed ones too.
    private static let all = Mutex<[EmulatedStream]>([])

    init() {
        Self.all.withLock { $0.append(self) }
        pthread_detach(startThread { [self] in run() })
    }

    private func run() {
        while let first = next() {
            first()
            changed.withLock {
                work.removeFirst()
                changed.broadcast()
            }
        }
        Self.all.withLock { streams in streams.removeAll { $0 === self } }
    }

    /// What is to be done next, which counts as work until it is done; nil behind the end.
    private func next() -> (() -> Void)? {
        changed.withLock {
            while work.isEmpty && !isClosed { changed.wait() }
            return work.first
        }
    }

    func append(_ item: @escaping () -> Void) {
        changed.withLock {
            work.append(item)
            changed.broadcast()
        }
    }

    var isIdle: Bool { changed.withLock { work.isEmpty } }

    func synchronize() {
        changed.withLock { while !work.isEmpty { changed.wait() } }
    }

    /// What has been put in is done still.
    func close() {
        changed.withLock {
            isClosed = true
            changed.broadcast()
        }
    }

    /// Waits for all streams of the current context's GPU, as the driver does before it frees memory.
    static func synchronizeAll() {
        let gpu = EmulatedGPU.currentContext
        for stream in all.withLock({ $0 }) where stream.gpu == gpu { stream.synchronize() }
    }
}

/// A mark in a stream.
final class EmulatedEvent: @unchecked Sendable {  // guarded by `state`
    private let state = Mutex((recorded: 0, reached: 0, time: ContinuousClock.now))

    /// - Parameter stream: nil for one that does its work when it gets it.
    func record(on stream: EmulatedStream?) {
        state.withLock { $0.recorded += 1 }
        let reach = { [self] in
            state.withLock {
                $0.reached += 1
                $0.time = .now
            }
        }
        if let stream { stream.append(reach) } else { reach() }
    }

    /// Lets a stream wait for the last record so far.
    func delay(_ stream: EmulatedStream?) {
        let target = state.withLock { $0.recorded }
        let wait = { [self] in
            while state.withLock({ $0.reached < target }) { usleep(20) }
        }
        if let stream { stream.append(wait) } else { wait() }
    }

    var isComplete: Bool { state.withLock { $0.recorded == $0.reached } }
    var time: ContinuousClock.Instant { state.withLock { $0.time } }
}

/// The driver's functions of streams and events. A stream that was made while `isConcurrent` is set has a thread; others
/// have no handle, and do their work when they get it.
extension EmulatedGPU {
    static func stream(_ handle: OpaquePointer?) -> EmulatedStream? {
        handle.map { Unmanaged<EmulatedStream>.fromOpaque(UnsafeRawPointer($0)).takeUnretainedValue() }
    }

    private static func event(_ handle: OpaquePointer?) -> EmulatedEvent {
        Unmanaged<EmulatedEvent>.fromOpaque(UnsafeRawPointer(handle!)).takeUnretainedValue()
    }

    /// nil for the functions of others.
    static func streamFunction(_ name: String) -> UnsafeMutableRawPointer? {
        switch name {
        case "cuStreamCreateWithPriority": unsafeBitCast(makeStream, to: UnsafeMutableRawPointer.self)
        case "cuStreamDestroy_v2": unsafeBitCast(destroyStream, to: UnsafeMutableRawPointer.self)
        case "cuStreamSynchronize": unsafeBitCast(synchronize, to: UnsafeMutableRawPointer.self)
        case "cuStreamQuery": unsafeBitCast(query, to: UnsafeMutableRawPointer.self)
        case "cuStreamWaitEvent": unsafeBitCast(waitForEvent, to: UnsafeMutableRawPointer.self)
        case "cuMemHostUnregister": unsafeBitCast(unpin, to: UnsafeMutableRawPointer.self)
        case "cuEventCreate": unsafeBitCast(makeEvent, to: UnsafeMutableRawPointer.self)
        case "cuEventDestroy_v2": unsafeBitCast(destroyEvent, to: UnsafeMutableRawPointer.self)
        case "cuEventRecord": unsafeBitCast(record, to: UnsafeMutableRawPointer.self)
        case "cuEventQuery": unsafeBitCast(queryEvent, to: UnsafeMutableRawPointer.self)
        case "cuEventSynchronize": unsafeBitCast(synchronizeEvent, to: UnsafeMutableRawPointer.self)
        case "cuDevicePrimaryCtxRetain": unsafeBitCast(makeContext, to: UnsafeMutableRawPointer.self)
        case "cuCtxSetCurrent": unsafeBitCast(setContext, to: UnsafeMutableRawPointer.self)
        case "cuCtxPushCurrent_v2": unsafeBitCast(pushContext, to: UnsafeMutableRawPointer.self)
        case "cuCtxPopCurrent_v2": unsafeBitCast(popContext, to: UnsafeMutableRawPointer.self)
        case "cuEventElapsedTime": unsafeBitCast(elapsed, to: UnsafeMutableRawPointer.self)
        default: nil
        }
    }

    // MARK: Contexts

    private static let contextCount = Atomic<Int>(0)
    /// Of every thread, the contexts that it has pushed, the current one last; 0 for none.
    private static let contexts = Mutex<[pthread_t: [Int]]>([:])

    static var currentContext: Int { contexts.withLock { $0[pthread_self()]?.last ?? 0 } }

    private static let makeContext: @convention(c) (UnsafeMutablePointer<OpaquePointer?>, Int32) -> CUresult =
        {
            handle, _ in
            handle.pointee = OpaquePointer(
                bitPattern: contextCount.wrappingAdd(1, ordering: .relaxed).newValue)
            return 0
        }

    private static let setContext: @convention(c) (OpaquePointer?) -> CUresult = { handle in
        contexts.withLock {
            var stack = $0[pthread_self()] ?? [0]
            stack[stack.count - 1] = Int(bitPattern: handle)
            $0[pthread_self()] = stack
        }
        return 0
    }

    private static let pushContext: @convention(c) (OpaquePointer?) -> CUresult = { handle in
        contexts.withLock { $0[pthread_self(), default: [0]].append(Int(bitPattern: handle)) }
        return 0
    }

    private static let popContext: @convention(c) (UnsafeMutablePointer<OpaquePointer?>) -> CUresult = {
        handle in
        handle.pointee = OpaquePointer(
            bitPattern: contexts.withLock { $0[pthread_self(), default: [0]].popLast() ?? 0 })
        return 0
    }

    // MARK: Streams

    private static let makeStream:
        @convention(c) (UnsafeMutablePointer<OpaquePointer?>, UInt32, Int32) -> CUresult = { handle, _, _ in
            handle.pointee =
                isConcurrent ? OpaquePointer(Unmanaged.passRetained(EmulatedStream()).toOpaque()) : nil
            return 0
        }

    private static let destroyStream: @convention(c) (OpaquePointer?) -> CUresult = { handle in
        guard let stream = stream(handle) else { return 0 }
        stream.close()
        Unmanaged.passUnretained(stream).release()
        return 0
    }

    private static let synchronize: @convention(c) (OpaquePointer?) -> CUresult = { handle in
        stream(handle)?.synchronize()
        return lossStatus
    }

    private static let query: @convention(c) (OpaquePointer?) -> CUresult = { handle in
        if lossStatus != 0 { return lossStatus }
        return stream(handle)?.isIdle == false ? notReady : 0
    }

    private static let waitForEvent: @convention(c) (OpaquePointer?, OpaquePointer?, UInt32) -> CUresult = {
        handle, ofEvent, _ in
        event(ofEvent).delay(stream(handle))
        return 0
    }

    private static let unpin: @convention(c) (UnsafeMutableRawPointer) -> CUresult = { _ in
        EmulatedStream.synchronizeAll()
        return 0
    }

    private static let makeEvent: @convention(c) (UnsafeMutablePointer<OpaquePointer?>, UInt32) -> CUresult =
        {
            handle, _ in
            handle.pointee = OpaquePointer(Unmanaged.passRetained(EmulatedEvent()).toOpaque())
            return 0
        }

    private static let destroyEvent: @convention(c) (OpaquePointer?) -> CUresult = { handle in
        Unmanaged.passUnretained(event(handle)).release()
        return 0
    }

    private static let record: @convention(c) (OpaquePointer?, OpaquePointer?) -> CUresult = {
        handle, onStream in
        let stream = stream(onStream)
        if stream == nil { isTimed.toggle() }
        event(handle).record(on: stream)
        return 0
    }

    private static let queryEvent: @convention(c) (OpaquePointer?) -> CUresult = { handle in
        event(handle).isComplete ? 0 : notReady
    }

    private static let synchronizeEvent: @convention(c) (OpaquePointer?) -> CUresult = { handle in
        let event = event(handle)
        while !event.isComplete { usleep(20) }
        return 0
    }

    private static let elapsed:
        @convention(c) (UnsafeMutablePointer<Float>, OpaquePointer?, OpaquePointer?) -> CUresult = {
            milliseconds, start, end in
            milliseconds.pointee = Float(event(start).time.duration(to: event(end).time) / .milliseconds(1))
            return 0
        }
}
