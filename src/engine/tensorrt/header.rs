//! What the first bytes of a plan say, without TensorRT and without a GPU.
//!
//! Two layouts are known. TensorRT (`printPlanVersion` in the vendor's samples, `samples/common/sampleEngines.cpp`): `ftrt`,
//! a serialization version at 4, the library's version in four bytes at 24. TensorRT-RTX (observed on 1.7.1): `vtrt`, the
//! whole file's size at 16, the version at 24, `vtrt` again at 28, a mask of compute capabilities at 32, 64 bytes in all.

use super::releases::Product;
use crate::engine::Error;
use crate::fsx;
use serde::Serialize;
use std::io::Read;
use std::path::Path;

/// Bytes that are read.
const LENGTH: usize = 64;
/// Bytes that a TensorRT plan needs for its version.
const TENSORRT_LENGTH: usize = 28;
/// Bits of the TensorRT-RTX mask. 8.6, 8.9 and 12.0 were seen; 7.5, 8.0 and 12.1 follow from their order.
const CAPABILITIES: [&str; 6] = ["7.5", "8.0", "8.6", "8.9", "12.0", "12.1"];

#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Header {
    /// Which product wrote it.
    pub product: Product,
    /// Version that wrote it, four parts.
    pub version: String,
    /// Size of the file in bytes.
    pub size: u64,
    /// Compute capabilities that it was compiled for; `None` where the header does not say.
    pub compute_capabilities: Option<Vec<String>>,
}

/// Why bytes are no plan's header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    /// Neither of the known magic numbers.
    #[error("it does not start as a TensorRT plan does (`ftrt` or `vtrt`)")]
    Magic,
    /// Too short for a header.
    #[error("it is cut short: {have} bytes, and the header alone takes {need}")]
    Short {
        have: usize,
        /// Bytes of a header.
        need: usize,
    },
    /// The header states another size than the file has.
    #[error("it is cut short or has grown: its header says {stated} bytes, and it has {size}")]
    Size {
        /// What the header says.
        stated: u64,
        /// What the file has.
        size: u64,
    },
    /// The second magic number of TensorRT-RTX is missing.
    #[error("its header is damaged")]
    Damaged,
}

/// Reads the header of the plan at `path`.
///
/// # Errors
/// [`Error::File`] and [`Error::Plan`].
pub fn read(path: &Path) -> Result<Header, Error> {
    let io = |e| fsx::Error::read(path, e);
    let file = fsx::open_regular(path)?;
    let size = file.metadata().map_err(io)?.len();
    let mut start = Vec::with_capacity(LENGTH);
    file.take(LENGTH as u64)
        .read_to_end(&mut start)
        .map_err(io)?;
    parse(&start, size).map_err(|fault| Error::Plan {
        path: path.display().to_string(),
        reason: fault.to_string(),
    })
}

/// Reads a header from a plan's first bytes; `size` is that of the whole plan.
///
/// # Errors
/// See [`Fault`].
pub fn parse(start: &[u8], size: u64) -> Result<Header, Fault> {
    let short = |need| Fault::Short {
        have: start.len(),
        need,
    };
    let version = |b: &[u8; 4]| format!("{}.{}.{}.{}", b[0], b[1], b[2], b[3]);
    match start.first_chunk() {
        Some(b"ftrt") => {
            let bytes = start
                .get(24..)
                .and_then(<[u8]>::first_chunk)
                .ok_or(short(TENSORRT_LENGTH))?;
            Ok(Header {
                product: Product::TensorRt,
                version: version(bytes),
                size,
                compute_capabilities: None,
            })
        }
        Some(b"vtrt") => {
            let header: &[u8; LENGTH] = start.first_chunk().ok_or(short(LENGTH))?;
            let at = |i: usize| [header[i], header[i + 1], header[i + 2], header[i + 3]];
            if at(0x1c) != *b"vtrt" {
                return Err(Fault::Damaged);
            }
            let stated = u64::from(u32::from_le_bytes(at(0x10)))
                | u64::from(u32::from_le_bytes(at(0x14))) << 32;
            // A plan that was cut while it was copied is told from one that is damaged inside.
            if stated != size {
                return Err(Fault::Size { stated, size });
            }
            let mask = u32::from_le_bytes(at(0x20));
            let capabilities = (0..u32::BITS)
                .filter(|bit| mask >> bit & 1 == 1)
                .map(|bit| {
                    CAPABILITIES
                        .get(bit as usize)
                        // A later release may know GPUs that this table does not.
                        .map_or_else(|| format!("unknown (bit {bit})"), ToString::to_string)
                })
                .collect();
            Ok(Header {
                product: Product::Rtx,
                version: version(&at(0x18)),
                size,
                compute_capabilities: Some(capabilities),
            })
        }
        None if b"ftrt".starts_with(start) || b"vtrt".starts_with(start) => {
            Err(short(TENSORRT_LENGTH))
        }
        Some(_) | None => Err(Fault::Magic),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rtx(mask: u32, size: u64) -> Vec<u8> {
        let mut h = vec![0; LENGTH];
        h[..4].copy_from_slice(b"vtrt");
        h[8] = 2;
        h[0x10..0x18].copy_from_slice(&size.to_le_bytes());
        h[0x18..0x1c].copy_from_slice(&[1, 7, 1, 116]);
        h[0x1c..0x20].copy_from_slice(b"vtrt");
        h[0x20..0x24].copy_from_slice(&mask.to_le_bytes());
        h
    }

    #[test]
    fn tensorrt() {
        let mut h = b"ftrt".to_vec();
        h.resize(24, 0);
        assert_eq!(parse(&h, 1000), Err(Fault::Short { have: 24, need: 28 }));
        h.extend([8, 6, 0, 12]);
        let header = parse(&h, 1000).unwrap();
        assert_eq!(
            (header.product, header.version.as_str(), header.size),
            (Product::TensorRt, "8.6.0.12", 1000)
        );
        assert_eq!(header.compute_capabilities, None);
    }

    #[test]
    fn rtx_with_its_capabilities() {
        let header = parse(&rtx(0x18, 15_000), 15_000).unwrap();
        assert_eq!(
            (header.product, header.version.as_str()),
            (Product::Rtx, "1.7.1.116")
        );
        assert_eq!(header.compute_capabilities.unwrap(), ["8.9", "12.0"]);
        let odd = parse(&rtx(0x81, 64), 64).unwrap();
        assert_eq!(
            odd.compute_capabilities.unwrap(),
            ["7.5", "unknown (bit 7)"]
        );
    }

    #[test]
    fn damage_is_told() {
        assert_eq!(parse(b"", 0), Err(Fault::Short { have: 0, need: 28 }));
        assert_eq!(parse(b"ftr", 3), Err(Fault::Short { have: 3, need: 28 }));
        assert_eq!(parse(&[0; 64], 64), Err(Fault::Magic));
        assert_eq!(parse(b"{}", 2), Err(Fault::Magic));
        assert_eq!(parse(b"vtrt", 4), Err(Fault::Short { have: 4, need: 64 }));
        assert_eq!(
            parse(&rtx(8, 100), 99),
            Err(Fault::Size {
                stated: 100,
                size: 99
            })
        );
        let mut bad = rtx(8, 64);
        bad[0x1c] = 0;
        assert_eq!(parse(&bad, 64), Err(Fault::Damaged));
    }

    #[test]
    fn files_are_read_and_named_in_errors() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("a.plan");
        assert!(matches!(read(&path), Err(Error::File(_))));
        std::fs::write(&path, b"hello").unwrap();
        let text = read(&path).unwrap_err().to_string();
        assert!(
            text.contains("a.plan") && text.contains("does not start as"),
            "{text}"
        );
        std::fs::write(&path, rtx(4, 64)).unwrap();
        assert_eq!(read(&path).unwrap().compute_capabilities.unwrap(), ["8.6"]);
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..80), magic in 0..3) {
            let mut bytes = bytes;
            for (to, from) in bytes.iter_mut().zip(match magic { 0 => b"ftrt", 1 => b"vtrt", _ => b"junk" }) {
                *to = *from;
            }
            let _ = parse(&bytes, bytes.len() as u64);
        }
    }
}
