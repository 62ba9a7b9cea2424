import CUDAKernelImage
import Testing

@testable import CUDA

struct DriverTests {
    @Test func `a machine without the driver is told what was tried and what to do`() {
        let error = #expect(throws: CUDAError.self) {
            try CUDADriver(libraryNames: ["libtandem-has-no-such-driver.so.1"])
        }
        #expect(error?.code == .noDriver)
        #expect(
            error?.description == """
                while looking for the NVIDIA driver: no NVIDIA driver was found (tried \
                libtandem-has-no-such-driver.so.1). Install the driver, or add its folder to \
                LD_LIBRARY_PATH; in a container, start it with access to the GPU; or run on the processor alone
                """)
    }

    @Test func `a library that lacks a function is a driver that is too old`() {
        let error = #expect(throws: CUDAError.self) { try CUDADriver(libraryNames: ["libc.so.6"]) }
        #expect(error?.code == .driverTooOld)
        #expect(error?.description.contains("cuInit") == true)
    }

    @Test func `loading gives the same answer every time`() {
        let first = Result { () throws(CUDAError) in try CUDADriver.load() }
        let second = Result { () throws(CUDAError) in try CUDADriver.load() }
        switch (first, second) {
        case (.success(let first), .success(let second)): #expect(first === second)
        case (.failure(let first), .failure(let second)): #expect(first == second)
        default: Issue.record("one load found the driver, the other did not")
        }
    }

    @Test func `a driver that refuses to start is named with its own status`() {
        let error = #expect(throws: CUDAError.self) {
            try CUDADriver(functions: RecordingDriver.functions(statusOf: ["cuInit": 100]))
        }
        #expect(error?.code == .noDevice)
        #expect(error?.status == 100)
    }

    @Test func `an image runs on its generation, and portable code on newer ones`() {
        let byte = UnsafeRawPointer(bitPattern: 16)!
        let machineCode = KernelImage(bytes: byte, computeCapability: 90, isMachineCode: true)
        let portable = KernelImage(bytes: byte, computeCapability: 80, isMachineCode: false)
        let capabilities = [75, 80, 86, 89, 90, 100, 120]
        #expect(capabilities.filter(machineCode.runs) == [90])
        #expect(capabilities.filter(portable.runs) == [80, 86, 89, 90, 100, 120])
    }

    @Test func `the program carries machine code and, behind it, text that ends in a zero`() throws {
        let images = GPU.images
        #expect(images.map(\.computeCapability) == [90, 80])
        #expect(images.map(\.isMachineCode) == [true, false])
        #expect(images[0].bytes.loadUnaligned(as: UInt32.self) == 0x464c_457f, "no ELF header")
        let text = String(cString: images[1].bytes.assumingMemoryBound(to: CChar.self))
        #expect(UInt64(text.utf8.count) == tandem_first_cuda_image()[1].byte_count)
        #expect(text.contains(".entry tandem_kernel_signal("))
    }
}
