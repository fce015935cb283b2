//! The system calls that std has no word for, each as a function with safe arguments. Nothing here decides anything.
#![expect(unsafe_code, reason = "this module is the one place that calls libc outside a forked child")]

use std::ffi::CString;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;
use std::time::Duration;

fn check(result: libc::c_int) -> io::Result<libc::c_int> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(result) }
}

/// Makes this process not dumpable: its `/proc` entries (environment, memory, descriptors) are closed to processes of the
/// same user, and it cannot be traced by them. Forked children keep that until they execute a program.
pub fn set_not_dumpable() -> io::Result<()> {
    // SAFETY: PR_SET_DUMPABLE takes integers only.
    check(unsafe { libc::prctl(libc::PR_SET_DUMPABLE, 0, 0, 0, 0) }).map(drop)
}

/// Makes orphaned descendants children of this process, as they are anyway for PID 1.
pub fn become_subreaper() -> io::Result<()> {
    // SAFETY: PR_SET_CHILD_SUBREAPER takes integers only.
    check(unsafe { libc::prctl(libc::PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) }).map(drop)
}

/// Sets the mask of permission bits that new files lose, so that it does not depend on who started the server.
pub fn set_umask(mask: libc::mode_t) {
    // SAFETY: umask takes an integer and cannot fail.
    unsafe { libc::umask(mask) };
}

/// Marks every descriptor above standard error close-on-exec, whatever we were started with.
pub fn close_all_on_exec() -> io::Result<()> {
    // SAFETY: close_range takes integers; with CLOSE_RANGE_CLOEXEC it closes nothing now.
    let result =
        unsafe { libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    if result == 0 {
        return Ok(());
    }
    let descriptors: Vec<RawFd> = std::fs::read_dir("/proc/self/fd")?
        .filter_map(|entry| entry.ok()?.file_name().to_str()?.parse().ok())
        .filter(|&descriptor| descriptor > 2)
        .collect();
    for descriptor in descriptors {
        // SAFETY: fcntl with F_SETFD takes integers; a descriptor closed meanwhile gives EBADF.
        unsafe { libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC) };
    }
    Ok(())
}

/// Takes over a descriptor that the parent passed by number.
pub fn inherited(descriptor: RawFd) -> io::Result<OwnedFd> {
    // SAFETY: F_GETFD only asks whether the descriptor is open.
    check(unsafe { libc::fcntl(descriptor, libc::F_GETFD) })?;
    // SAFETY: it is open, and the command line gives it to us alone; each flag is read once.
    Ok(unsafe { OwnedFd::from_raw_fd(descriptor) })
}

/// Makes reads and writes of `descriptor` return at once.
pub fn set_nonblocking(descriptor: BorrowedFd<'_>) -> io::Result<()> {
    let raw = descriptor.as_raw_fd();
    // SAFETY: the descriptor is borrowed, so it is open; the commands take integers.
    let flags = check(unsafe { libc::fcntl(raw, libc::F_GETFL) })?;
    // SAFETY: as above.
    check(unsafe { libc::fcntl(raw, libc::F_SETFL, flags | libc::O_NONBLOCK) }).map(drop)
}

/// Bytes that wait in a pipe.
pub fn pending_bytes(descriptor: BorrowedFd<'_>) -> io::Result<usize> {
    let mut count: libc::c_int = 0;
    // SAFETY: FIONREAD writes one int, to which we pass a valid pointer.
    check(unsafe { libc::ioctl(descriptor.as_raw_fd(), libc::FIONREAD, &raw mut count) })?;
    Ok(usize::try_from(count).unwrap_or(0))
}

/// Waits until one of `readable` can be read or one of `writable` written, or until `patience` is over.
pub fn wait_ready(
    readable: &[BorrowedFd<'_>],
    writable: &[BorrowedFd<'_>],
    patience: Duration,
) -> io::Result<()> {
    let entry =
        |descriptor: &BorrowedFd<'_>, events| libc::pollfd { fd: descriptor.as_raw_fd(), events, revents: 0 };
    let mut entries: Vec<libc::pollfd> = readable.iter().map(|fd| entry(fd, libc::POLLIN)).collect();
    entries.extend(writable.iter().map(|fd| entry(fd, libc::POLLOUT)));
    let count = libc::nfds_t::try_from(entries.len()).unwrap_or(0);
    let milliseconds = libc::c_int::try_from(patience.as_millis()).unwrap_or(libc::c_int::MAX);
    // SAFETY: the array has `count` valid entries and lives through the call.
    match check(unsafe { libc::poll(entries.as_mut_ptr(), count, milliseconds) }) {
        Err(error) if error.kind() != io::ErrorKind::Interrupted => Err(error),
        _ => Ok(()),
    }
}

/// Sends `signal` to one process, or to its group where `pid` is negative; -1 is every process but this one and PID 1.
/// A process that is gone is no error.
pub fn signal(pid: libc::pid_t, signal: libc::c_int) {
    // SAFETY: kill takes integers.
    unsafe { libc::kill(pid, signal) };
}

/// Collects the zombie `pid`, if it is one of our children.
pub fn reap(pid: libc::pid_t) {
    let mut status = 0;
    // SAFETY: waitpid writes one int, to which we pass a valid pointer.
    unsafe { libc::waitpid(pid, &raw mut status, libc::WNOHANG) };
}

fn sigterm_set() -> libc::sigset_t {
    // SAFETY: sigset_t is plain data; sigemptyset initialises it.
    let mut set: libc::sigset_t = unsafe { std::mem::zeroed() };
    // SAFETY: valid pointer to the local set.
    unsafe { libc::sigemptyset(&raw mut set) };
    // SAFETY: as above.
    unsafe { libc::sigaddset(&raw mut set, libc::SIGTERM) };
    set
}

/// Blocks SIGTERM in this thread and those it will start, so that [`wait_for_sigterm`] alone receives it. Children are not
/// affected: std resets the mask before it executes a program.
pub fn block_sigterm() -> io::Result<()> {
    let set = sigterm_set();
    // SAFETY: valid pointer to an initialised set; the old mask is not asked for.
    let result = unsafe { libc::pthread_sigmask(libc::SIG_BLOCK, &raw const set, std::ptr::null_mut()) };
    if result == 0 { Ok(()) } else { Err(io::Error::from_raw_os_error(result)) }
}

/// Waits for a SIGTERM and tells whether it came from outside this PID namespace. Task code has our user and could send
/// one; the kernel reports its PID then, and 0 for a sender that has none here. `SI_USER` cannot be forged.
pub fn wait_for_sigterm() -> io::Result<bool> {
    let set = sigterm_set();
    // SAFETY: siginfo_t is plain data that the call fills.
    let mut info: libc::siginfo_t = unsafe { std::mem::zeroed() };
    // SAFETY: valid pointers to an initialised set and to `info`.
    check(unsafe { libc::sigwaitinfo(&raw const set, &raw mut info) })?;
    let is_kernel = info.si_code == libc::SI_KERNEL;
    // SAFETY: si_pid is defined for the SI_USER of a SIGTERM.
    let is_from_outside = info.si_code == libc::SI_USER && unsafe { info.si_pid() } == 0;
    Ok(is_kernel || is_from_outside)
}

/// How full a file system is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Space {
    /// Bytes that can still be written.
    pub available_bytes: u64,
    /// Files, directories and links that exist.
    pub used_inodes: u64,
}

/// How full the file system of `path` is, or `None` where it does not say.
pub fn space(path: &Path) -> Option<Space> {
    let path = CString::new(path.as_os_str().as_bytes()).ok()?;
    // SAFETY: statvfs is plain data that the call fills.
    let mut space: libc::statvfs = unsafe { std::mem::zeroed() };
    // SAFETY: a NUL-terminated path and a valid pointer.
    check(unsafe { libc::statvfs(path.as_ptr(), &raw mut space) }).ok()?;
    Some(Space {
        available_bytes: space.f_bavail.checked_mul(space.f_frsize)?,
        used_inodes: space.f_files.saturating_sub(space.f_ffree),
    })
}

/// Bytes of a memory page.
pub fn page_bytes() -> u64 {
    // SAFETY: sysconf takes an integer.
    u64::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}
