/// A safetensors file's front, with a header that may be wrong in any way.
struct SafetensorsText {
    var header: String

    init(header: String) { self.header = header }

    init(_ tensors: [(name: String, dtype: String, shape: [Int], range: Range<Int>)]) {
        let lines = tensors.map {
            "\"\($0.name)\":{\"dtype\":\"\($0.dtype)\",\"shape\":\($0.shape),"
                + "\"data_offsets\":[\($0.range.lowerBound),\($0.range.upperBound)]}"
        }
        header = "{" + lines.joined(separator: ",") + "}"
    }

    /// The header's size and the header.
    var bytes: [UInt8] { littleEndian(UInt64(header.utf8.count)) + Array(header.utf8) }

    /// The whole file, with zeros for the tensors.
    func bytes(dataByteCount: Int) -> [UInt8] { bytes + [UInt8](repeating: 0, count: dataByteCount) }
}
