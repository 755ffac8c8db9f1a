//! Statuses of the CUDA driver that indicate a fault of the card, its driver or its surroundings,
//! in plain English.
//!
//! Any other status, such as an invalid value, indicates a bug of the program. Source: the driver
//! API's `CUresult`, <https://docs.nvidia.com/cuda/cuda-driver-api/group__CUDA__TYPES.html>.

/// A status of the CUDA driver.
#[derive(Debug, PartialEq, Eq)]
pub struct Status {
    /// Number in `CUresult`.
    pub number: u32,
    /// Name in `CUresult`.
    pub name: &'static str,
    /// What happened.
    pub meaning: &'static str,
    /// What to do about it.
    pub advice: &'static str,
}

const OUT_OF_MEMORY: u32 = 2;

const KERNEL: &str = "if it fails again at the same step, report it with the recipe to the \
    project's issues; if it fails elsewhere each time, suspect the card: its power, its cooling, \
    an overclock";
const CARD: &str = "run `nvidia-smi -q -d ECC,ROW_REMAPPER,PAGE_RETIREMENT`, then reset the card \
    (`nvidia-smi --gpu-reset`) or restart the machine; a card that fails again wants to be \
    replaced";
const GONE: &str = "look for `Xid` in the kernel's log (`dmesg`), then restart the machine; check \
    the card's power, seat and cooling";
const DRIVER: &str = "update NVIDIA's driver, or use a CUDA toolkit that is no newer than the \
    driver; `rankine doctor` shows both";
const BUSY: &str = "end the process that holds the card (`nvidia-smi` lists them), or choose \
    another device";
const SETUP: &str = "restart the machine so that driver and kernel module are of one version; in a \
    container start it with the GPU anew";

macro_rules! statuses {
    ($($number:literal $name:literal $meaning:literal $advice:expr;)*) => {
        &[$(Status {
            number: $number,
            name: concat!("CUDA_ERROR_", $name),
            meaning: $meaning,
            advice: $advice,
        }),*]
    };
}

const STATUSES: &[Status] = statuses! {
    2 "OUT_OF_MEMORY" "the card's memory ran out" "";
    3 "NOT_INITIALIZED" "the driver is not initialized" SETUP;
    4 "DEINITIALIZED" "the driver is shutting down" SETUP;
    46 "DEVICE_UNAVAILABLE" "the card is busy or in use by one process alone" BUSY;
    100 "NO_DEVICE" "there is no card any more" GONE;
    101 "INVALID_DEVICE" "there is no such card" GONE;
    200 "INVALID_IMAGE" "the driver does not take the compiled kernel" DRIVER;
    209 "NO_BINARY_FOR_GPU" "the kernel was compiled for another architecture than the card's"
    DRIVER;
    214 "ECC_UNCORRECTABLE" "the card's memory is faulty: it returned wrong bits that could not be \
        corrected" CARD;
    218 "INVALID_PTX" "the driver does not take the kernel's PTX" DRIVER;
    220 "NVLINK_UNCORRECTABLE" "the link between cards (NVLink) is faulty" CARD;
    221 "JIT_COMPILER_NOT_FOUND" "the driver's compiler for PTX is missing" DRIVER;
    222 "UNSUPPORTED_PTX_VERSION" "the kernel's PTX is newer than the driver" DRIVER;
    226 "CONTAINED" "the card contained a memory fault and ended this process's work" CARD;
    304 "OPERATING_SYSTEM" "the operating system refused a call of the driver" GONE;
    700 "ILLEGAL_ADDRESS" "a kernel used memory that it does not have" KERNEL;
    702 "LAUNCH_TIMEOUT" "a kernel ran longer than the driver allows" "use a card that drives no \
        screen, or lower `training.micro_batch_size`";
    709 "CONTEXT_IS_DESTROYED" "the driver destroyed this process's context" GONE;
    710 "ASSERT" "a kernel's check failed" KERNEL;
    714 "HARDWARE_STACK_ERROR" "a kernel's stack is corrupt" KERNEL;
    715 "ILLEGAL_INSTRUCTION" "a kernel met an instruction that the card does not have" KERNEL;
    716 "MISALIGNED_ADDRESS" "a kernel used a misaligned address" KERNEL;
    717 "INVALID_ADDRESS_SPACE" "a kernel used an address of another memory" KERNEL;
    718 "INVALID_PC" "a kernel jumped out of its code" KERNEL;
    719 "LAUNCH_FAILED" "a kernel failed while it ran" KERNEL;
    800 "NOT_PERMITTED" "the driver does not permit the call" SETUP;
    802 "SYSTEM_NOT_READY" "the system's driver services are not ready" SETUP;
    803 "SYSTEM_DRIVER_MISMATCH" "the driver and its kernel module are of different versions" SETUP;
    804 "COMPAT_NOT_SUPPORTED_ON_DEVICE" "the driver is older than the CUDA toolkit and the card \
        allows no compatibility mode" DRIVER;
    999 "UNKNOWN" "the driver failed without a reason, as when the card fell off the bus" GONE;
};

impl Status {
    /// Finds the status in a line, by cudarc's name for it or by cubecl's
    /// `.. failed with status N`.
    pub(super) fn in_line(line: &str) -> Option<&'static Self> {
        let of_name =
            name_in(line).and_then(|name| STATUSES.iter().find(|status| status.name == name));
        of_name.or_else(|| {
            number_in(line)
                .and_then(|number| STATUSES.iter().find(|status| status.number == number))
        })
    }

    pub(super) fn is_out_of_memory(&self) -> bool {
        self.number == OUT_OF_MEMORY
    }
}

fn name_in(line: &str) -> Option<&str> {
    let from = &line[line.find("CUDA_ERROR_")?..];
    let end = from.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'));
    Some(end.map_or(from, |end| &from[..end]))
}

fn number_in(line: &str) -> Option<u32> {
    let (call, rest) = line.split_once(" failed with status ")?;
    let call = call.rsplit(' ').next().unwrap_or_default().to_lowercase();
    // Other libraries use other numbers for their statuses.
    if ["nccl", "nvrtc", "hip"]
        .iter()
        .any(|other| call.starts_with(other))
    {
        return None;
    }
    let end = rest
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(rest.len());
    rest[..end].parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_in_order_and_every_fault_has_advice() {
        assert!(STATUSES.is_sorted_by(|one, next| one.number < next.number));
        for Status { number, advice, .. } in STATUSES {
            assert_eq!(advice.is_empty(), *number == OUT_OF_MEMORY, "{number}");
        }
    }

    #[test]
    fn a_status_is_read_by_name_and_by_number() {
        let number = |line: &str| Status::in_line(line).map(|status| status.number);
        assert_eq!(
            number(r#"DriverError(CUDA_ERROR_LAUNCH_FAILED, "unspecified launch failure")"#),
            Some(719)
        );
        assert_eq!(
            number("The device is poisoned: memcpy_htod_async failed with status 719"),
            Some(719)
        );
        assert_eq!(
            number("  cuEventSynchronize failed with status 214."),
            Some(214)
        );
        for other in [
            "ncclAllReduce failed with status 2",
            "cuX failed with status 1",
            "CUDA_ERROR_INVALID_VALUE",
            "status 719",
            "",
        ] {
            assert_eq!(number(other), None, "{other}");
        }
    }
}
