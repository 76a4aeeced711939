//! Kills a process before a chosen step of changing names: a debugger's view of it, since such a step takes microseconds.
#![allow(unsafe_code)]

use std::io;
use std::os::unix::process::CommandExt;
use std::process::Command;

/// Runs `command` and kills it before its `nth` rename or removal of a file, counted from 1 over all its threads. Whether it was
/// killed; false when it ended before.
pub fn killed_before(nth: usize, command: &mut Command) -> io::Result<bool> {
    // SAFETY: only a system call is made between fork and exec.
    unsafe {
        command.pre_exec(|| check(libc::ptrace(libc::PTRACE_TRACEME, 0, 0, 0)).map(drop));
    }
    let child = command.spawn()?;
    let process = child.id() as i32;
    let mut seen = 0;
    let (first, _) = wait(process)?;
    let options = libc::PTRACE_O_TRACECLONE | libc::PTRACE_O_TRACESYSGOOD | libc::PTRACE_O_EXITKILL;
    // SAFETY: `first` is stopped and traced by this thread, here and below.
    check(unsafe { libc::ptrace(libc::PTRACE_SETOPTIONS, first, 0, options) })?;
    resume(first, 0)?;
    loop {
        // Any thread of it.
        let (thread, status) = wait(-1)?;
        if libc::WIFEXITED(status) || libc::WIFSIGNALED(status) {
            if thread == process {
                return Ok(libc::WIFSIGNALED(status));
            }
            continue;
        }
        let signal = libc::WSTOPSIG(status);
        let at_call = signal == libc::SIGTRAP | 0x80;
        if at_call && changes_names(thread)? {
            seen += 1;
            if seen == nth {
                // SAFETY: a signal to a child that was not waited for yet.
                check(i64::from(unsafe { libc::kill(process, libc::SIGKILL) }))?;
                continue;
            }
        }
        let own = at_call || signal == libc::SIGTRAP || signal == libc::SIGSTOP;
        match resume(thread, if own { 0 } else { signal }) {
            // It died meanwhile, which the next wait tells.
            Err(e) if e.raw_os_error() == Some(libc::ESRCH) => {}
            other => other?,
        }
    }
}

fn check(result: i64) -> io::Result<i64> {
    if result < 0 {
        Err(io::Error::last_os_error())
    } else {
        Ok(result)
    }
}

/// Waits for a change of a tracee of this thread: other threads of this process have children of their own.
fn wait(which: i32) -> io::Result<(i32, i32)> {
    let mut status = 0;
    // SAFETY: `status` lives through the call.
    let found = unsafe { libc::waitpid(which, &raw mut status, libc::__WALL | libc::__WNOTHREAD) };
    Ok((check(i64::from(found))? as i32, status))
}

fn resume(thread: i32, signal: i32) -> io::Result<()> {
    // SAFETY: `thread` is stopped and traced by this thread.
    check(unsafe { libc::ptrace(libc::PTRACE_SYSCALL, thread, 0, signal) }).map(drop)
}

/// Whether a thread is about to rename or to remove a file.
fn changes_names(thread: i32) -> io::Result<bool> {
    // SAFETY: numbers only, for which zero is a value; the kernel fills what it knows.
    let mut info: libc::ptrace_syscall_info = unsafe { std::mem::zeroed() };
    let size = size_of_val(&info);
    // SAFETY: `info` is as long as said.
    check(unsafe { libc::ptrace(libc::PTRACE_GET_SYSCALL_INFO, thread, size, &raw mut info) })?;
    if info.op != libc::PTRACE_SYSCALL_INFO_ENTRY {
        return Ok(false);
    }
    // SAFETY: the member that an entry has.
    let number = unsafe { info.u.entry.nr } as i64;
    #[cfg(target_arch = "x86_64")]
    let old = [libc::SYS_rename, libc::SYS_unlink];
    #[cfg(not(target_arch = "x86_64"))]
    let old: [i64; 0] = [];
    let calls = [libc::SYS_renameat, libc::SYS_renameat2, libc::SYS_unlinkat];
    Ok(calls.contains(&number) || old.contains(&number))
}
