import ArgumentParser

/// The value of a flag that stands alone or before true, false, 1, 0, yes or no, as FlexGen's do.
///
/// To be used with `defaultAsFlag: .on`. Any text is taken when arguments are parsed, and judged by `isOn(_:)`: where
/// a value cannot be parsed, the parser takes the flag for one that stands alone, and `--overlap=off` would be on.
struct Switch: ExpressibleByArgument, Hashable, CustomStringConvertible {
    private let text: String

    static let on = Switch(argument: "true")

    init(argument: String) {
        text = argument
    }

    /// What the switch says; throws a sentence with the `flag` where that is nothing.
    func isOn(_ flag: String) throws -> Bool {
        switch text.lowercased() {
        case "true", "1", "yes": return true
        case "false", "0", "no": return false
        default:
            throw ValidationError(
                "\(flag) is \"\(text)\"; give true, false, 1, 0, yes or no, or the flag alone")
        }
    }

    var description: String { text }

    static var allValueStrings: [String] { ["true", "false"] }
    static var defaultCompletionKind: CompletionKind { .list(allValueStrings) }
}
