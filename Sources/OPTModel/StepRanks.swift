import CUDAKernelImage
import Placement

/// What a decode step in one kernel (`DecodeStepKernel`) must know of the other ranks of a group, each with a GPU of its
/// own that writes into the memory of all others.
///
/// What the ranks hand each other goes through *peer memory*, in which every rank has the same layout. It follows from the
/// whole model, the number of ranks and the number of blocks, and so do all ranks' cuts: nothing is asked of the others.
public struct StepRanks: Sendable {
    public let rank: Int
    /// Of all ranks, in their order.
    public let shards: [ModelShard]
    /// Where this rank's GPU has each rank's peer memory; the own one at `rank`. All bits of it are set before any rank's
    /// first step, and after every step.
    public let peers: [UInt64]
    /// The most blocks of a rank's kernel: the fewest multiprocessors of any of the GPUs.
    public let blockCount: Int

    public init(_ whole: OPTConfiguration, rank: Int, peers: [UInt64], blockCount: Int) {
        self.rank = rank
        self.peers = peers
        self.blockCount = blockCount
        shards = Self.shards(whole, rankCount: peers.count)
    }

    /// Whether a step of the model, divided among so many ranks, can be one kernel on each of them. The same answer on every
    /// rank with such a GPU; that each also has all of its part in GPU memory they must tell each other.
    static func takes(_ whole: OPTConfiguration, rankCount: Int, kernels: GPUKernels) -> Bool {
        whole.compressionForm == .fp16 && divides(whole, rankCount: rankCount)
            && kernels.canDecodeStep(
                headDimension: whole.headDimension, hiddenSize: whole.hiddenSize, form: .fp16)
    }

    /// Whether every rank's part is one that the kernel takes: a rank without heads or neurons would hand nothing over.
    static func divides(_ whole: OPTConfiguration, rankCount: Int) -> Bool {
        1...Int(TANDEM_GPU_DECODE_RANKS) ~= rankCount
            && shards(whole, rankCount: rankCount).allSatisfy { DecodeStepKernel.takes($0.configuration) }
    }

    /// The bytes of a rank's peer memory, for a model that `divides`.
    static func byteCount(_ whole: OPTConfiguration, rankCount: Int, blockCount: Int) -> Int {
        let slots = PeerSlots(shards(whole, rankCount: rankCount), blockCount: blockCount)
        return Int(TANDEM_GPU_DECODE_SETS) * slots.byteCount
    }

    private static func shards(_ whole: OPTConfiguration, rankCount: Int) -> [ModelShard] {
        (0..<rankCount).map { ModelShard(whole, rank: $0, of: rankCount) }
    }
}

/// How the sums of all ranks lie in a set of peer memory: slots of the output projection, then those of fc2, each fp32
/// [slots, hidden]. Of every tile of 64 outputs a rank's slots lie behind those of the ranks in front of it, as they are
/// added up.
struct PeerSlots {
    /// [rank][tile]
    let output, fc2: [[Range<Int>]]
    private let hiddenSize: Int

    init(_ shards: [ModelShard], blockCount: Int) {
        hiddenSize = shards[0].whole.hiddenSize
        let cuts = shards.map { StepCut($0.configuration, blockCount: blockCount) }
        output = Self.ranges(cuts.map(\.output))
        fc2 = Self.ranges(cuts.map(\.fc2))
    }

    private static func ranges(_ cuts: [DecodeCut]) -> [[Range<Int>]] {
        var ends = Array(repeating: 0, count: cuts[0].tileCount)
        return cuts.map { cut in
            ends.indices.map { tile in
                let first = ends[tile]
                ends[tile] += cut.slotCount(ofTile: tile)
                return first..<ends[tile]
            }
        }
    }

    var fc2Offset: Int { Self.most(output) * hiddenSize * 4 }
    var byteCount: Int { fc2Offset + Self.most(fc2) * hiddenSize * 4 }

    /// The most slots of any tile.
    private static func most(_ ranges: [[Range<Int>]]) -> Int { ranges.last!.map(\.upperBound).max()! }

    /// As one rank's kernel reads it.
    func table(rank: Int) -> [tandem_gpu_decode_tile] {
        [output, fc2].flatMap { ranges in
            zip(ranges[rank], ranges.last!).map {
                tandem_gpu_decode_tile(
                    first_slot: UInt8($0.lowerBound), slot_count: UInt8($1.upperBound))
            }
        }
    }
}
