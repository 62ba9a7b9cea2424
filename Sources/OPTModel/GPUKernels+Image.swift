import CUDA
import CUDAKernelImage

extension GPUKernels {
    /// The kernels in the best image that the context's GPU can run.
    convenience init(_ context: Context) throws(CUDAError) {
        try self.init(
            try Module(images: KernelImage.all, context: context),
            multiprocessorCount: context.device.multiprocessorCount,
            hasCopyEngine: Self.hasCopyEngine(context.device))
    }

    /// Whether the image for the GPU has the kernels that use the copy engine and clusters.
    static func hasCopyEngine(_ device: Device) -> Bool {
        let image = KernelImage.all.first { $0.runs(on: device.computeCapability) }
        return (image?.computeCapability ?? 0) >= 90
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
