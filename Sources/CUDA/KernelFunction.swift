/// A kernel that can be launched (`Stream.launch`).
public struct KernelFunction: @unchecked Sendable {  // the handle does not change
    public let name: String
    /// Keeps the kernel's code loaded.
    let module: Module
    let handle: OpaquePointer?

    /// Lets launches ask for up to so much dynamic shared memory a block: without it 48 KiB are the most.
    ///
    /// - Throws: where it is more than the device's `maxSharedByteCountPerBlock`, less the kernel's static
    ///   part.
    public func setMaxDynamicSharedByteCount(_ byteCount: Int) throws(CUDAError) {
        let context = module.context
        // 8: CU_FUNC_ATTRIBUTE_MAX_DYNAMIC_SHARED_SIZE_BYTES.
        let status = context.withCurrent {
            context.functions.cuFuncSetAttribute(handle, 8, Int32(byteCount))
        }
        try context.check(status, "allowing \(name) \(byteCount) bytes of shared memory")
    }

    /// How many of its blocks a multiprocessor runs at the same time.
    public func maxActiveBlocksPerMultiprocessor(block: Int, sharedByteCount: Int = 0) throws(CUDAError)
        -> Int
    {
        let context = module.context
        var count: Int32 = 0
        let status = context.withCurrent {
            context.functions.cuOccupancyMaxActiveBlocksPerMultiprocessor(
                &count, handle, Int32(block), sharedByteCount)
        }
        try context.check(status, "asking for the occupancy of \(name)")
        return Int(count)
    }

    /// Registers that each of its threads has.
    public var registersPerThread: Int {
        get throws(CUDAError) {
            let context = module.context
            var count: Int32 = 0
            // 4: CU_FUNC_ATTRIBUTE_NUM_REGS.
            let status = context.withCurrent { context.functions.cuFuncGetAttribute(&count, 4, handle) }
            try context.check(status, "asking for the registers of \(name)")
            return Int(count)
        }
    }
}
