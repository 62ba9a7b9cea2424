/// Carries what rank 0 wants done to the other processes of a group, in order.
public protocol CommandChannel: AnyObject, Sendable {
    /// Rank 0 tells all others; allocates nothing where the command is small.
    func send(_ command: UnsafeRawBufferPointer) throws(CollectiveError)

    /// The others wait for the next command.
    ///
    /// - Returns: false where rank 0 has ended as it should.
    func receive(into buffer: inout [UInt8]) throws(CollectiveError) -> Bool
}
