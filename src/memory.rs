//! How much memory this process may take, and what happens when it is not enough: one message and exit code 3, with nothing left
//! behind.
//!
//! The embedded engine allocates what a model says, and stable Rust can only abort where an allocation fails; on most machines it does
//! not even fail, and the system kills some process later. So allocations are counted here, and one that goes beyond the limit ends the
//! process in order. What a library in C++ allocates is not counted; [`bound_libraries`] has the system refuse it.

use std::alloc::{GlobalAlloc, Layout, System};
use std::fmt::Write as _;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Once, OnceLock};

/// Smaller allocations are not counted, in bytes: a process has few enough of them.
const COUNTED: usize = 32 << 10;

/// Allocations of so many bytes get large pages where the system has them: of 4 KiB each, a tensor of 64 MiB has 16,384, and the system
/// takes longer to hand them out, one fault each, than to copy the tensor.
#[cfg(target_os = "linux")]
const PAGED: usize = 4 << 20;

static USED: AtomicUsize = AtomicUsize::new(0);
static LIMIT: AtomicUsize = AtomicUsize::new(usize::MAX);
/// The user set the limit.
static STATED: AtomicBool = AtomicBool::new(false);
static AT_END: OnceLock<fn(&str)> = OnceLock::new();

/// What a library may map beside its tensors, in bytes: its own data, and the stacks of its threads.
const FOR_LIBRARIES: u64 = 256 << 20;

/// The allocator of the program: the system's, with a limit.
pub struct Counting;

/// Sets the limit in bytes, and what ends the process when it is reached: it gets the message, and must not return. Only the first
/// call of a process counts.
pub fn limit(bytes: usize, end: fn(&str)) {
    if AT_END.set(end).is_ok() {
        LIMIT.store(bytes, Ordering::Relaxed);
    }
}

/// Says that the user set the limit, so that it holds for libraries as well. What is merely free is no such limit: libraries reserve
/// more than they use.
pub fn state_limit() {
    STATED.store(true, Ordering::Relaxed);
}

/// Lets the system refuse this process more memory than the limit that the user set, and `FOR_LIBRARIES`. It counts what is mapped
/// to be written (`RLIMIT_DATA`); a library in C++ reports the refusal as an error. For all that is mapped from now on, once.
pub fn bound_libraries() {
    static ONCE: Once = Once::new();
    if !STATED.load(Ordering::Relaxed) {
        return;
    }
    ONCE.call_once(|| {
        use rustix::process::{Resource, getrlimit, setrlimit};
        #[allow(clippy::disallowed_methods)]
        let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
        let line = status.lines().find(|l| l.starts_with("VmData:"));
        let kib = line.and_then(|l| l.split_whitespace().nth(1)?.parse::<u64>().ok());
        let Some(mapped) = kib.map(|k| k * 1024) else {
            return;
        };
        let (used, limit) = (USED.load(Ordering::Relaxed), LIMIT.load(Ordering::Relaxed));
        let left = limit.saturating_sub(used) as u64;
        let mut data = getrlimit(Resource::Data);
        let most = mapped.saturating_add(left).saturating_add(FOR_LIBRARIES);
        data.current = Some(data.maximum.map_or(most, |hard| hard.min(most)));
        let _ = setrlimit(Resource::Data, data);
    });
}

/// Takes `bytes` out of the limit for memory that is not allocated here.
///
/// # Errors
/// When there are not so many left.
pub fn take(bytes: usize) -> Result<(), std::io::Error> {
    if add(bytes) {
        Ok(())
    } else {
        Err(std::io::ErrorKind::OutOfMemory.into())
    }
}

/// Gives back what [`take`] took.
pub fn give_back(bytes: usize) {
    USED.fetch_sub(bytes, Ordering::Relaxed);
}

/// Lets threads share the allocator's arenas, two of them one: what is kept at the end of each arena, see [`trim`], is otherwise most of what
/// a command takes on many cores. Fewer arenas make threads wait for each other. Before the first thread is started.
#[allow(unsafe_code)]
pub fn share_arenas() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        let arenas = libc::c_int::try_from(threads / 2).unwrap_or(libc::c_int::MAX);
        // SAFETY: it takes two numbers, and changes nothing that is allocated.
        unsafe { libc::mallopt(libc::M_ARENA_MAX, arenas.max(4)) };
    }
}

/// Gives the system back the pages that were freed, without a word on how much is kept later: for after many small things were let go of,
/// whose places what follows would fill here and there.
#[allow(unsafe_code)]
pub fn release() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    // SAFETY: it takes a number, and gives back pages that nothing uses.
    unsafe {
        libc::malloc_trim(0);
    }
}

/// More than what is freed without a look at the end of an arena, less than what is mapped by itself, in bytes.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
const TOUCHED: usize = 96 << 10;

/// Gives the system back what was freed and the allocator still holds. glibc keeps up to twice its largest buffer at the end of each
/// thread's arena, 64 MiB on each core after a large tensor, and `malloc_trim` leaves that where it is; a thread gives it back when it
/// frees something while less is to be kept.
#[allow(unsafe_code)]
pub fn trim() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        let set = |parameter, bytes| {
            // SAFETY: it takes two numbers, and changes how much is kept and nothing that is allocated.
            unsafe { libc::mallopt(parameter, bytes) };
        };
        let touch = || drop(std::hint::black_box(vec![0u8; TOUCHED]));
        set(libc::M_TRIM_THRESHOLD, 128 << 10);
        touch();
        rayon::broadcast(|_| touch());
        // SAFETY: it takes a number, and gives back pages that nothing uses.
        unsafe { libc::malloc_trim(0) };
        // What glibc would have come to by itself: whoever goes on finds its buffers in memory again.
        set(libc::M_TRIM_THRESHOLD, 64 << 20);
        set(libc::M_MMAP_THRESHOLD, 32 << 20);
    }
}

/// What this process may take in all, in bytes, by what the machine and its control group have left; `None` where neither says.
pub fn available() -> Option<u64> {
    #[allow(clippy::disallowed_methods)]
    let read = |path: &str| std::fs::read_to_string(path).ok();
    let free = read("/proc/meminfo").and_then(|text| {
        let line = text.lines().find(|l| l.starts_with("MemAvailable:"))?;
        let kib: u64 = line.split_whitespace().nth(1)?.parse().ok()?;
        Some(kib * 1024)
    });
    // Version 2 of control groups, then version 1; in a container the root is its own.
    let group = [
        ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
        (
            "/sys/fs/cgroup/memory/memory.limit_in_bytes",
            "/sys/fs/cgroup/memory/memory.usage_in_bytes",
        ),
    ]
    .into_iter()
    .find_map(|(most, used)| {
        let most: u64 = read(most)?.trim().parse().ok()?;
        // What the group has cached of files can be had back, so only half of its use is believed.
        let used: u64 = read(used)?.trim().parse().ok()?;
        Some(most.saturating_sub(used / 2))
    });
    free.into_iter().chain(group).min()
}

fn add(bytes: usize) -> bool {
    let before = USED.fetch_add(bytes, Ordering::Relaxed);
    if before
        .checked_add(bytes)
        .is_some_and(|n| n <= LIMIT.load(Ordering::Relaxed))
    {
        return true;
    }
    USED.fetch_sub(bytes, Ordering::Relaxed);
    false
}

/// Text of a fixed length, because there may be no memory for another.
struct Text {
    bytes: [u8; 256],
    length: usize,
}

impl std::fmt::Write for Text {
    fn write_str(&mut self, s: &str) -> std::fmt::Result {
        let room = &mut self.bytes[self.length..];
        let n = s.len().min(room.len());
        room[..n].copy_from_slice(&s.as_bytes()[..n]);
        self.length += n;
        Ok(())
    }
}

#[cold]
fn end(asked: usize) {
    let mut text = Text {
        bytes: [0; 256],
        length: 0,
    };
    let mib = |bytes: usize| bytes.div_ceil(1 << 20);
    let _ = write!(
        text,
        "not enough memory: {} MiB are needed for one tensor, {} MiB are in use, and the limit is {} MiB",
        mib(asked),
        mib(USED.load(Ordering::Relaxed)),
        mib(LIMIT.load(Ordering::Relaxed))
    );
    if let (Some(end), Ok(said)) = (
        AT_END.get(),
        std::str::from_utf8(&text.bytes[..text.length]),
    ) {
        end(said);
    }
}

fn counted(size: usize) -> usize {
    if size >= COUNTED { size } else { 0 }
}

/// Asks for large pages in the whole pages of `size` bytes at `p`, which nobody has touched yet.
#[allow(unsafe_code)]
fn page(p: *mut u8, size: usize) {
    #[cfg(target_os = "linux")]
    if size >= PAGED && !p.is_null() {
        /// Bytes of a large page, of x86-64 and of arm64 with pages of 4 KiB. Of another size the advice does nothing.
        const LARGE: usize = 2 << 20;
        let skipped = p.addr().next_multiple_of(LARGE) - p.addr();
        let length = (size - skipped) / LARGE * LARGE;
        // SAFETY: the pages lie within what was just allocated, and how large they are changes nothing that they hold. Where the system
        // knows no such advice, it says so and nothing happens.
        unsafe { libc::madvise(p.add(skipped).cast(), length, libc::MADV_HUGEPAGE) };
    }
    #[cfg(not(target_os = "linux"))]
    let _ = (p, size);
}

#[allow(unsafe_code)]
// SAFETY: every call is passed on to the system's allocator as it came, or nothing is allocated and null is returned, which the
// contract of the trait allows. What is counted is only a number.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let size = counted(layout.size());
        if size > 0 && !add(size) {
            end(size);
            return std::ptr::null_mut();
        }
        let p = unsafe { System.alloc(layout) };
        if p.is_null() {
            end(layout.size());
        }
        page(p, layout.size());
        p
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        let size = counted(layout.size());
        if size > 0 && !add(size) {
            end(size);
            return std::ptr::null_mut();
        }
        let p = unsafe { System.alloc_zeroed(layout) };
        if p.is_null() {
            end(layout.size());
        }
        page(p, layout.size());
        p
    }

    unsafe fn dealloc(&self, p: *mut u8, layout: Layout) {
        unsafe { System.dealloc(p, layout) };
        let size = counted(layout.size());
        if size > 0 {
            give_back(size);
        }
    }

    unsafe fn realloc(&self, p: *mut u8, layout: Layout, new: usize) -> *mut u8 {
        let (old, size) = (counted(layout.size()), counted(new));
        if size > old && !add(size - old) {
            end(new);
            return std::ptr::null_mut();
        }
        let moved = unsafe { System.realloc(p, layout, new) };
        if moved.is_null() {
            end(new);
        } else if size < old {
            give_back(old - size);
        }
        moved
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_available_is_some_of_what_there_is() {
        if let Some(bytes) = available() {
            assert!(bytes > 1 << 20, "{bytes}");
        }
    }

    /// In a process of its own, because the memory of this one changes with every other test.
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    #[test]
    fn what_threads_freed_is_trimmed() {
        const ALONE: &str = "TRIMS_ALONE";
        let anonymous = || -> usize {
            let text = std::fs::read_to_string("/proc/self/status").unwrap();
            let line = text.lines().find(|l| l.starts_with("RssAnon:")).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        if std::env::var_os(ALONE).is_some() {
            let fill = |mib: usize| std::hint::black_box(vec![1u8; mib << 20]);
            rayon::broadcast(|_| {
                drop(fill(30));
                for _ in 0..4 {
                    drop([fill(12), fill(12), fill(12)]);
                }
            });
            let before = anonymous();
            trim();
            let said = format!("kept {before} {} KiB\n", anonymous());
            std::io::Write::write_all(&mut std::io::stdout(), said.as_bytes()).unwrap();
            return;
        }
        let name = "memory::tests::what_threads_freed_is_trimmed";
        let alone = std::process::Command::new(std::env::current_exe().unwrap())
            .args([name, "--exact", "--nocapture"])
            .env(ALONE, "1")
            .env("RAYON_NUM_THREADS", "4")
            .output()
            .unwrap();
        let said = String::from_utf8(alone.stdout).unwrap();
        let (_, kept) = said.split_once("kept ").expect(&said);
        let mut kept = kept.split(' ').map(|n| n.parse::<usize>().unwrap_or(0));
        let (before, after) = (kept.next().unwrap(), kept.next().unwrap());
        assert!(
            before > 60 << 10 && after < 20 << 10,
            "{before} {after} KiB"
        );
    }

    #[allow(unsafe_code)]
    #[cfg(target_os = "linux")]
    #[test]
    fn large_allocations_ask_for_large_pages() {
        if !std::path::Path::new("/sys/kernel/mm/transparent_hugepage").exists() {
            return;
        }
        // Whether the system was asked, by the mapping that holds the middle of an allocation.
        let asked = |bytes: usize| {
            let layout = Layout::from_size_align(bytes, 8).unwrap();
            // SAFETY: the size is not zero, and the allocation is given back with the layout that it was made of.
            let held = unsafe { Counting.alloc(layout) };
            let middle = held.addr() + bytes / 2;
            let maps = std::fs::read_to_string("/proc/self/smaps").unwrap();
            let mut found = false;
            let line = maps.lines().find(|line| {
                let range = line.split(' ').next().and_then(|r| r.split_once('-'));
                let ends = range.and_then(|(from, to)| {
                    let hex = |s| usize::from_str_radix(s, 16).ok();
                    Some(hex(from)?..hex(to)?)
                });
                found = ends.map_or(found, |ends| ends.contains(&middle));
                found && line.starts_with("VmFlags:")
            });
            let asked = line.unwrap().split(' ').any(|flag| flag == "hg");
            // SAFETY: as above.
            unsafe { Counting.dealloc(held, layout) };
            asked
        };
        assert!(asked(64 << 20));
        assert!(!asked(PAGED / 2));
    }

    #[test]
    fn what_is_taken_is_given_back() {
        // Nothing limits a test process, but a sum that overflows is beyond any limit.
        take(1 << 20).unwrap();
        assert!(take(usize::MAX).is_err());
        give_back(1 << 20);
    }
}
