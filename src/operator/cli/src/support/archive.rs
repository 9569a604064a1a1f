//! A compressed archive for tar(1), in the format `ustar` (`pax(1)` of POSIX).

use flate2::Compression;
use flate2::write::GzEncoder;
use std::fs::File;
use std::io::{self, Write};

const BLOCK: usize = 512;

/// An archive that is being written.
pub(super) struct Archive {
    encoder: GzEncoder<File>,
    /// The time of all files, in seconds since 1970.
    now: i64,
}

impl Archive {
    pub(super) fn new(file: File) -> Self {
        Self { encoder: GzEncoder::new(file, Compression::default()), now: jiff::Timestamp::now().as_second() }
    }

    /// Adds a file. A name is at most 100 bytes long.
    pub(super) fn add(&mut self, name: &str, content: &[u8]) -> io::Result<()> {
        self.encoder.write_all(&header(name, content.len(), self.now)?)?;
        self.encoder.write_all(content)?;
        self.encoder.write_all(&vec![0; content.len().next_multiple_of(BLOCK) - content.len()])
    }

    /// Writes the end of the archive to the disk.
    pub(super) fn finish(mut self) -> io::Result<()> {
        self.encoder.write_all(&[0; 2 * BLOCK])?;
        self.encoder.finish()?.sync_all()
    }
}

fn header(name: &str, size: usize, time: i64) -> io::Result<[u8; BLOCK]> {
    let name = format!("bailiwick-support/{name}");
    let mut block = [0; BLOCK];
    let fields: [(usize, usize, String); 8] = [
        (0, 100, name),
        (100, 8, "0000600\0".to_owned()),
        (108, 8, "0000000\0".to_owned()),
        (116, 8, "0000000\0".to_owned()),
        (124, 12, format!("{size:011o}\0")),
        (136, 12, format!("{time:011o}\0")),
        // The sum is made with blanks in its own place.
        (148, 8, " ".repeat(8)),
        (156, 109, format!("0{}ustar\u{0}00", "\0".repeat(100))),
    ];
    for (start, length, text) in fields {
        if text.len() > length {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, format!("\"{text}\" is too long for an archive")));
        }
        block[start..start + text.len()].copy_from_slice(text.as_bytes());
    }
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    Ok(block)
}
