import Testing

@testable import Placement

struct RangeSplitTests {
    /// All shares of GPU and CPU in steps of 5 %.
    private static let shares: [TierShares] = stride(from: 0.0, through: 100, by: 5).flatMap { gpu in
        stride(from: 0.0, through: 100 - gpu, by: 5).map { TierShares(uncheckedGPU: gpu, cpu: $0) }
    }

    @Test(arguments: [1, 3, 64])
    func `every share of every count is cut into touching parts, within a unit of what was asked`(unit: Int) {
        var faults: [String] = []
        for count in 1...70 {
            for shares in Self.shares {
                let split = RangeSplit(shares, count: count, unit: unit)
                let name = "\(count) in \(unit): \(shares)"
                if split.gpu.lowerBound != 0 || split.gpu.upperBound != split.cpu.lowerBound
                    || split.cpu.upperBound != split.disk.lowerBound || split.disk.upperBound != count
                {
                    faults.append("\(name) is \(split.gpu) \(split.cpu) \(split.disk)")
                }
                for tier in Tier.allCases {
                    let wanted = Double(count) * shares[tier] / 100
                    let off = abs(Double(split[tier].count) - wanted)
                    if off >= Double(unit) { faults.append("\(name): \(tier) is off by \(off)") }
                    if shares[tier] == 0, !split[tier].isEmpty { faults.append("\(name): \(tier) of 0 %") }
                    if shares[tier] == 100, split[tier].count != count { faults.append("\(name): \(tier)") }
                }
                for boundary in [split.gpu.upperBound, split.cpu.upperBound]
                where boundary % unit != 0 && boundary != count {
                    faults.append("\(name): \(boundary) is no boundary of units")
                }
            }
        }
        #expect(faults.prefix(5) == [])
    }

    @Test
    func `the GPU's part is the nearest number of units, and grows with its share whatever else changes`() {
        var faults: [String] = []
        for count in 1...70 {
            var last = 0
            for gpu in stride(from: 0.0, through: 100, by: 0.5) {
                let part = RangeSplit(TierShares(uncheckedGPU: gpu, cpu: 0), count: count).gpu.count
                for cpu in [(100 - gpu) / 3, 100 - gpu]
                where RangeSplit(TierShares(uncheckedGPU: gpu, cpu: cpu), count: count).gpu.count != part {
                    faults.append("\(count): the GPU's part at \(gpu) % moves with the CPU's share \(cpu) %")
                }
                if abs(Double(part) - Double(count) * gpu / 100) > 0.5 || part < last || part > last + 1 {
                    faults.append("\(count): \(gpu) % is \(part), after \(last)")
                }
                last = part
            }
        }
        #expect(faults.prefix(5) == [])
    }

    @Test func `fractions of percentages neither lose the last unit nor cross`() throws {
        for tenth in 0...1000 {
            let gpu = Double(tenth) / 10
            // In binary, many of these pairs add up to a little more or less than 100.
            let all = try TierShares(gpuPercent: gpu, cpuPercent: Double(1000 - tenth) / 10)
            #expect(all.diskPercent == 0 && RangeSplit(all, count: 1000).disk.isEmpty)
            let none = try TierShares(gpuPercent: gpu, cpuPercent: 0)
            #expect(RangeSplit(none, count: 500).cpu.isEmpty)
        }
        let thirds = try TierShares(gpuPercent: 33.3, cpuPercent: 66.7)
        #expect(thirds.diskPercent == 0)
        #expect(RangeSplit(try TierShares(gpuPercent: 12.5, cpuPercent: 0), count: 8).gpu == 0..<1)
    }

    @Test func `a last unit that is smaller is taken where that is nearer`() throws {
        func gpu(_ percent: Double) -> Int {
            RangeSplit(TierShares(uncheckedGPU: percent, cpu: 0), count: 100, unit: 64).gpu.count
        }
        #expect([0, 31, 32, 64, 81, 82, 90, 100].map { gpu($0) } == [0, 0, 64, 64, 64, 100, 100, 100])
        let vocabulary = RangeSplit(.allOnGPU, count: 50272, unit: 64)
        #expect(vocabulary.gpu.count == 50272)
    }

    @Test func `what was got is the part's fraction`() throws {
        let split = RangeSplit(try TierShares(gpuPercent: 30, cpuPercent: 45), count: 64)
        #expect([split.gpu, split.cpu, split.disk] == [0..<19, 19..<48, 48..<64])
        #expect(split.gotPercent(.gpu) == 29.6875)
        #expect(split.gotPercent(.cpu) == 45.3125)
        #expect(split.gotPercent(.disk) == 25)
        #expect(RangeSplit(.allOnCPU, count: 0).gotPercent(.cpu) == 100)
    }
}
