import Testing

@testable import tandem

struct MemorySizeTests {
    @Test(arguments: [
        ("24GiB", 24 << 30), ("24g", 24 << 30), ("8GB", 8_000_000_000), ("512MiB", 512 << 20),
        ("1.5 GiB", -1), ("1.5gib", 3 << 29), ("4096", 4096), ("7b", 7), ("2TB", 2_000_000_000_000),
        ("3KiB", 3072),
    ])
    func `sizes are read with their units`(text: String, byteCount: Int) {
        #expect(MemorySize(argument: text)?.byteCount == (byteCount < 0 ? nil : byteCount))
    }

    @Test(arguments: ["", "GiB", "-1GiB", "0", "1e3", "24GB/s", "24 Gi", "nan", "99999999999TiB", "1.2.3g"])
    func `what is no size is refused`(text: String) {
        #expect(MemorySize(argument: text) == nil)
    }
}
