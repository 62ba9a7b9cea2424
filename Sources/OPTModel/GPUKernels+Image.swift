import CUDA
import CUDAKernelImage

extension GPUKernels {
    /// The kernels in the best image that the context's GPU can run.
    convenience init(_ context: Context) throws(CUDAError) {
        let capability = context.device.computeCapability
        let images = KernelImage.all
        let image = images.first { $0.runs(on: capability) }
        try self.init(
            try Module(images: images, context: context),
            multiprocessorCount: context.device.multiprocessorCount,
            hasClusters: (image?.computeCapability ?? 0) >= 90)
    }
}

extension KernelImage {
    /// The compiled kernels, best first.
    static var all: [KernelImage] {
        images.map {
            KernelImage(
                bytes: $0.bytes, computeCapability: Int($0.compute_capability),
                isMachineCode: $0.is_machine_code != 0)
        }
    }

    private static var images: UnsafeBufferPointer<tandem_cuda_image> {
        UnsafeBufferPointer(start: tandem_first_cuda_image(), count: Int(tandem_cuda_image_count))
    }
}
