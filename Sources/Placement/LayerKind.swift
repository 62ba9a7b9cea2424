/// The kinds of layer that are placed apart from one another, in the order of FlexGen's flags.
public enum LayerKind: String, Sendable, Hashable, CaseIterable {
    case inputEmbedding
    case outputEmbedding
    case attention
    case mlp

    /// The kind's name in reports and sentences.
    public var label: String {
        switch self {
        case .inputEmbedding: "input embedding"
        case .outputEmbedding: "output embedding"
        case .attention: "self-attention"
        case .mlp: "MLP"
        }
    }
}

/// One value for each kind of layer.
public struct PerLayerKind<Value> {
    public var inputEmbedding: Value
    public var outputEmbedding: Value
    public var attention: Value
    public var mlp: Value

    public init(inputEmbedding: Value, outputEmbedding: Value, attention: Value, mlp: Value) {
        self.inputEmbedding = inputEmbedding
        self.outputEmbedding = outputEmbedding
        self.attention = attention
        self.mlp = mlp
    }

    /// The same value for every kind.
    public init(repeating value: Value) {
        self.init(inputEmbedding: value, outputEmbedding: value, attention: value, mlp: value)
    }

    public subscript(kind: LayerKind) -> Value {
        get {
            switch kind {
            case .inputEmbedding: inputEmbedding
            case .outputEmbedding: outputEmbedding
            case .attention: attention
            case .mlp: mlp
            }
        }
        set {
            switch kind {
            case .inputEmbedding: inputEmbedding = newValue
            case .outputEmbedding: outputEmbedding = newValue
            case .attention: attention = newValue
            case .mlp: mlp = newValue
            }
        }
    }
}

extension PerLayerKind: Sendable where Value: Sendable {}
extension PerLayerKind: Equatable where Value: Equatable {}
extension PerLayerKind: Hashable where Value: Hashable {}
