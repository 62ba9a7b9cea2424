import OPTModel

/// What falls to one process; all of it where it is alone.
extension ProcessGroup? {
    /// Of what its machine has, in bytes; nil where that is not known.
    func share(of byteCount: Int?) -> Int? { byteCount.map { $0 / (self?.place.localSize ?? 1) } }

    /// Of a model.
    func part(of configuration: OPTConfiguration) -> OPTConfiguration {
        map { ModelShard(configuration, rank: $0.place.rank, of: $0.place.size).configuration }
            ?? configuration
    }
}
