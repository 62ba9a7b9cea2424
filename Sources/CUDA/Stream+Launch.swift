/// `CUlaunchConfig`, field by field as in `cuda.h`: 56 bytes.
struct LaunchConfiguration {
    var gridX, gridY, gridZ: UInt32
    var blockX: UInt32
    var blockY: UInt32 = 1
    var blockZ: UInt32 = 1
    var sharedByteCount: UInt32
    var stream: OpaquePointer?
    var attributes: UnsafeMutablePointer<LaunchAttribute>?
    var attributeCount: UInt32
}

/// `CUlaunchAttribute`: a number, padding, and a union of 64 bytes; 72 bytes.
struct LaunchAttribute {
    var id: Int32
    var padding: UInt32 = 0
    var value: (UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64, UInt64)

    /// The kernel may start before the one in front of it has ended, as soon as that one lets it.
    static let programmatic = LaunchAttribute(id: 6, value: (1, 0, 0, 0, 0, 0, 0, 0))

    /// So many blocks that follow each other in the grid's second dimension run together and see each other's shared
    /// memory: three words, of which the first and the last are 1.
    static func cluster(rows: Int) -> LaunchAttribute {
        LaunchAttribute(id: 4, value: (1 | UInt64(rows) << 32, 1, 0, 0, 0, 0, 0, 0))
    }
}

extension Stream {
    /// Puts in a kernel whose only parameter is `arguments`, a struct of C, by value. It allocates nothing.
    ///
    /// - Parameters:
    ///   - grid: how many blocks, each at least 1.
    ///   - block: threads of a block, or of each of its `blockRows` rows.
    ///   - sharedByteCount: dynamic shared memory of a block; over 48 KiB it needs
    ///     `KernelFunction.setMaxDynamicSharedByteCount`.
    ///   - isProgrammatic: the kernel may start before the one in front of it has ended (programmatic
    ///     dependent launch): it must wait itself before it reads that one's results. GPUs older than 9.0
    ///     cannot do that, and launch it as usual.
    ///   - clusterRows: blocks of the grid's y that form a cluster, at most 8 and a divisor of y; more than 1 from
    ///     9.0 on only.
    /// - Throws: `launchFailed` where an earlier kernel has failed, too.
    public func launch<Arguments: BitwiseCopyable>(
        _ function: KernelFunction, grid: (x: Int, y: Int, z: Int), block: Int, blockRows: Int = 1,
        sharedByteCount: Int = 0,
        isProgrammatic: Bool = false, clusterRows: Int = 1, arguments: Arguments
    ) throws(CUDAError) {
        var configuration = LaunchConfiguration(
            gridX: UInt32(grid.x), gridY: UInt32(grid.y), gridZ: UInt32(grid.z), blockX: UInt32(block),
            blockY: UInt32(blockRows), sharedByteCount: UInt32(sharedByteCount), stream: handle,
            attributes: nil,
            attributeCount: 0)
        let programmatic = isProgrammatic && allowsProgrammaticLaunch
        let status = withUnsafePointer(to: arguments) { arguments in
            enqueue(
                function.handle, &configuration, UnsafeMutableRawPointer(mutating: arguments),
                isProgrammatic: programmatic, clusterRows: clusterRows)
        }
        try context.check(
            status,
            "launching \(function.name) with \(grid.x) x \(grid.y) x \(grid.z) blocks of \(block) threads")
    }

    /// Not generic, so that the launches of all kernels share it.
    private func enqueue(
        _ function: OpaquePointer?, _ configuration: inout LaunchConfiguration,
        _ arguments: UnsafeMutableRawPointer, isProgrammatic: Bool, clusterRows: Int
    ) -> CUresult {
        var attributes = (LaunchAttribute.programmatic, LaunchAttribute.programmatic)
        var count: UInt32 = 0
        if clusterRows > 1 {
            attributes.0 = .cluster(rows: clusterRows)
            count = 1
        }
        if isProgrammatic { count += 1 }
        configuration.attributeCount = count
        var parameter: UnsafeMutableRawPointer? = arguments
        return withUnsafeMutablePointer(to: &attributes) { attributes in
            attributes.withMemoryRebound(to: LaunchAttribute.self, capacity: 2) { first in
                configuration.attributes = first
                return context.functions.cuLaunchKernelEx(&configuration, function, &parameter, nil)
            }
        }
    }
}
