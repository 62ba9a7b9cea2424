import Glibc
import Synchronization

/// A TCP connection. Everything that is read or written is whole, or an error.
///
/// One thread reads at a time, and one writes, but for whole frames; the descriptor is closed with the last reference.
final class Socket: @unchecked Sendable {
    private let descriptor: Int32
    /// Held while a frame is written.
    let frames = Mutex<Void>(())

    enum Failure: Error {
        /// The other side has closed it, or its machine has given it up.
        case closed
        case timeout
        case system(Int32)
    }

    private init(descriptor: Int32) {
        self.descriptor = descriptor
        var on: Int32 = 1
        setsockopt(descriptor, Int32(IPPROTO_TCP), TCP_NODELAY, &on, socklen_t(MemoryLayout<Int32>.size))
    }

    deinit { Glibc.close(descriptor) }

    // MARK: Making one

    /// Connects once; nil where nobody listens there yet.
    static func connect(to address: ControlLink.Address, seconds: Double) throws(CollectiveError) -> Socket? {
        for candidate in try address.resolved() {
            let descriptor = socket(
                candidate.family, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
            if descriptor < 0 { continue }
            let connection = Socket(descriptor: descriptor)
            let flags = fcntl(descriptor, F_GETFL)
            _ = fcntl(descriptor, F_SETFL, flags | O_NONBLOCK)
            let status = candidate.withAddress { Glibc.connect(descriptor, $0, $1) }
            if status != 0 && errno != EINPROGRESS { continue }
            guard connection.wait(for: POLLOUT, seconds: seconds) else { continue }
            var error: Int32 = 0
            var length = socklen_t(MemoryLayout<Int32>.size)
            getsockopt(descriptor, SOL_SOCKET, SO_ERROR, &error, &length)
            if error != 0 { continue }
            _ = fcntl(descriptor, F_SETFL, flags)
            return connection
        }
        return nil
    }

    /// Listens for connections.
    static func listen(at address: ControlLink.Address) throws(CollectiveError) -> (Socket, port: Int) {
        var problem: Int32 = EADDRNOTAVAIL
        for candidate in try address.resolved() {
            let descriptor = socket(
                candidate.family, Int32(SOCK_STREAM.rawValue) | Int32(SOCK_CLOEXEC.rawValue), 0)
            if descriptor < 0 {
                problem = errno
                continue
            }
            let listener = Socket(descriptor: descriptor)
            // A port that was in use a minute ago may be used again.
            var on: Int32 = 1
            setsockopt(descriptor, SOL_SOCKET, SO_REUSEADDR, &on, socklen_t(MemoryLayout<Int32>.size))
            guard candidate.withAddress({ bind(descriptor, $0, $1) }) == 0,
                Glibc.listen(descriptor, 1024) == 0
            else {
                problem = errno
                continue
            }
            return (listener, try listener.localPort())
        }
        switch problem {
        case EADDRINUSE:
            throw CollectiveError(
                .address, "port \(address.port) of \(address.host) is in use: choose another --port")
        case EADDRNOTAVAIL:
            throw CollectiveError(
                .address,
                "\(address.host) is not an address of rank 0's machine: give --head-ip one that it has, and that "
                    + "all ranks reach")
        default:
            throw CollectiveError(
                .address,
                "rank 0 cannot listen at \(address): \(String(cString: strerror(problem))); choose another --port"
            )
        }
    }

    /// The next connection; nil where none comes.
    func accept(seconds: Double) -> Socket? {
        guard wait(for: POLLIN, seconds: seconds) else { return nil }
        let connection = Glibc.accept(descriptor, nil, nil)
        if connection < 0 { return nil }
        _ = fcntl(connection, F_SETFD, FD_CLOEXEC)
        return Socket(descriptor: connection)
    }

    private func localPort() throws(CollectiveError) -> Int {
        var storage = sockaddr_storage()
        var length = socklen_t(MemoryLayout<sockaddr_storage>.size)
        let status = withUnsafeMutablePointer(to: &storage) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { getsockname(descriptor, $0, &length) }
        }
        guard status == 0 else { throw CollectiveError(.address, "the port is not known") }
        // Both families have it in the same place.
        return withUnsafeBytes(of: &storage) { Int($0[2]) << 8 | Int($0[3]) }
    }

    // MARK: Using it

    /// Writes all of `bytes`.
    ///
    /// - Parameter hasMore: what follows at once may go in the same packet.
    func write(_ bytes: UnsafeRawBufferPointer, hasMore: Bool = false) throws(Failure) {
        let flags = Int32(MSG_NOSIGNAL) | (hasMore ? Int32(MSG_MORE) : 0)
        var offset = 0
        while offset < bytes.count {
            let count = Glibc.send(descriptor, bytes.baseAddress! + offset, bytes.count - offset, flags)
            if count < 0 {
                if errno == EINTR { continue }
                throw errno == EPIPE || errno == ECONNRESET ? .closed : .system(errno)
            }
            offset += count
        }
    }

    /// Fills `bytes`.
    ///
    /// - Parameters:
    ///   - polls: how often it is looked, without sleeping, whether something has come.
    ///   - seconds: how long to wait for each part; nil for as long as it takes.
    func read(into bytes: UnsafeMutableRawBufferPointer, polls: Int = 0, seconds: Double? = nil)
        throws(Failure)
    {
        var offset = 0
        var polls = polls
        while offset < bytes.count {
            if polls == 0, let seconds, !wait(for: POLLIN, seconds: seconds) { throw .timeout }
            let count = Glibc.recv(
                descriptor, bytes.baseAddress! + offset, bytes.count - offset,
                polls > 0 ? Int32(MSG_DONTWAIT) : 0)
            if count == 0 { throw .closed }
            if count < 0 {
                if errno == EINTR { continue }
                if errno == EAGAIN {
                    polls -= 1
                    continue
                }
                throw errno == ECONNRESET || errno == ETIMEDOUT ? .closed : .system(errno)
            }
            offset += count
        }
    }

    /// Ends both directions: whoever reads or writes finds it closed.
    func shutDown() { _ = Glibc.shutdown(descriptor, Int32(SHUT_RDWR)) }

    private func wait(for events: Int32, seconds: Double) -> Bool {
        let end = ContinuousClock.now + .seconds(seconds)
        while true {
            let left = max(0, ContinuousClock.now.duration(to: end) / .milliseconds(1))
            var request = pollfd(fd: descriptor, events: Int16(events), revents: 0)
            let count = poll(&request, 1, Int32(min(left.rounded(.up), 1e9)))
            if count > 0 { return true }
            if count == 0 || errno != EINTR { return false }
        }
    }
}

/// What a host's name stands for.
struct ResolvedAddress {
    let family: Int32
    private var storage: sockaddr_storage
    private let length: socklen_t

    fileprivate init(_ info: addrinfo) {
        family = info.ai_family
        length = info.ai_addrlen
        storage = sockaddr_storage()
        withUnsafeMutableBytes(of: &storage) {
            $0.copyMemory(from: UnsafeRawBufferPointer(start: info.ai_addr, count: Int(info.ai_addrlen)))
        }
    }

    func withAddress<Result>(_ body: (UnsafePointer<sockaddr>, socklen_t) -> Result) -> Result {
        withUnsafePointer(to: storage) {
            $0.withMemoryRebound(to: sockaddr.self, capacity: 1) { body($0, length) }
        }
    }
}

extension ControlLink.Address {
    func resolved() throws(CollectiveError) -> [ResolvedAddress] {
        var hints = addrinfo()
        hints.ai_socktype = Int32(SOCK_STREAM.rawValue)
        hints.ai_flags = AI_NUMERICSERV
        var list: UnsafeMutablePointer<addrinfo>?
        let status = getaddrinfo(host, String(port), &hints, &list)
        defer { if let list { freeaddrinfo(list) } }
        guard status == 0 else {
            throw CollectiveError(
                .address,
                "\(host) is no address that is known here (\(String(cString: gai_strerror(status)))): give --head-ip "
                    + "rank 0's")
        }
        var addresses: [ResolvedAddress] = []
        var next = list
        while let info = next?.pointee {
            addresses.append(ResolvedAddress(info))
            next = info.ai_next
        }
        return addresses
    }
}
