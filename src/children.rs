//! Processes that this one starts and waits for. None of them outlives it: a signal that ends this process ends the one that runs.

use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};
use std::io::{self, Read};
use std::os::unix::process::CommandExt;
use std::process::{Command, ExitStatus};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The one that runs, leader of a process group of its own.
static RUNNING: Mutex<Option<Pid>> = Mutex::new(None);

/// How long one may take to end after a signal, in steps of [`STEP`].
const PATIENCE: Duration = Duration::from_secs(5);
const STEP: Duration = Duration::from_millis(5);

fn running() -> MutexGuard<'static, Option<Pid>> {
    RUNNING.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Starts a command and waits for its end. Returns what it wrote to stdout, where that is a pipe.
///
/// It has a process group of its own, so that a key pressed at the terminal reaches it once, through [`end`], and with it whatever it
/// started itself.
///
/// # Errors
/// When it cannot be started or waited for.
pub fn finish(command: &mut Command) -> io::Result<(ExitStatus, Vec<u8>)> {
    let mut child = {
        let mut running = running();
        let child = command.process_group(0).spawn()?;
        *running = Pid::from_raw(i32::try_from(child.id()).unwrap_or_default());
        child
    };
    let mut printed = Vec::new();
    if let Some(mut stdout) = child.stdout.take() {
        stdout.read_to_end(&mut printed)?;
    }
    // Its number is free for another process once it was waited for, so it is forgotten before.
    if let Some(pid) = Pid::from_raw(i32::try_from(child.id()).unwrap_or_default()) {
        let still_there = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT;
        while let Err(rustix::io::Errno::INTR) = waitid(WaitId::Pid(pid), still_there) {}
    }
    let mut running = running();
    *running = None;
    Ok((child.wait()?, printed))
}

/// Passes a signal on to the process that runs and waits for its end; nothing is started any more. To be called by a process that is
/// about to end.
pub fn end(signal: i32) {
    let running = running();
    if let (Some(pid), Some(signal)) = (*running, Signal::from_named_raw(signal)) {
        let _ = kill_process_group(pid, signal);
        let still_there = WaitIdOptions::EXITED | WaitIdOptions::NOWAIT | WaitIdOptions::NOHANG;
        let mut waited = Duration::ZERO;
        while matches!(waitid(WaitId::Pid(pid), still_there), Ok(None)) {
            if waited >= PATIENCE {
                let _ = kill_process_group(pid, Signal::KILL);
                break;
            }
            std::thread::sleep(STEP);
            waited += STEP;
        }
    }
    // Nobody may begin again.
    std::mem::forget(running);
}
