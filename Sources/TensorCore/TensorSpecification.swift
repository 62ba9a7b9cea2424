/// What a tensor is, without its bytes: name, shape and element type.
public struct TensorSpecification: Sendable, Hashable {
    public var name: String
    public var shape: Shape
    public var scalarType: ScalarType

    public init(name: String, shape: Shape, scalarType: ScalarType) {
        self.name = name
        self.shape = shape
        self.scalarType = scalarType
    }
}
