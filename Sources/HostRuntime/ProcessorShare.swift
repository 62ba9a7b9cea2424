import SystemShims

/// The processors of a process that shares its machine with others of its group.
public enum ProcessorShare {
    /// Leaves this process the processors that fall to number `index` of `count` processes of this machine.
    ///
    /// What a launcher has bound the process to is given up: launchers bind to a single core, or to all. Pools that are
    /// made afterwards find these processors alone; threads that run already stay where they are.
    /// - Returns: how many it has. Where there are more processes than processors, some share one.
    @discardableResult
    public static func take(_ index: Int, of count: Int) -> Int {
        tandem_unbind_process()
        var all = [Int32](repeating: 0, count: WorkerPool.availableProcessorCount)
        tandem_allowed_processors(&all, Int32(all.count))
        var own = Array(all[share(of: all.count, worker: index, of: count)])
        if own.isEmpty { own = [all[index % all.count]] }
        tandem_bind_process(own, Int32(own.count))
        return own.count
    }
}
