//! Sizes and ages as people write them, and the default limit.

use super::CacheFault;
use crate::fsx::disk;
use bytesize::ByteSize;
use std::path::Path;
use std::time::Duration;

/// The default limit is never more than this.
const DEFAULT_LIMIT: u64 = 10 << 30;

/// Reads `20GiB`, `500MB`, `1.5 GiB`, `4096`. `kB MB GB TB` count in thousands, `KiB MiB GiB TiB` in 1024s.
///
/// # Errors
/// [`CacheFault::Size`].
pub fn parse_size(text: &str) -> Result<u64, CacheFault> {
    text.trim()
        .parse::<ByteSize>()
        .map(|size| size.as_u64())
        .map_err(|_| CacheFault::Size { text: text.into() })
}

/// Reads `90s`, `12h`, `30d`, `8weeks`.
///
/// # Errors
/// [`CacheFault::Age`].
pub fn parse_age(text: &str) -> Result<Duration, CacheFault> {
    humantime::parse_duration(text.trim()).map_err(|_| CacheFault::Age { text: text.into() })
}

/// The limit where the user gives none: 10 GiB, or a tenth of the disk that holds `folder` where that is less.
/// `folder` need not exist yet.
///
/// # Errors
/// [`CacheFault::Io`] when the disk cannot be asked.
pub fn default_limit(folder: &Path) -> Result<u64, CacheFault> {
    let disk = disk(folder).map_err(CacheFault::io("ask for the disk size of", folder))?;
    Ok(DEFAULT_LIMIT.min(disk.total / 10))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes() {
        for (text, bytes) in [
            ("0", 0),
            ("4096", 4096),
            ("20GiB", 20 << 30),
            (" 1.5 GiB ", 3 << 29),
            ("500MB", 500_000_000),
            ("1TiB", 1 << 40),
        ] {
            assert_eq!(parse_size(text).unwrap(), bytes, "{text}");
        }
        for text in ["", "GiB", "-1", "1 XB", "1e400GiB", "nan", "ten"] {
            assert!(parse_size(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ages() {
        let day = 24 * 60 * 60;
        assert_eq!(parse_age("30d").unwrap(), Duration::from_secs(30 * day));
        assert_eq!(parse_age("12h").unwrap(), Duration::from_secs(day / 2));
        for text in ["", "30", "-1d", "d", "30 moons"] {
            assert!(parse_age(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_default_limit_is_a_tenth_of_the_disk_at_most() {
        let dir = tempfile::tempdir().unwrap();
        let disk = disk(dir.path()).unwrap();
        let limit = default_limit(&dir.path().join("not/yet/there")).unwrap();
        assert!(limit > 0 && limit <= DEFAULT_LIMIT);
        assert!(limit <= disk.total / 10);
    }
}
