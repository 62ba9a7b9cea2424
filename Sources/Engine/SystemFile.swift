import Glibc

/// The text files in which the system describes itself, such as those of /proc: they have no size to read by.
enum SystemFile {
    /// The first 64 KiB; nil where there is no such file.
    static func text(of path: String) -> String? {
        guard let file = fopen(path, "r") else { return nil }
        defer { fclose(file) }
        var bytes = [UInt8](repeating: 0, count: 64 << 10)
        let count = fread(&bytes, 1, bytes.count, file)
        return String(decoding: bytes.prefix(count), as: UTF8.self)
    }

    /// What stands behind the colon of the first line that begins with `entry`.
    static func entry(_ entry: String, in path: String) -> String? {
        guard let lines = text(of: path)?.split(separator: "\n") else { return nil }
        for line in lines where line.hasPrefix(entry) {
            let parts = line.split(separator: ":", maxSplits: 1, omittingEmptySubsequences: false)
            guard parts.count == 2, trimmed(parts[0]) == entry else { continue }
            return trimmed(parts[1])
        }
        return nil
    }

    static func trimmed(_ text: some StringProtocol) -> String {
        let isSpace = { (character: Character) in character.isWhitespace }
        let start = text.drop(while: isSpace)
        return String(start.reversed().drop(while: isSpace).reversed())
    }
}
