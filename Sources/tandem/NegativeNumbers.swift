/// Joins each negative number to the option before it: `--percent 0 -5` becomes `--percent 0 --percent=-5`.
///
/// The argument parser would take "-5" for an option of that name; no command has such. What the number is refused for
/// is then the option's to say.
func attachNegativeNumbers(_ arguments: [String]) -> [String] {
    var attached: [String] = []
    var option: String?
    for (index, argument) in arguments.enumerated() {
        if argument == "--" { return attached + arguments[index...] }
        if argument.hasPrefix("-"), Double(argument) != nil, let option {
            if attached.last == option { attached.removeLast() }
            attached.append("\(option)=\(argument)")
            continue
        }
        attached.append(argument)
        if argument.hasPrefix("-") {
            option = argument.hasPrefix("--") ? String(argument.prefix { $0 != "=" }) : nil
        }
    }
    return attached
}
