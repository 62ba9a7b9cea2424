/// Lets text through up to the first stop string, and holds back what may yet become one.
struct StopMatcher: Sendable {
    private let stopStrings: [[UInt8]]
    private var held: [UInt8] = []

    init(_ stopStrings: [String]) {
        self.stopStrings = stopStrings.map { Array($0.utf8) }
    }

    /// Takes more text and returns what can be printed of it, and whether a stop string was found.
    ///
    /// - Parameter isArmed: false lets stop strings through.
    mutating func append(_ text: String, isArmed: Bool = true) -> (text: String, isStopped: Bool) {
        if stopStrings.isEmpty { return (text, false) }
        held.append(contentsOf: text.utf8)
        guard isArmed else { return (finish(), false) }
        for start in held.indices where stopStrings.contains(where: { held[start...].starts(with: $0) }) {
            let text = String(decoding: held[..<start], as: UTF8.self)
            held = []
            return (text, true)
        }
        // A stop string may have begun at the end: keep that part.
        let keepFrom =
            held.indices.first { start in
                stopStrings.contains { $0.starts(with: held[start...]) }
            } ?? held.endIndex
        defer { held.removeFirst(keepFrom) }
        return (String(decoding: held[..<keepFrom], as: UTF8.self), false)
    }

    /// What was held back, at the end of the text.
    mutating func finish() -> String {
        defer { held = [] }
        return String(decoding: held, as: UTF8.self)
    }
}
