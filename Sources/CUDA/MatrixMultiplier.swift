/// A product of halves with sums in fp32, as `MatrixMultiplier` takes it. Shapes are row-major, strides count elements.
public struct MatrixProduct: Hashable, Sendable {
    public var rows, inputs, outputs: Int
    /// [rows, xStride]; y is [rows, yStride].
    public var xStride, yStride: Int
    /// The weights are [inputs, outputs], not [outputs, inputs].
    public var isTransposed: Bool
    /// y is fp32 and is added to; else it is fp16 and overwritten.
    public var addsToFloat: Bool
    public var hasBias: Bool
    public var hasReLU: Bool

    public init(
        rows: Int, inputs: Int, outputs: Int, xStride: Int, yStride: Int, isTransposed: Bool,
        addsToFloat: Bool,
        hasBias: Bool, hasReLU: Bool
    ) {
        self.rows = rows
        self.inputs = inputs
        self.outputs = outputs
        self.xStride = xStride
        self.yStride = yStride
        self.isTransposed = isTransposed
        self.addsToFloat = addsToFloat
        self.hasBias = hasBias
        self.hasReLU = hasReLU
    }
}

/// Matrix products by cuBLASLt, on one stream at a time. What the library chose for a shape is kept.
public final class MatrixMultiplier: @unchecked Sendable {  // used by one thread at a time
    public let library: CUBLASLt
    private let context: Context
    private let handle: OpaquePointer?
    private let workspace: DeviceBuffer
    private var plans: [MatrixProduct: Plan?] = [:]

    /// What the library may use of the GPU's memory, in bytes: its documentation's advice for 9.0.
    public static let workspaceByteCount = 32 << 20

    public init(_ library: CUBLASLt, context: Context) throws(CUDAError) {
        self.library = library
        self.context = context
        workspace = try DeviceBuffer(byteCount: Self.workspaceByteCount, context: context)
        var handle: OpaquePointer?
        let status = context.withCurrent { library.create(&handle) }
        self.handle = handle
        try Self.check(status, "starting cuBLASLt")
    }

    deinit { if handle != nil { _ = context.withCurrent { library.destroy(handle) } } }

    /// y = relu(x · Wᵀ + bias), or y += x · W + bias.
    ///
    /// - Parameter bias: as y in type; not read where the product has none.
    /// - Returns: false where the library does not take the product, and nothing was done.
    public func multiply(
        _ product: MatrixProduct, x: DeviceAddress, weights: DeviceAddress, bias: DeviceAddress,
        y: DeviceAddress,
        on stream: Stream
    ) throws(CUDAError) -> Bool {
        let isAligned =
            (x | weights | y) % 16 == 0
            && (product.inputs | product.outputs | product.xStride | product.yStride) % 8 == 0
        guard isAligned, let plan = plan(product) else { return false }
        if product.hasBias {
            var bias = bias
            try Self.check(
                library.setOfDescription(plan.description, 8, &bias, 8), "telling cuBLASLt of a bias")
        }
        var one: Float = 1
        var beta: Float = product.addsToFloat ? 1 : 0
        // The first time the library loads a kernel, and that waits for the whole GPU.
        let status = context.withCurrent {
            plan.algorithm.withUnsafeBytes { algorithm in
                // Its matrices lie by columns: y's transposed is the weights times x's transposed.
                library.multiply(
                    handle, plan.description, &one, weights, plan.weights, x, plan.x, &beta, y, plan.y, y,
                    plan.y, algorithm.baseAddress!, workspace.address, Self.workspaceByteCount, stream.handle)
            }
        }
        try Self.check(status, "multiplying \(product.rows) rows, \(product.inputs) -> \(product.outputs)")
        return true
    }

    private func plan(_ product: MatrixProduct) -> Plan? {
        if let known = plans[product] { return known }
        var plan: Plan?
        context.whileKernelsWait { plan = Plan(product, library, handle) }
        plans[product] = .some(plan)
        return plan
    }

    private static func check(_ status: Int32, _ action: @autoclosure () -> String) throws(CUDAError) {
        if status != 0 {
            throw CUDAError(
                .other, action: action(), status: status,
                reason:
                    "cuBLASLt failed with status \(status); without TANDEM_CUBLASLT=1 kernels of our own multiply"
            )
        }
    }

    /// The library's descriptions of a product, and the algorithm that it chose.
    private final class Plan {
        private(set) var description, weights, x, y: OpaquePointer?
        /// `cublasLtMatmulHeuristicResult_t`, which begins with the algorithm.
        private(set) var algorithm = [UInt64](repeating: 0, count: 12)
        private let library: CUBLASLt

        init?(_ product: MatrixProduct, _ library: CUBLASLt, _ handle: OpaquePointer?) {
            self.library = library
            let (float32, float16, computesInFloat32): (Int32, Int32, Int32) = (0, 2, 68)
            var ok = library.makeDescription(&description, computesInFloat32, float32) == 0
            func set(_ attribute: Int32, _ value: Int32) {
                var value = value
                ok = ok && library.setOfDescription(description, attribute, &value, 4) == 0
            }
            let (transposesA, epilogue): (Int32, Int32) = (3, 7)
            set(transposesA, product.isTransposed ? 0 : 1)
            set(epilogue, product.hasBias ? (product.hasReLU ? 6 : 4) : (product.hasReLU ? 2 : 1))
            let (rows, inputs, outputs) = (
                UInt64(product.rows), UInt64(product.inputs), UInt64(product.outputs)
            )
            ok =
                ok
                && library.makeLayout(
                    &weights, float16, product.isTransposed ? outputs : inputs,
                    product.isTransposed ? inputs : outputs, Int64(product.isTransposed ? outputs : inputs))
                    == 0
                && library.makeLayout(&x, float16, inputs, rows, Int64(product.xStride)) == 0
                && library.makeLayout(
                    &y, product.addsToFloat ? float32 : float16, outputs, rows, Int64(product.yStride)) == 0

            var preference: OpaquePointer?
            ok = ok && library.makePreference(&preference) == 0
            defer { if preference != nil { _ = library.destroyPreference(preference) } }
            var workspaceByteCount = UInt64(MatrixMultiplier.workspaceByteCount)
            let mostWorkspace: Int32 = 1
            ok = ok && library.setOfPreference(preference, mostWorkspace, &workspaceByteCount, 8) == 0
            var alignment: UInt32 = 16
            let alignments: ClosedRange<Int32> = 5...8  // of A, B, C and D
            for attribute in alignments {
                ok = ok && library.setOfPreference(preference, attribute, &alignment, 4) == 0
            }
            if product.hasBias && ok {
                var bias: UInt64 = 256
                ok = library.setOfDescription(description, 8, &bias, 8) == 0
            }
            var count: Int32 = 0
            ok =
                ok
                && algorithm.withUnsafeMutableBytes { results in
                    library.choose(
                        handle, description, weights, x, y, y, preference, 1, results.baseAddress!, &count)
                        == 0
                }
            if !ok || count == 0 { return nil }
        }

        deinit {
            if description != nil { _ = library.destroyDescription(description) }
            for layout in [weights, x, y] where layout != nil { _ = library.destroyLayout(layout) }
        }
    }
}
