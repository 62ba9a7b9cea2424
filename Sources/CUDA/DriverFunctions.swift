import SystemShims

/// The driver's status of a call; 0 is success.
typealias CUresult = Int32

/// An address in the GPU's memory, or one at which the GPU sees host memory. 0 for none.
public typealias DeviceAddress = UInt64

/// The driver's functions, as `cuda.h` declares them. Where the header maps a name to a newer one (`_v2`),
/// the field has the plain name and `init` looks for the newer one.
final class DriverFunctions: @unchecked Sendable {  // addresses of code
    typealias Handle = OpaquePointer?
    typealias HandleOut = UnsafeMutablePointer<OpaquePointer?>
    typealias OfHandle = @convention(c) (Handle) -> CUresult
    typealias OfStreamAndValue = @convention(c) (Handle, DeviceAddress, UInt32, UInt32) -> CUresult

    let cuInit: @convention(c) (UInt32) -> CUresult
    let cuDriverGetVersion: @convention(c) (UnsafeMutablePointer<Int32>) -> CUresult
    let cuGetErrorName: @convention(c) (CUresult, UnsafeMutablePointer<UnsafePointer<CChar>?>) -> CUresult
    let cuGetErrorString: @convention(c) (CUresult, UnsafeMutablePointer<UnsafePointer<CChar>?>) -> CUresult

    let cuDeviceGetCount: @convention(c) (UnsafeMutablePointer<Int32>) -> CUresult
    let cuDeviceGet: @convention(c) (UnsafeMutablePointer<Int32>, Int32) -> CUresult
    let cuDeviceGetName: @convention(c) (UnsafeMutablePointer<CChar>, Int32, Int32) -> CUresult
    let cuDeviceGetPCIBusId: @convention(c) (UnsafeMutablePointer<CChar>, Int32, Int32) -> CUresult
    let cuDeviceTotalMem: @convention(c) (UnsafeMutablePointer<Int>, Int32) -> CUresult
    let cuDeviceGetAttribute: @convention(c) (UnsafeMutablePointer<Int32>, Int32, Int32) -> CUresult

    let cuDevicePrimaryCtxRetain: @convention(c) (HandleOut, Int32) -> CUresult
    let cuDevicePrimaryCtxRelease: @convention(c) (Int32) -> CUresult
    let cuCtxSetCurrent: OfHandle
    let cuCtxPushCurrent: OfHandle
    let cuCtxPopCurrent: @convention(c) (HandleOut) -> CUresult
    let cuCtxSynchronize: @convention(c) () -> CUresult
    let cuCtxGetStreamPriorityRange:
        @convention(c) (UnsafeMutablePointer<Int32>, UnsafeMutablePointer<Int32>) -> CUresult

    // Memory of other processes' GPUs; nil where the driver has none of it.
    let cuCtxEnablePeerAccess: (@convention(c) (Handle, UInt32) -> CUresult)?
    let cuIpcGetMemHandle:
        (@convention(c) (UnsafeMutablePointer<tandem_bytes_64>, DeviceAddress) -> CUresult)?
    let cuIpcOpenMemHandle:
        (@convention(c) (UnsafeMutablePointer<DeviceAddress>, tandem_bytes_64, UInt32) -> CUresult)?
    let cuIpcCloseMemHandle: (@convention(c) (DeviceAddress) -> CUresult)?

    let cuMemGetInfo: @convention(c) (UnsafeMutablePointer<Int>, UnsafeMutablePointer<Int>) -> CUresult
    let cuMemAlloc: @convention(c) (UnsafeMutablePointer<DeviceAddress>, Int) -> CUresult
    let cuMemFree: @convention(c) (DeviceAddress) -> CUresult
    let cuMemHostRegister: @convention(c) (UnsafeMutableRawPointer, Int, UInt32) -> CUresult
    let cuMemHostUnregister: @convention(c) (UnsafeMutableRawPointer) -> CUresult
    let cuMemHostGetDevicePointer:
        @convention(c) (UnsafeMutablePointer<DeviceAddress>, UnsafeMutableRawPointer, UInt32) -> CUresult

    let cuStreamCreateWithPriority: @convention(c) (HandleOut, UInt32, Int32) -> CUresult
    let cuStreamDestroy: OfHandle
    let cuStreamSynchronize: OfHandle
    let cuStreamQuery: OfHandle
    let cuStreamWaitEvent: @convention(c) (Handle, Handle, UInt32) -> CUresult
    let cuStreamWriteValue32: OfStreamAndValue
    let cuStreamBeginCapture: @convention(c) (Handle, Int32) -> CUresult
    let cuStreamEndCapture: @convention(c) (Handle, HandleOut) -> CUresult
    let cuMemcpyHtoDAsync: @convention(c) (DeviceAddress, UnsafeRawPointer, Int, Handle) -> CUresult
    let cuMemcpyDtoHAsync: @convention(c) (UnsafeMutableRawPointer, DeviceAddress, Int, Handle) -> CUresult
    let cuMemcpyDtoDAsync: @convention(c) (DeviceAddress, DeviceAddress, Int, Handle) -> CUresult
    let cuMemsetD8Async: @convention(c) (DeviceAddress, UInt8, Int, Handle) -> CUresult

    let cuEventCreate: @convention(c) (HandleOut, UInt32) -> CUresult
    let cuEventDestroy: OfHandle
    let cuEventRecord: @convention(c) (Handle, Handle) -> CUresult
    let cuEventQuery: OfHandle
    let cuEventSynchronize: OfHandle
    let cuEventElapsedTime: @convention(c) (UnsafeMutablePointer<Float>, Handle, Handle) -> CUresult

    let cuGraphInstantiateWithFlags: @convention(c) (HandleOut, Handle, UInt64) -> CUresult
    let cuGraphGetNodes: @convention(c) (Handle, HandleOut?, UnsafeMutablePointer<Int>) -> CUresult
    let cuGraphDestroy: OfHandle
    let cuGraphExecDestroy: OfHandle
    let cuGraphUpload: @convention(c) (Handle, Handle) -> CUresult
    let cuGraphLaunch: @convention(c) (Handle, Handle) -> CUresult

    let cuModuleLoadDataEx:
        @convention(c) (
            HandleOut, UnsafeRawPointer, UInt32, UnsafeMutablePointer<Int32>,
            UnsafeMutablePointer<UnsafeMutableRawPointer?>
        ) -> CUresult
    let cuModuleUnload: OfHandle
    let cuModuleGetFunction: @convention(c) (HandleOut, Handle, UnsafePointer<CChar>) -> CUresult
    let cuFuncSetAttribute: @convention(c) (Handle, Int32, Int32) -> CUresult
    let cuFuncGetAttribute: @convention(c) (UnsafeMutablePointer<Int32>, Int32, Handle) -> CUresult
    let cuTensorMapEncodeTiled:
        @convention(c) (
            UnsafeMutableRawPointer, Int32, UInt32, DeviceAddress, UnsafePointer<UInt64>,
            UnsafePointer<UInt64>,
            UnsafePointer<UInt32>, UnsafePointer<UInt32>, Int32, Int32, Int32, Int32
        ) -> CUresult
    let cuOccupancyMaxActiveBlocksPerMultiprocessor:
        @convention(c) (UnsafeMutablePointer<Int32>, Handle, Int32, Int) -> CUresult
    let cuLaunchKernelEx:
        @convention(c) (
            UnsafeRawPointer, Handle, UnsafeMutablePointer<UnsafeMutableRawPointer?>,
            UnsafeMutablePointer<UnsafeMutableRawPointer?>?
        ) -> CUresult

    /// Finds every function by its exported name.
    ///
    /// - Parameter find: the address of a name, or nil.
    init(find: (String) -> UnsafeMutableRawPointer?) throws(CUDAError) {
        func function<Function>(_ name: String) throws(CUDAError) -> Function {
            guard let address = find(name) else {
                throw CUDAError(
                    .driverTooOld, action: "looking for the NVIDIA driver",
                    reason: "the driver has no \(name): install release 525 or newer")
            }
            return unsafeBitCast(address, to: Function.self)
        }
        cuInit = try function("cuInit")
        cuDriverGetVersion = try function("cuDriverGetVersion")
        cuGetErrorName = try function("cuGetErrorName")
        cuGetErrorString = try function("cuGetErrorString")
        cuDeviceGetCount = try function("cuDeviceGetCount")
        cuDeviceGet = try function("cuDeviceGet")
        cuDeviceGetName = try function("cuDeviceGetName")
        cuDeviceGetPCIBusId = try function("cuDeviceGetPCIBusId")
        cuDeviceTotalMem = try function("cuDeviceTotalMem_v2")
        cuDeviceGetAttribute = try function("cuDeviceGetAttribute")
        cuDevicePrimaryCtxRetain = try function("cuDevicePrimaryCtxRetain")
        cuDevicePrimaryCtxRelease = try function("cuDevicePrimaryCtxRelease_v2")
        cuCtxSetCurrent = try function("cuCtxSetCurrent")
        cuCtxPushCurrent = try function("cuCtxPushCurrent_v2")
        cuCtxPopCurrent = try function("cuCtxPopCurrent_v2")
        cuCtxSynchronize = try function("cuCtxSynchronize")
        cuCtxGetStreamPriorityRange = try function("cuCtxGetStreamPriorityRange")
        func optional<Function>(_ name: String) -> Function? {
            find(name).map { unsafeBitCast($0, to: Function.self) }
        }
        cuCtxEnablePeerAccess = optional("cuCtxEnablePeerAccess")
        cuIpcGetMemHandle = optional("cuIpcGetMemHandle")
        cuIpcOpenMemHandle = optional("cuIpcOpenMemHandle_v2")
        cuIpcCloseMemHandle = optional("cuIpcCloseMemHandle")
        cuMemGetInfo = try function("cuMemGetInfo_v2")
        cuMemAlloc = try function("cuMemAlloc_v2")
        cuMemFree = try function("cuMemFree_v2")
        cuMemHostRegister = try function("cuMemHostRegister_v2")
        cuMemHostUnregister = try function("cuMemHostUnregister")
        cuMemHostGetDevicePointer = try function("cuMemHostGetDevicePointer_v2")
        cuStreamCreateWithPriority = try function("cuStreamCreateWithPriority")
        cuStreamDestroy = try function("cuStreamDestroy_v2")
        cuStreamSynchronize = try function("cuStreamSynchronize")
        cuStreamQuery = try function("cuStreamQuery")
        cuStreamWaitEvent = try function("cuStreamWaitEvent")
        cuStreamWriteValue32 = try function("cuStreamWriteValue32_v2")
        cuStreamBeginCapture = try function("cuStreamBeginCapture_v2")
        cuStreamEndCapture = try function("cuStreamEndCapture")
        cuMemcpyHtoDAsync = try function("cuMemcpyHtoDAsync_v2")
        cuMemcpyDtoHAsync = try function("cuMemcpyDtoHAsync_v2")
        cuMemcpyDtoDAsync = try function("cuMemcpyDtoDAsync_v2")
        cuMemsetD8Async = try function("cuMemsetD8Async")
        cuEventCreate = try function("cuEventCreate")
        cuEventDestroy = try function("cuEventDestroy_v2")
        cuEventRecord = try function("cuEventRecord")
        cuEventQuery = try function("cuEventQuery")
        cuEventSynchronize = try function("cuEventSynchronize")
        cuEventElapsedTime = try function("cuEventElapsedTime")
        cuGraphInstantiateWithFlags = try function("cuGraphInstantiateWithFlags")
        cuGraphGetNodes = try function("cuGraphGetNodes")
        cuGraphDestroy = try function("cuGraphDestroy")
        cuGraphExecDestroy = try function("cuGraphExecDestroy")
        cuGraphUpload = try function("cuGraphUpload")
        cuGraphLaunch = try function("cuGraphLaunch")
        cuModuleLoadDataEx = try function("cuModuleLoadDataEx")
        cuModuleUnload = try function("cuModuleUnload")
        cuModuleGetFunction = try function("cuModuleGetFunction")
        cuFuncSetAttribute = try function("cuFuncSetAttribute")
        cuFuncGetAttribute = try function("cuFuncGetAttribute")
        cuTensorMapEncodeTiled = try function("cuTensorMapEncodeTiled")
        cuOccupancyMaxActiveBlocksPerMultiprocessor = try function(
            "cuOccupancyMaxActiveBlocksPerMultiprocessor")
        cuLaunchKernelEx = try function("cuLaunchKernelEx")
    }
}
