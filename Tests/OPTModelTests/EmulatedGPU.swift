import CPUKernels
import CUDAKernelImage
import Glibc
import Synchronization

@testable import CUDA
@testable import OPTModel

/// A driver whose GPU is this processor: its memory is the host's, and its kernels are the CPU's, done when they are
/// launched. It shows that a check lays out and judges what a kernel is given, on a machine without a GPU.
enum EmulatedGPU {
    /// What is wrong with its kernels.
    enum Defect {
        case none
        /// They do nothing.
        case idle
        /// They cannot be launched.
        case failing
        /// The last element of a result is too large by one.
        case wrongElement
        /// The element behind a result is overwritten.
        case strayElement
    }

    nonisolated(unsafe) static var defect = Defect.none
    /// Whether streams that are made from now on run beside each other, as a lane's do: what is put in returns at once,
    /// and a wait waits for another thread.
    nonisolated(unsafe) static var isConcurrent = false
    /// Whether a kernel has failed: nothing is done any more, and whoever asks is told so.
    static let isLost = Atomic<Bool>(false)
    static var lossStatus: CUresult { isLost.load(ordering: .relaxed) ? 700 : 0 }
    /// How often a decode step's attention read a cache in the host's memory.
    nonisolated(unsafe) static var hostCacheDecodeCount = 0
    /// Between two records of events in a stream that does its work at once: nobody looks at results then.
    nonisolated(unsafe) static var isTimed = false
    /// What is being captured, and what has been, by a graph's number from 1.
    /// What the lanes of several threads share.
    private static let shared = Mutex(Shared())
    nonisolated(unsafe) static let cpu =
        (tandem_cpu_kernels_for(TANDEM_AVX2)
        ?? tandem_cpu_kernels_for(TANDEM_PORTABLE))!.pointee

    static func context() throws -> Context {
        let driver = try CUDADriver(functions: functions())
        return try Context(
            device: Device(
                index: 0, name: "emulated", computeCapability: 80, totalByteCount: 1 << 30,
                multiprocessorCount: 132, maxSharedByteCountPerBlock: 0, l2ByteCount: 0, clockRate: 0,
                peakMemoryBandwidth: 0,
                pciBusID: "",
                handle: 0, driver: driver))
    }

    /// Guarded by the lock that it stands behind.
    private struct Shared: @unchecked Sendable {
        /// Of the threads that capture.
        var captures: [pthread_t: [() -> Void]] = [:]
        var graphs: [[() -> Void]] = []
        var kernelNames: [String] = []
    }

    /// Puts work into a stream, or notes it where the calling thread captures.
    private static func perform(on handle: OpaquePointer?, _ work: @escaping () -> Void) {
        nonisolated(unsafe) let work = work
        let isCaptured = shared.withLock {
            if $0.captures[pthread_self()] == nil { return false }
            $0.captures[pthread_self()]!.append(work)
            return true
        }
        if isCaptured { return }
        if let stream = stream(handle) {
            stream.append(work)
        } else {
            work()
        }
    }

    private static func functions() throws -> DriverFunctions {
        try DriverFunctions { name in
            if let function = streamFunction(name) { return function }
            return switch name {
            case "cuMemAlloc_v2": unsafeBitCast(allocate, to: UnsafeMutableRawPointer.self)
            case "cuMemFree_v2": unsafeBitCast(free, to: UnsafeMutableRawPointer.self)
            case "cuMemcpyHtoDAsync_v2": unsafeBitCast(upload, to: UnsafeMutableRawPointer.self)
            case "cuMemcpyDtoHAsync_v2": unsafeBitCast(download, to: UnsafeMutableRawPointer.self)
            case "cuMemHostGetDevicePointer_v2": unsafeBitCast(map, to: UnsafeMutableRawPointer.self)
            case "cuStreamWriteValue32_v2": unsafeBitCast(write, to: UnsafeMutableRawPointer.self)
            case "cuStreamBeginCapture_v2": unsafeBitCast(beginCapture, to: UnsafeMutableRawPointer.self)
            case "cuStreamEndCapture": unsafeBitCast(endCapture, to: UnsafeMutableRawPointer.self)
            case "cuGraphInstantiateWithFlags": unsafeBitCast(instantiate, to: UnsafeMutableRawPointer.self)
            case "cuGraphLaunch": unsafeBitCast(launchGraph, to: UnsafeMutableRawPointer.self)
            case "cuMemsetD8Async": unsafeBitCast(fill, to: UnsafeMutableRawPointer.self)
            case "cuModuleGetFunction": unsafeBitCast(findKernel, to: UnsafeMutableRawPointer.self)
            case "cuLaunchKernelEx": unsafeBitCast(launch, to: UnsafeMutableRawPointer.self)
            default: unsafeBitCast(succeed, to: UnsafeMutableRawPointer.self)
            }
        }
    }

    // MARK: The driver's functions

    private static let succeed: @convention(c) () -> CUresult = { 0 }

    private static let map:
        @convention(c) (UnsafeMutablePointer<DeviceAddress>, UnsafeMutableRawPointer, UInt32) -> CUresult = {
            address, memory, _ in
            address.pointee = UInt64(UInt(bitPattern: memory))
            return 0
        }

    private static let write: @convention(c) (OpaquePointer?, DeviceAddress, UInt32, UInt32) -> CUresult = {
        stream, address, value, _ in
        perform(on: stream) { flag(address).pointee.store(value, ordering: .releasing) }
        return 0
    }

    private static let beginCapture: @convention(c) (OpaquePointer?, Int32) -> CUresult = { _, _ in
        shared.withLock { $0.captures[pthread_self()] = [] }
        return 0
    }

    private static let endCapture:
        @convention(c) (OpaquePointer?, UnsafeMutablePointer<OpaquePointer?>) -> CUresult = { _, handle in
            handle.pointee = shared.withLock {
                $0.graphs.append($0.captures.removeValue(forKey: pthread_self())!)
                return OpaquePointer(bitPattern: $0.graphs.count)
            }
            return 0
        }

    private static let instantiate:
        @convention(c) (UnsafeMutablePointer<OpaquePointer?>, OpaquePointer?, UInt64) -> CUresult = {
            executable, graph, _ in
            executable.pointee = graph
            return 0
        }

    private static let launchGraph: @convention(c) (OpaquePointer?, OpaquePointer?) -> CUresult = {
        graph, stream in
        let number = Int(bitPattern: graph) - 1
        nonisolated(unsafe) var captured: [() -> Void] = []
        shared.withLock { captured = $0.graphs[number] }
        let work = captured
        perform(on: stream) { for work in work { work() } }
        return lossStatus
    }

    private static let allocate: @convention(c) (UnsafeMutablePointer<DeviceAddress>, Int) -> CUresult = {
        $0.pointee = UInt64(UInt(bitPattern: aligned_alloc(256, ($1 + 255) / 256 * 256)))
        return 0
    }

    private static let free: @convention(c) (DeviceAddress) -> CUresult = {
        EmulatedStream.synchronizeAll()
        Glibc.free(pointer($0, to: UInt8.self))
        return 0
    }

    private static let upload:
        @convention(c) (DeviceAddress, UnsafeRawPointer, Int, OpaquePointer?) -> CUresult = {
            destination, source, byteCount, stream in
            perform(on: stream) { memcpy(pointer(destination, to: UInt8.self), source, byteCount) }
            return 0
        }

    private static let download:
        @convention(c) (UnsafeMutableRawPointer, DeviceAddress, Int, OpaquePointer?) -> CUresult = {
            destination, source, byteCount, stream in
            perform(on: stream) { memcpy(destination, pointer(source, to: UInt8.self), byteCount) }
            return 0
        }

    private static let fill: @convention(c) (DeviceAddress, UInt8, Int, OpaquePointer?) -> CUresult = {
        destination, byte, byteCount, stream in
        perform(on: stream) { memset(pointer(destination, to: UInt8.self), Int32(byte), byteCount) }
        return 0
    }

    /// A kernel's handle is its number among those that were asked for, from 1.
    private static let findKernel:
        @convention(c) (
            UnsafeMutablePointer<OpaquePointer?>, OpaquePointer?, UnsafePointer<CChar>
        ) -> CUresult = { handle, _, name in
            let name = String(cString: name)
            handle.pointee = shared.withLock {
                $0.kernelNames.append(name)
                return OpaquePointer(bitPattern: $0.kernelNames.count)
            }
            return 0
        }

    private static let launch:
        @convention(c) (
            UnsafeRawPointer, OpaquePointer?, UnsafeMutablePointer<UnsafeMutableRawPointer?>,
            UnsafeMutablePointer<UnsafeMutableRawPointer?>?
        ) -> CUresult = { configuration, kernel, parameters, _ in
            if defect == .failing || lossStatus != 0 { return 700 }
            if defect == .idle || isTimed { return 0 }
            let configuration = configuration.load(as: LaunchConfiguration.self)
            let number = Int(bitPattern: kernel) - 1
            let name = shared.withLock { $0.kernelNames[number] }.dropFirst("tandem_kernel_".count)
            // A kernel's arguments are its caller's only until the launch returns. None are larger.
            var copy = [UInt8](UnsafeRawBufferPointer(start: parameters[0]!, count: 160))
            perform(on: configuration.stream) {
                copy.withUnsafeMutableBytes { run(name, blocks: Int(configuration.gridX), $0.baseAddress!) }
            }
            return 0
        }

    private static func run(_ name: Substring, blocks: Int, _ arguments: UnsafeMutableRawPointer) {
        if lossStatus != 0 { return }
        if name == "embed" {
            embed(arguments.load(as: tandem_gpu_embed.self), rowCount: blocks)
        } else if name == "layer_norm" {
            layerNorm(arguments.load(as: tandem_gpu_layer_norm.self), rowCount: blocks)
        } else if name.hasPrefix("linear_quantized") {
            linearQuantized(arguments.load(as: tandem_gpu_linear_quantized.self))
        } else if name.hasPrefix("gemm_quantized") {
            gemmQuantized(arguments.load(as: tandem_gpu_gemm_quantized.self))
        } else if name.hasPrefix("linear_transposed") {
            linearTransposed(arguments.load(as: tandem_gpu_linear_transposed.self))
        } else if name.hasPrefix("linear") {
            linear(arguments.load(as: tandem_gpu_linear.self))
        } else if name.hasPrefix("gemm") {
            gemm(arguments.load(as: tandem_gpu_gemm.self))
        } else if name.hasPrefix("store_keys_values") {
            store(arguments.load(as: tandem_gpu_store_keys_values.self), rowCount: blocks)
        } else if name.hasPrefix("attention_decode") {
            attentionDecode(arguments.load(as: tandem_gpu_attention_decode.self))
        } else if name.hasPrefix("attention_prefill") {
            attentionPrefill(arguments.load(as: tandem_gpu_attention_prefill.self))
        } else if name == "sample" {
            sample(arguments.load(as: tandem_gpu_sample.self))
        } else if name == "signal" {
            signal(arguments.load(as: tandem_gpu_signal.self))
        } else if name == "wait" {
            wait(arguments.load(as: tandem_gpu_wait.self))
        } else if name == "publish" {
            publish(arguments.load(as: tandem_gpu_publish.self))
        } else if name == "join" {
            join(arguments.load(as: tandem_gpu_join.self))
        } else if name == "all_reduce" {
            allReduce(arguments.load(as: tandem_gpu_all_reduce.self))
        } else if name == "await" {
            take(arguments.load(as: tandem_gpu_await.self))
        } else if name == "read" {
            read(arguments.load(as: tandem_gpu_read.self))
        } else {
            fatalError("EmulatedGPU: \(name)")
        }
    }

    // MARK: Memory

    static func pointer<Element>(_ address: UInt64, to type: Element.Type) -> UnsafeMutablePointer<Element> {
        UnsafeMutablePointer(bitPattern: UInt(address))!
    }

    /// A word that another thread may write.
    static func flag(_ address: UInt64) -> UnsafeMutablePointer<Atomic<UInt32>> {
        UnsafeMutableRawPointer(bitPattern: UInt(address))!.assumingMemoryBound(to: Atomic<UInt32>.self)
    }

    /// Does to a result of so many elements what the defect asks.
    static func spoil<Element: BinaryFloatingPoint>(_ result: UnsafeMutablePointer<Element>, count: Int) {
        switch defect {
        case .wrongElement: result[count - 1] += 1
        case .strayElement: result[count] = 0
        default: break
        }
    }
}
