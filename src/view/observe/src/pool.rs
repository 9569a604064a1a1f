//! A pool file: the tenants' disk as a file of the host, behind a block device.
//!
//! Danger: writes into a pool file that is not allocated succeed on a host whose disk is full, and fail when they are synced, long
//! after a tenant was told that its data is safe.

/// A pool file, as the kernel has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PoolBacking {
    /// The path of the file, as the kernel names it.
    pub file: String,
    /// The device, such as `loop0`.
    pub device: String,
    /// The size of the device in bytes.
    pub device_size: u64,
    /// The size of the file; 0 when it is gone.
    pub size: u64,
    /// How many bytes of the file are allocated.
    pub allocated: u64,
    /// Whether the device passes discards on, which punch holes into the file.
    pub discards: bool,
}

impl PoolBacking {
    /// Whether the file holds less than the device says.
    #[must_use]
    pub fn is_cut(&self) -> bool {
        self.size < self.device_size
    }

    /// What is wrong, as sentences with a remedy. Nothing when the file is whole and stays so.
    #[must_use]
    pub fn problems(&self) -> Vec<String> {
        let Self { file, device, device_size, size, allocated, discards } = self;
        let mut all = Vec::new();
        if self.is_cut() {
            all.push(format!(
                "\"{file}\" has {size} bytes, and the disk of the tenants that it holds has {device_size}: somebody has cut or \
                 removed it; stop the tenants, and restore it from a backup"
            ));
        } else if allocated < size {
            all.push(format!(
                "{allocated} of the {size} bytes of \"{file}\" are allocated: once the host's disk is full, tenants lose what they \
                 write; free that much, and run `bailiwick setup`, which allocates the rest"
            ));
        }
        if *discards {
            all.push(format!(
                "{device} passes discards on, which take away what is allocated of \"{file}\"; run `bailiwick setup`, which has \
                 udev turn them off"
            ));
        }
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pool_that_is_not_whole_is_told() {
        let whole = PoolBacking {
            file: "/var/lib/bailiwick.pool".to_owned(),
            device: "loop0".to_owned(),
            device_size: 4096,
            size: 4096,
            allocated: 8192,
            discards: false,
        };
        assert_eq!(whole.problems(), [""; 0]);
        let told = |pool: PoolBacking, word: &str| {
            let problems = pool.problems();
            assert!(problems.len() == 1 && problems[0].contains(word), "{problems:?}");
        };
        told(PoolBacking { allocated: 4095, ..whole.clone() }, "4095 of the 4096 bytes");
        told(PoolBacking { discards: true, ..whole.clone() }, "discards");
        told(PoolBacking { size: 0, allocated: 0, ..whole.clone() }, "cut or removed");
        assert!(PoolBacking { size: 4095, ..whole }.is_cut());
    }
}
