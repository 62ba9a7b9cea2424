import Collectives

/// Where the processes of a group meet within a step: behind the embedding, behind each block, and for the logits.
extension CPULane {
    /// Whether this process gives the logits to whoever asked for the step.
    var isConductor: Bool { group?.isConductor ?? true }

    /// The whole model's.
    var vocabularySize: Int { (group?.shard.whole ?? configuration).vocabularySize }

    /// Replaces values that all workers have written by their sum over the processes; without other processes it does
    /// nothing.
    ///
    /// Worker 0 alone speaks with the others. What goes wrong is kept for the end of the step: the workers still have to
    /// meet.
    func meet(_ values: UnsafeMutablePointer<Float>, count: Int, _ worker: Int) {
        if !hasGroup { return }
        pool.barrier.wait()
        if worker == 0 && groupError == nil {
            do throws(CollectiveError) {
                try group!.communicator!.allReduce(values, count: count)
            } catch {
                groupError = error
            }
        }
        pool.barrier.wait()
    }

    /// Brings the logits of all processes to rank 0, row by row.
    func gatherLogits(_ step: Step, _ worker: Int) {
        if !hasGroup { return }
        pool.barrier.wait()
        if worker > 0 || groupError != nil { return }
        let group = group!
        do throws(CollectiveError) {
            for row in 0..<step.batch.logitsCount {
                try group.communicator!.gather(
                    step.ownLogits + row * configuration.vocabularySize, counts: group.logitsCounts,
                    to: isConductor ? step.logits + row * vocabularySize : nil)
            }
        } catch {
            groupError = error
        }
    }
}
