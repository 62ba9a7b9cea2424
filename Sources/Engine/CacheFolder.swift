import FoundationEssentials
import SystemPackage

/// Where Tandem keeps what it can make again: $XDG_CACHE_HOME/tandem, or ~/.cache/tandem.
enum CacheFolder {
    static var path: FilePath {
        let environment = ProcessInfo.processInfo.environment
        if let cache = environment["XDG_CACHE_HOME"], !cache.isEmpty {
            return FilePath(cache).appending("tandem")
        }
        if let home = environment["HOME"], !home.isEmpty { return FilePath(home).appending(".cache/tandem") }
        return "/var/tmp/tandem"
    }
}
