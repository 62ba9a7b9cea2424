// swift-tools-version: 6.2
import PackageDescription

// In a debug build every intrinsic of the kernels would be a call, and a test run take minutes: here they are optimised
// always. A package that depends on this one may not set such flags, and builds them as it is built itself.
let isDependency = Context.packageDirectory.contains("/checkouts/")
let kernelSettings: [CSetting] = isDependency ? [] : [.unsafeFlags(["-O3"])]

// Targets are listed from the bottom layer to the top one; a target imports only targets above it in this list.
// `Scripts/check-layers` holds the sources to that.
let package = Package(
    name: "Tandem",
    products: [
        .library(name: "Tandem", targets: ["Engine"]),
        .executable(name: "tandem", targets: ["tandem"]),
    ],
    dependencies: [
        .package(url: "https://github.com/apple/swift-argument-parser", from: "1.8.1"),
        .package(url: "https://github.com/apple/swift-system", from: "1.4.0"),
    ],
    targets: [
        .target(name: "SystemShims"),
        .target(name: "CPUKernels", exclude: ["Operations"], cSettings: kernelSettings),
        .target(name: "TensorCore"),
        .target(name: "Placement", dependencies: ["TensorCore"]),
        .target(name: "HostRuntime", dependencies: ["SystemShims"]),
        .target(name: "Collectives", dependencies: ["HostRuntime", "SystemShims"]),
        .target(
            name: "Tokenization", dependencies: [.product(name: "SystemPackage", package: "swift-system")]),
        .target(
            name: "Checkpoints",
            dependencies: [
                "TensorCore", "CPUKernels", .product(name: "SystemPackage", package: "swift-system"),
            ]),
        .target(name: "CUDAKernelImage", exclude: ["kernels_80.ptx", "kernels_90.cubin"]),
        .target(name: "CUDA", dependencies: ["HostRuntime", "SystemShims"]),
        .target(
            name: "OPTModel",
            dependencies: [
                "TensorCore", "Placement", "HostRuntime", "Collectives", "SystemShims", "CPUKernels",
                "Checkpoints", "CUDAKernelImage", "CUDA",
                .product(name: "SystemPackage", package: "swift-system"),
            ]),
        .target(
            name: "Engine",
            dependencies: [
                "TensorCore", "OPTModel", "Placement", "Collectives", "CUDA", "Tokenization", "HostRuntime",
                "CPUKernels", "Checkpoints",
                .product(name: "SystemPackage", package: "swift-system"),
            ]),
        .executableTarget(
            name: "tandem",
            dependencies: [
                "TensorCore", "Engine", "OPTModel", "HostRuntime", "Placement", "Collectives",
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ]),
        .testTarget(name: "CPUKernelsTests", dependencies: ["CPUKernels", "TensorCore"]),
        .testTarget(
            name: "TokenizationTests",
            dependencies: ["Tokenization", .product(name: "SystemPackage", package: "swift-system")]),
        .testTarget(name: "HostRuntimeTests", dependencies: ["HostRuntime", "SystemShims"]),
        .testTarget(name: "CollectivesTests", dependencies: ["Collectives", "HostRuntime"]),
        .testTarget(
            name: "CUDATests", dependencies: ["CUDA", "CUDAKernelImage", "HostRuntime", "AllocationCounter"]),
        .testTarget(name: "PlacementTests", dependencies: ["Placement", "TensorCore"]),
        .testTarget(
            name: "OPTModelTests",
            dependencies: [
                "TensorCore", "Checkpoints", "OPTModel", "Placement", "Collectives", "CUDA",
                "CUDAKernelImage",
                "CPUKernels", "HostRuntime", "EmulatedTiles",
                "AllocationsOfThreads",
                .product(name: "SystemPackage", package: "swift-system"),
            ]),
        .testTarget(
            name: "EngineTests",
            dependencies: [
                "TensorCore", "Engine", "OPTModel", "Placement", "Collectives", "CUDAKernelImage",
                "AllocationCounter",
                "AllocationsOfThreads",
                .product(name: "SystemPackage", package: "swift-system"),
            ]),
        .testTarget(
            name: "tandemTests",
            dependencies: [
                "tandem", "Placement", "OPTModel", "Engine", "Collectives",
                .product(name: "SystemPackage", package: "swift-system"),
                .product(name: "ArgumentParser", package: "swift-argument-parser"),
            ]),
        .target(name: "AllocationCounter", path: "Tests/AllocationCounter"),
        .target(name: "EmulatedTiles", path: "Tests/EmulatedTiles", cSettings: kernelSettings),
        .target(
            name: "AllocationsOfThreads", dependencies: ["AllocationCounter", "HostRuntime"],
            path: "Tests/AllocationsOfThreads"),
        .testTarget(
            name: "CheckpointsTests",
            dependencies: [
                "Checkpoints", "CPUKernels", "TensorCore",
                .product(name: "SystemPackage", package: "swift-system"),
            ]),
    ],
    swiftLanguageModes: [.v6]
)
