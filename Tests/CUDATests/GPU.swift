import CUDA
import CUDAKernelImage
import Glibc
import Testing

/// One after the other: freeing memory waits for all streams, also for one that another test keeps waiting.
@Suite(.serialized) struct GPUTests {}

/// The machine's first GPU; tests that need one are skipped where there is none.
enum GPU {
    static let isPresent: Bool = {
        do {
            let device = try CUDADriver.load().device()
            print("CUDATests: \(device.name), compute capability \(device.computeCapability)")
            return true
        } catch {
            print("CUDATests: tests that need a GPU are skipped: \(error)")
            return false
        }
    }()

    /// A context, current on the calling thread. A test may go on with another thread after an `await`.
    static func context() throws -> Context {
        try Context(device: CUDADriver.load().device())
    }

    static func kernels(_ context: Context) throws -> Module {
        try Module(images: images, context: context)
    }

    static var images: [KernelImage] {
        UnsafeBufferPointer(start: tandem_first_cuda_image(), count: Int(tandem_cuda_image_count)).map {
            image in
            KernelImage(
                bytes: image.bytes, computeCapability: Int(image.compute_capability),
                isMachineCode: image.is_machine_code != 0)
        }
    }
}

struct TimedOut: Error {
    let waitedFor: String
}

/// Polls until `condition` holds, for ten seconds at most.
func waitUntil(_ waitedFor: String, _ condition: () throws -> Bool) throws {
    let deadline = ContinuousClock.now + .seconds(10)
    while try !condition() {
        if ContinuousClock.now > deadline { throw TimedOut(waitedFor: waitedFor) }
        usleep(100)
    }
}
