//! Numbers as people read them.

use std::time::Duration;

/// `0 B`, `512 B`, `1.5 KiB`, `3.4 GiB`.
pub fn bytes(n: u64) -> String {
    const UNITS: [&str; 5] = ["KiB", "MiB", "GiB", "TiB", "PiB"];
    if n < 1024 {
        return format!("{n} B");
    }
    let mut value = n as f64 / 1024.0;
    let mut unit = 0;
    // 1023.95 would print as 1024.0 of the smaller unit.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    format!("{value:.1} {}", UNITS[unit])
}

/// `850 ns`, `12.3 µs`, `4.56 ms`, `1.23 s`, `2 min 05 s`.
pub fn duration(d: Duration) -> String {
    let s = d.as_secs_f64();
    // From where it would print as 1000 of the smaller unit, or as 60 s.
    if s < 1e-6 {
        format!("{} ns", d.as_nanos())
    } else if s < 999.95e-6 {
        format!("{:.1} µs", s * 1e6)
    } else if s < 999.995e-3 {
        format!("{:.2} ms", s * 1e3)
    } else if s < 59.995 {
        format!("{s:.2} s")
    } else {
        let whole = s.round() as u64;
        format!("{} min {:02} s", whole / 60, whole % 60)
    }
}

/// `1 tensor`, `3 tensors`.
pub fn count(n: usize, noun: &str) -> String {
    if n == 1 {
        format!("1 {noun}")
    } else {
        format!("{n} {noun}s")
    }
}

/// A measured amount in three digits: `1.87`, `0.00512`, `3.1e-7`.
pub fn amount(value: f64) -> String {
    let size = value.abs();
    if size == 0.0 {
        return "0".into();
    }
    if !(1e-3..1e4).contains(&size) {
        return format!("{value:.2e}");
    }
    let digits = (2 - size.log10().floor() as i32).max(0);
    format!("{value:.*}", digits as usize)
}

/// `37 %` of a ratio.
pub fn percent(ratio: f64) -> String {
    format!("{:.0} %", ratio * 100.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_and_times_read_well() {
        assert_eq!(bytes(0), "0 B");
        assert_eq!(bytes(1536), "1.5 KiB");
        assert_eq!(bytes(1 << 20), "1.0 MiB");
        assert_eq!(bytes((1 << 20) - 1), "1.0 MiB");
        assert_eq!(duration(Duration::from_micros(4560)), "4.56 ms");
        assert_eq!(duration(Duration::from_secs(125)), "2 min 05 s");
        for (ns, shown) in [
            (999, "999 ns"),
            (1_000, "1.0 µs"),
            (999_940, "999.9 µs"),
            (999_960, "1.00 ms"),
            (999_990_000, "999.99 ms"),
            (999_996_000, "1.00 s"),
            (59_990_000_000, "59.99 s"),
            (59_996_000_000, "1 min 00 s"),
            (119_400_000_000, "1 min 59 s"),
            (119_600_000_000, "2 min 00 s"),
        ] {
            assert_eq!(duration(Duration::from_nanos(ns)), shown);
        }
        assert_eq!(count(1, "tensor"), "1 tensor");
        assert_eq!(count(0, "tensor"), "0 tensors");
        for (value, shown) in [
            (0.0, "0"),
            (1.874_9, "1.87"),
            (0.005_123, "0.00512"),
            (123.4, "123"),
            (3.14e-7, "3.14e-7"),
            (12345.0, "1.23e4"),
            (f64::INFINITY, "inf"),
        ] {
            assert_eq!(amount(value), shown);
        }
    }
}
